package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/config"
)

// reloaded is what came of a reload.
type reloaded struct {
	Applied []string  `json:"applied"` // keys
	Refused []refused `json:"refused"`
}

// refused is a key that was changed and is not what it says now.
type refused struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// reloader applies a configuration that was changed. Calls may be concurrent.
type reloader struct {
	i    *instance
	load func() (*config.Config, error) // nil: there is nothing to read again

	mu  sync.Mutex     // one at a time
	now *config.Config // in effect; what it points to never changes
	// were are the routes that were in effect before those of now, each once: a sink that
	// answered reads of a collection by any of them has what nobody else need have.
	were [][]config.Route
}

// routesMax bounds the routes that are remembered.
const routesMax = 256

var errNoReload = errors.New("this server was started without a configuration to read again")

// reload reads the configuration again, applies what can change while walproxy runs,
// and says of the rest why not. Of a configuration that is wrong nothing is applied.
func (r *reloader) reload() (out reloaded, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load == nil {
		return out, errNoReload
	}
	r.i.around.notifier.Reloading()
	defer r.i.around.notifier.Ready(readyStatus)
	next, err := r.load()
	if err != nil {
		return out, err
	}
	plan := r.plan(next)
	if err := r.tune(plan); err != nil {
		plan.refuseAll("nothing of it was applied: " + err.Error())
	}
	out.Refused = plan.refused
	var sections []string // whose files may be others
	for _, key := range plan.keys {
		if section, ok := strings.CutSuffix(key, ".tls"); ok {
			sections = append(sections, section)
		} else {
			out.Applied = append(out.Applied, key)
		}
	}
	r.certificates(next, sections, &out)
	r.take(next, out.Applied)
	slices.Sort(out.Applied)
	slices.SortFunc(out.Refused, func(a, b refused) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// certificates are read again in any case: they may have been renewed.
func (r *reloader) certificates(next *config.Config, changed []string, out *reloaded) {
	names := endpointTLS(next)
	for section, server := range r.i.certificates {
		c, ok := names[section]
		if !ok || c.Cert == "" || !slices.Contains(changed, section) && slices.ContainsFunc(out.Refused, func(f refused) bool { return f.Key == section+".tls" }) {
			continue
		}
		if err := server.Reload(filesOf(c)); err != nil {
			out.Refused = append(out.Refused, refused{section + ".tls", "those from before are served on: " + err.Error()})
			continue
		}
		out.Applied = append(out.Applied, section+".tls")
	}
}

// take makes what can change now what next says, of the keys that are applied.
func (r *reloader) take(next *config.Config, applied []string) {
	if now, err := config.Merged(r.now, next, applied); err == nil { // planned
		if slices.Contains(applied, "routes") && !r.known(r.now.Routes) {
			r.were = append(r.were, r.now.Routes)
		}
		r.now = now
	}
	now := r.now
	r.i.apiAccess.Set(now.APIAccess())
	policy := now.AdminAccess()
	if !authenticated(policy) { // before anybody else is let in
		r.i.adminHandler.SetAuthenticated(false)
	}
	r.i.adminAccess.Set(policy)
	r.i.adminHandler.SetAuthenticated(authenticated(policy))
	r.i.rest.SetLimits(rpc.Limits{MaxItemBytes: int64(now.API.MaxItemBytes), MaxBodyBytes: int64(now.API.MaxBodyBytes),
		MaxInFlightBytes: int64(now.API.MaxInFlightBytes)})
	r.i.apiServer.SetMaxConnections(now.API.MaxConnections)
	r.i.adminServer.SetMaxConnections(now.Admin.MaxConnections)
	if r.i.aerowire != nil {
		r.i.aerowire.SetMaxConnections(now.AeroWire.MaxConnections)
	}
	if r.i.pgwire != nil {
		r.i.pgwire.SetLimits(now.PGWire.MaxConnections, now.PGWire.MaxUserConnections, now.PGWire.MaxDatabaseConnections)
	}
	r.i.logs.sampler.Set(sampling(now.Logging.Sampling))
	if slices.Contains(applied, "logging.level") { // else one of `walproxy log-level` stays
		r.i.logs.set(now.Logging.Level)
	}
}

// serve answers POST /reload.
func (r *reloader) serve(w http.ResponseWriter, _ *http.Request) {
	var answer any
	status := http.StatusOK
	out, err := r.reload()
	if answer = out; err != nil {
		status = http.StatusBadRequest
		answer = rpc.Error{Status: status, Code: "invalid_configuration", Message: "nothing was applied:\n" + err.Error()}
	}
	r.say(out, err)
	replyJSON(w, status, answer)
}

// say logs what came of a reload.
func (r *reloader) say(out reloaded, err error) {
	if err != nil {
		r.i.logger.Warn("the configuration was not reloaded: nothing was applied", zap.Error(err))
		return
	}
	r.i.logger.Info("configuration reloaded", zap.Strings("applied", out.Applied), zap.Any("refused", out.Refused))
}

// onHangup has r read its configuration with load, at each SIGHUP too, until what it
// returns is called, which joins it.
func (r *reloader) onHangup(load func() (*config.Config, error)) (stop func()) {
	r.mu.Lock()
	r.load = load
	r.mu.Unlock()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	var joined sync.WaitGroup
	joined.Go(func() {
		for {
			select {
			case <-signals:
				r.say(r.reload())
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		cancel()
		joined.Wait()
	}
}

func newReload() *cobra.Command {
	var flags placeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a running server read its configuration again",
		Long: "reload has the server of a data directory read its configuration file again, as SIGHUP does, and\n" +
			"prints what it applied, what it refused and why. docs/configuration.md says of each key whether it\n" +
			"can change while walproxy runs: tokens, certificates, limits, the log's level, routes, a sink's lanes\n" +
			"and batches. A sink changes whole or not at all. Of a configuration that is wrong nothing is applied.\n" +
			"The environment is the one that the server was started with.",
		Example: "  walproxy reload --data-dir /var/lib/walproxy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := flags.running(cmd)
			if err != nil {
				return err
			}
			var out reloaded
			if err := server.callAdmin(cmd.Context(), http.MethodPost, "/reload", struct{}{}, &out); err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(out)
			} else {
				err = out.print(cmd)
			}
			if err == nil && len(out.Refused) > 0 {
				err = exitWith(exitRemaining, errors.New("some changes were refused"))
			}
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	exits(cmd, map[int]string{
		exitOK:        "everything that was changed is applied, or nothing was",
		exitUsage:     "wrong usage, or the server's configuration is wrong: nothing was applied",
		exitRemaining: "some changes were refused; the others are applied",
	})
	return cmd
}

func (out reloaded) print(cmd *cobra.Command) error {
	var b strings.Builder
	for _, key := range out.Applied {
		fmt.Fprintf(&b, "applied: %s\n", key)
	}
	for _, f := range out.Refused {
		fmt.Fprintf(&b, "refused: %s: %s\n", f.Key, f.Reason)
	}
	if b.Len() == 0 {
		b.WriteString("nothing was changed\n")
	}
	_, err := cmd.OutOrStdout().Write([]byte(b.String()))
	return err
}
