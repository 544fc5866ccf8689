package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/replay"
)

// acceptAnswer is what --json prints.
type acceptAnswer struct {
	replay.PlanView
	Accepted bool   `json:"accepted"`
	Server   string `json:"server,omitempty"`
	// What the running server said of the sink afterwards.
	State string `json:"state,omitempty"`
	Error string `json:"error,omitempty"`
}

func newSinkAccept() *cobra.Command {
	var flags placeFlags
	var a accepter
	cmd := &cobra.Command{
		Use:   "accept NAME",
		Short: "Have a sink go on whose store does not fit the log, after showing what that means",
		Long: "accept is for a sink that is refused because its store and the log do not fit: an older copy of one\n" +
			"of them was put back, the checkpoint is gone, it is another log's, another store, or lies below what\n" +
			"the log still has. It shows what was found, and what going on means: which LSNs are never applied,\n" +
			"which are applied again, from where on; and asks. Nothing of the store's data is touched.\n\n" +
			"Where walproxy cannot know up to where the store has this log, --after says it. What is accepted\n" +
			"holds for the store as it was shown: if that changes meanwhile nothing is done.\n\n" +
			"A sink that is fenced has another owner, which must be stopped: nothing can be accepted there.",
		Example: "  walproxy sink accept main --config walproxy.yaml\n" +
			"  walproxy sink accept main --after 1234 --yes --config walproxy.yaml\n" +
			"  walproxy sink accept main --server http://127.0.0.1:7070",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSink(&flags.configFlags),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.find(cmd)
			if err != nil {
				return err
			}
			a.cmd, a.place, a.name = cmd, p, args[0]
			if cmd.Flags().Changed("after") {
				a.after = new(walproxy.LSN)
				*a.after = walproxy.LSN(a.afterFlag)
			}
			if p.server != nil {
				return a.running(cmd.Context())
			}
			return a.stopped(cmd.Context())
		},
	}
	flags.register(cmd)
	cmd.Flags().Uint64Var(&a.afterFlag, "after", 0, "the store has this log up to `LSN`; 0: nothing of it")
	cmd.Flags().BoolVar(&a.yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&a.json, "json", false, "print what was found, and the outcome, as JSON")
	cmd.Flags().DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for the `time` that a running server needs to go on")
	return cmd
}

// accepter is one call of the command.
type accepter struct {
	afterFlag uint64
	yes, json bool
	timeout   time.Duration

	cmd   *cobra.Command
	place *place
	name  string
	after *walproxy.LSN
}

// running has a server do it.
func (a *accepter) running(ctx context.Context) error {
	path := "/v1/sinks/" + url.PathEscape(a.name) + ":accept"
	query := url.Values{}
	if a.after != nil {
		query.Set("after", strconv.FormatUint(uint64(*a.after), 10))
	}
	answer := acceptAnswer{Server: a.place.server.api}
	err := a.place.server.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &answer.PlanView)
	if code := remoteCode(err); code == "nothing_to_accept" {
		return a.nothing(answer, err)
	} else if code != "" {
		return exitWith(exitUsage, err)
	}
	if err != nil {
		return err
	}
	if err := a.agree(answer); err != nil {
		return err
	}
	query.Set("token", answer.Token)
	if err := a.place.server.call(ctx, http.MethodPost, path+"?"+query.Encode(), nil, nil); err != nil {
		return err
	}
	answer.Accepted = true
	if answer.State, answer.Error, err = a.await(ctx); err != nil {
		return err
	}
	return a.done(answer)
}

// remoteCode is the code of a conflict that a server answered with; "": none.
func remoteCode(err error) string {
	var refused *remoteError
	if errors.As(err, &refused) && refused.Answer.Status == http.StatusConflict {
		return refused.Answer.Code
	}
	return ""
}

// await waits until the sink is no longer halted, or says why it is.
func (a *accepter) await(ctx context.Context) (state, why string, err error) {
	deadline := time.Now().Add(a.timeout)
	for {
		var answer struct{ Sinks []liveSink }
		if err := a.place.server.call(ctx, http.MethodGet, "/v1/sinks", nil, &answer); err != nil {
			return "", "", err
		}
		for _, s := range answer.Sinks {
			if s.Name == a.name {
				state, why = s.State, s.Error
			}
		}
		if state != "halted" || time.Now().After(deadline) {
			return state, why, nil
		}
		select {
		case <-ctx.Done():
			return state, why, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stopped does it itself.
func (a *accepter) stopped(ctx context.Context) error {
	i := &instance{config: a.place.config, logger: zap.NewNop(), registry: prometheus.NewRegistry()}
	if _, ok := i.config.Sinks[a.name]; !ok {
		return exitWith(exitUsage, fmt.Errorf("%w: %q is not in the configuration", walproxy.ErrNoSink, a.name))
	}
	sink, err := i.openSink(a.name, i.config.Sinks[a.name])
	if err != nil {
		return exitWith(exitStart, fmt.Errorf("sinks.%s: %w", a.name, err))
	}
	answer := acceptAnswer{}
	o := i.options()
	o.Registerer = nil
	for at := range o.Sinks {
		if o.Sinks[at].Name == a.name {
			o.Sinks[at].Sink = sink
		}
	}
	entry := audit.Entry{Action: "sink accept", Sink: a.name}
	log := audit.New(a.place.dir, nil)
	var end func(error) error
	err = walproxy.Accept(ctx, o, a.name, a.after, func(plan *replay.Plan) error {
		answer.PlanView = plan.View()
		if err := a.agree(answer); err != nil {
			return err
		}
		rpc.DescribeAccept(&entry, plan)
		var err error
		end, err = log.Begin(entry)
		return err
	})
	if end != nil {
		err = end(err)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), frontTimeout)
	defer cancel()
	err = errors.Join(err, sink.Close(closing))
	var coded *exitError
	switch {
	case errors.Is(err, replay.ErrNothingToAccept):
		return a.nothing(answer, err)
	case errors.Is(err, walproxy.ErrAcceptFinished):
		return a.finished(answer)
	case errors.As(err, &coded):
		return exitWith(coded.code, err)
	case errors.Is(err, replay.ErrNotAcceptable), errors.Is(err, replay.ErrAfterUnfit):
		return exitWith(exitUsage, err)
	case err != nil:
		return exitWith(exitFailed, err)
	}
	answer.Accepted = true
	return a.done(answer)
}

// agree shows what it means and has a person, or --yes, say yes.
func (a *accepter) agree(answer acceptAnswer) error {
	if !a.json {
		showPlan(a.cmd.OutOrStdout(), answer.PlanView)
	}
	if answer.AfterNeeded {
		if a.json {
			if err := printJSON(a.cmd, answer); err != nil {
				return err
			}
		}
		return exitWith(exitUsage, fmt.Errorf("nothing was changed: say with --after LSN up to where the store of sink %s has this log", a.name))
	}
	return confirm(a.cmd, a.yes, fmt.Sprintf("Accept this for sink %s?", a.name))
}

func (a *accepter) nothing(answer acceptAnswer, why error) error {
	if a.json {
		answer.Sink = a.name
		return printJSON(a.cmd, answer)
	}
	_, err := fmt.Fprintf(a.cmd.OutOrStdout(), "%v; nothing was changed\n", why)
	return err
}

// finished says that an earlier call's decision was carried out.
func (a *accepter) finished(answer acceptAnswer) error {
	answer.Sink, answer.Accepted = a.name, true
	if a.json {
		return printJSON(a.cmd, answer)
	}
	_, err := fmt.Fprintf(a.cmd.OutOrStdout(), "an earlier `sink accept` was interrupted when it had been agreed to: it is carried out now\n"+
		"sink %s is accepted; next: walproxy serve\n", a.name)
	return err
}

func (a *accepter) done(answer acceptAnswer) error {
	if a.json {
		if err := printJSON(a.cmd, answer); err != nil {
			return err
		}
	} else {
		out := a.cmd.OutOrStdout()
		switch {
		case answer.Server == "":
			fmt.Fprintf(out, "sink %s is accepted; next: walproxy serve\n", a.name)
		case answer.State != "halted":
			fmt.Fprintf(out, "sink %s is accepted, and %s; `walproxy sink ls` tells how far it is\n", a.name, answer.State)
		}
	}
	if answer.State == "halted" {
		return exitWith(exitFailed, fmt.Errorf("sink %s is accepted, and has not gone on yet: %s", a.name, answer.Error))
	}
	return nil
}

func showPlan(out io.Writer, v replay.PlanView) {
	fmt.Fprintf(out, "sink %s is refused: %s\n\n", v.Sink, v.Refusal)
	fmt.Fprintf(out, "the store:  %s\n", orNone(v.Store.Identity))
	if v.Claimed != "" && v.Claimed != v.Store.Identity {
		fmt.Fprintf(out, "  claimed:  %s\n", v.Claimed)
	}
	if v.Store.Missing {
		fmt.Fprintln(out, "  has no checkpoint")
	} else {
		fmt.Fprintf(out, "  stream %s, epoch %d\n", v.Store.Stream, v.Store.Epoch)
		for i, p := range v.Store.Lanes {
			fmt.Fprintf(out, "  lane %d at LSN %d of incarnation %s\n", i, p.LSN, p.Incarnation)
		}
	}
	fmt.Fprintf(out, "the log:    stream %s, LSN %d to %d\n", v.Stream, v.First, v.Last)
	for _, p := range v.Incarnation {
		fmt.Fprintf(out, "  incarnation %s from LSN %d on\n", p.Incarnation, p.LSN)
	}
	fmt.Fprintln(out, "\naccepting means:")
	for _, e := range v.Effects {
		fmt.Fprintf(out, "  - %s\n", e)
	}
}

func orNone(text string) string {
	if text == "" {
		return "does not say which it is"
	}
	return text
}
