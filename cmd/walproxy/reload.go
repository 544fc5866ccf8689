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
}

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
	var certificates []string // sections whose files may be others
	for _, key := range config.Changed(r.now, next) {
		switch reason := r.unfit(key, next); {
		case reason != "":
			out.Refused = append(out.Refused, refused{key, reason})
		case strings.HasSuffix(key, ".tls"):
			certificates = append(certificates, strings.TrimSuffix(key, ".tls"))
		default:
			out.Applied = append(out.Applied, key)
		}
	}
	r.certificates(next, certificates, &out)
	r.take(next, out.Applied)
	slices.Sort(out.Applied)
	return out, nil
}

// live are the keys that can change while walproxy runs.
var live = []string{"api.tokens", "api.hosts", "api.tls", "admin.tokens", "admin.hosts", "admin.tls", "aerowire.tls"}

// unfit is why a key cannot change now; empty: it can.
func (r *reloader) unfit(key string, next *config.Config) string {
	if name, ok := strings.CutPrefix(key, "sinks."); ok {
		name, _, _ = strings.Cut(name, ".")
		return r.sinkReason(name, key, next)
	}
	if !slices.Contains(live, key) {
		return "needs a restart"
	}
	section, ok := strings.CutSuffix(key, ".tls")
	was, is := endpointTLS(r.now)[section], endpointTLS(next)[section]
	if ok && (was.Cert == "") != (is.Cert == "") {
		return "a listener begins or ends to speak TLS at a restart alone"
	}
	if ok && (was.ClientCA == "") != (is.ClientCA == "") {
		return "clients are asked for certificates, or not, from a restart on alone"
	}
	return ""
}

// pointing are the parts of a sink's keys that say which store it is.
var pointing = []string{"type", "path", "dsn", "schema", "hosts", "namespace", "cluster"}

// sinkReason is why a sink cannot change now: where it loses what it has not applied,
// how much that is.
func (r *reloader) sinkReason(name, key string, next *config.Config) string {
	_, was := r.now.Sinks[name]
	_, stays := next.Sinks[name]
	part, _, _ := strings.Cut(strings.TrimPrefix(key, "sinks."+name+"."), ".")
	var what string
	switch {
	case !was:
		return "a new sink is opened at a restart: see `walproxy sink add`"
	case !stays:
		what = "removing the sink"
	case slices.Contains(pointing, part):
		what = "pointing the sink at another store"
	default:
		return "needs a restart"
	}
	for _, s := range r.i.proxy.Status().Sinks {
		if s.Name == name && s.Lag > 0 {
			return fmt.Sprintf("%s would orphan %d records that it has not applied: `walproxy drain` first, then restart", what, s.Lag)
		}
	}
	return what + " needs a restart; every record for it is applied now"
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
	now := *r.now
	for _, key := range applied {
		switch key {
		case "api.tokens":
			now.API.Tokens = next.API.Tokens
		case "api.hosts":
			now.API.Hosts = next.API.Hosts
		case "api.tls":
			now.API.TLS = next.API.TLS
		case "admin.tokens":
			now.Admin.Tokens = next.Admin.Tokens
		case "admin.hosts":
			now.Admin.Hosts = next.Admin.Hosts
		case "admin.tls":
			now.Admin.TLS = next.Admin.TLS
		case "aerowire.tls":
			wire := *now.AeroWire
			wire.TLS = next.AeroWire.TLS
			now.AeroWire = &wire
		}
	}
	r.now = &now
	r.i.apiAccess.Set(now.APIAccess())
	policy := now.AdminAccess()
	if !authenticated(policy) { // before anybody else is let in
		r.i.adminHandler.SetAuthenticated(false)
	}
	r.i.adminAccess.Set(policy)
	r.i.adminHandler.SetAuthenticated(authenticated(policy))
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
			"prints what it applied, what it refused and why. Tokens, hosts and certificates change while it\n" +
			"runs; anything else needs a restart. Of a configuration that is wrong nothing is applied. The\n" +
			"environment is the one that the server was started with.",
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
