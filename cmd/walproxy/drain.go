package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
)

// drainPoll is how often a server that drains is asked how far it is.
const drainPoll = 200 * time.Millisecond

type drainFlags struct {
	placeFlags
	wait, undo, json  bool
	timeout, interval time.Duration
}

// drainAnswer is what --json prints at the end.
type drainAnswer struct {
	Server   string      `json:"server,omitempty"` // empty: no server runs, the files were replayed
	Draining bool        `json:"draining"`
	Level    bool        `json:"level"` // every sink has everything, settled
	LastLSN  uint64      `json:"last_lsn"`
	Sinks    []drainSink `json:"sinks"`
}

type drainSink struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Error       string `json:"error,omitempty"`
	Paused      bool   `json:"paused,omitempty"`
	Lag         uint64 `json:"lag"`
	Unsettled   uint64 `json:"unsettled,omitempty"` // applied, and a restart of the store could take it back
	DeadLetters uint64 `json:"dead_letters"`
}

// serverStatus is what drain reads of GET /v1/status.
type serverStatus struct {
	Draining bool `json:"draining"`
	Log      struct {
		Appended uint64 `json:"appended"`
	} `json:"log"`
	Sinks []drainSink `json:"sinks"`
}

func newDrain() *cobra.Command {
	var flags drainFlags
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Take no more writes, and wait until the stores have everything",
		Long: "drain takes a proxy out of service. A running server refuses new writes from then on (503 draining,\n" +
			"which clients may retry elsewhere) and is not ready for balancers; reads go on, and so do retries of\n" +
			"dead letters. With --wait it returns when every sink has everything that was acknowledged, and no restart of\n" +
			"an Aerospike node could take any of it back (twice cluster.settle after it was applied). The server\n" +
			"keeps running and refuses writes until `walproxy drain --undo`, over restarts too: what --wait has said\n" +
			"stays true.\n\n" +
			"If no server runs for the data directory, the next start refuses writes, and --wait applies what is left,\n" +
			"as `walproxy replay` does.\n" +
			"Dead letters are in no store: while there are any, the directory is not to be thrown away.",
		Example: "  walproxy drain --wait --data-dir /var/lib/walproxy\n" +
			"  walproxy drain --wait --timeout 10m --server http://127.0.0.1:7070 --json\n" +
			"  walproxy drain --undo --data-dir /var/lib/walproxy",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.undo && flags.wait {
				return exitWith(exitUsage, errors.New("--undo takes writes again: it does not go with --wait"))
			}
			p, err := flags.find(cmd)
			if err != nil {
				return err
			}
			if p.server == nil {
				return drainFiles(cmd, p, &flags)
			}
			return drainServer(cmd, p.server, &flags)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&flags.wait, "wait", false, "return when every sink has everything, and it is settled")
	cmd.Flags().BoolVar(&flags.undo, "undo", false, "take writes again")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print the outcome as JSON; without a server: the events of `walproxy replay --json`")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 0, "with --wait give up after this `time`; 0: never")
	cmd.Flags().DurationVar(&flags.interval, "interval", 10*time.Second, "`time` between lines of progress")
	exits(cmd, map[int]string{
		exitOK:          "no more writes are taken (with --wait: and every sink has everything, and there are no dead letters)",
		exitRemaining:   "records are left: interrupted, out of time, or a sink is paused",
		exitStart:       "refused: no data directory, or in use by something else than a server",
		exitDamaged:     "no server runs, and the log is damaged",
		exitDeadLetters: "every sink has everything else, and there are dead letters",
		exitSignal:      "a second signal n ended it at once",
	})
	return cmd
}

// drainFiles applies what a stopped server left.
func drainFiles(cmd *cobra.Command, p *place, f *drainFlags) error {
	before, err := walproxy.SetDraining(p.dir, !f.undo)
	if err != nil {
		return exitOffline(err)
	}
	if !f.wait {
		return drainedFiles(cmd, p, f, before)
	}
	replay := &replayFlags{configFlags: f.configFlags, interval: f.interval, timeout: f.timeout, json: f.json, level: "error"}
	if err := runReplay(cmd, p.config, replay, walproxy.ReplayOptions{Settled: true}); err != nil {
		return err
	}
	known, err := walproxy.KnownSinks(p.dir)
	if err != nil {
		return exitWith(exitFailed, err)
	}
	answer := drainAnswer{Level: true}
	for _, k := range known {
		answer.LastLSN = max(answer.LastLSN, uint64(k.Applied))
		answer.Sinks = append(answer.Sinks, drainSink{Name: k.Name, State: "stopped", DeadLetters: k.DeadLetters})
	}
	return endDrain(cmd, f, answer)
}

// drainedFiles says what became of a directory that no server has open.
func drainedFiles(cmd *cobra.Command, p *place, f *drainFlags, before bool) error {
	if f.json {
		return printJSON(cmd, drainAnswer{Draining: !f.undo, Sinks: []drainSink{}})
	}
	text := "no server runs for %s, and the next one takes no writes; --wait applies what is left\n"
	switch {
	case f.undo && !before:
		text = "no server runs for %s, and it was not being drained: the next one takes writes\n"
	case f.undo:
		text = "no server runs for %s; the next one takes writes again\n"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), text, p.dir)
	return err
}

func drainServer(cmd *cobra.Command, server *remote, f *drainFlags) error {
	method, text := "POST", "takes no more writes"
	if f.undo {
		method, text = "DELETE", "takes writes again"
	}
	tell := func(format string, args ...any) error {
		if f.json {
			return nil
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), format, args...)
		return err
	}
	var now struct{ Draining, Busy bool }
	if err := server.call(cmd.Context(), method, "/v1/drain", nil, &now); err != nil {
		return err
	}
	if err := tell("the server at %s %s\n", server.api, text); err != nil || !f.wait {
		if err == nil && f.json {
			err = printJSON(cmd, drainAnswer{Server: server.api, Draining: now.Draining, Sinks: []drainSink{}})
		}
		return err
	}
	ctx, stop := withSignals(cmd.Context(), zap.NewNop())
	defer stop()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("out of time: --timeout %v", f.timeout))
		defer cancel()
	}
	answer, err := awaitLevel(ctx, server, f.interval, tell)
	if err != nil {
		if f.json {
			err = errors.Join(err, printJSON(cmd, answer))
		}
		return err
	}
	return endDrain(cmd, f, answer)
}

// awaitLevel waits until every sink of a server has everything.
func awaitLevel(ctx context.Context, server *remote, interval time.Duration, tell func(string, ...any) error) (answer drainAnswer, err error) {
	var told time.Time
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for {
		// Again each time: it also waits for writes that were on their way, and holds
		// when somebody restarted the server meanwhile.
		var now struct{ Draining, Busy bool }
		var st serverStatus
		err := server.call(ctx, "POST", "/v1/drain", nil, &now)
		if err == nil {
			err = server.call(ctx, "GET", "/v1/status", nil, &st)
		}
		if ctx.Err() != nil {
			return answer, exitWith(exitRemaining, fmt.Errorf("the server goes on draining; not waited for any longer: %w", context.Cause(ctx)))
		}
		if err != nil {
			return answer, err
		}
		answer = drainAnswer{Server: server.api, Draining: st.Draining, LastLSN: st.Log.Appended, Sinks: st.Sinks, Level: !now.Busy}
		for _, s := range st.Sinks {
			answer.Level = answer.Level && s.Lag == 0 && s.Unsettled == 0
			if s.Paused && s.Lag+s.Unsettled > 0 {
				return answer, exitWith(exitRemaining, fmt.Errorf("sink %s is paused with %d records to go%s: `walproxy sink resume %s`, then drain again", s.Name, s.Lag, s.settling(", and %d LSNs that are not settled"), s.Name))
			}
		}
		if answer.Level {
			return answer, nil
		}
		if time.Since(told) >= interval {
			told = time.Now()
			for _, s := range st.Sinks {
				if err := tell("sink %s: %s, at most %d records to go%s%s\n", s.Name, s.State, s.Lag,
					s.settling("; %d LSNs are applied and not settled, a restart of a node could take them back"), because(s.Error)); err != nil {
					return answer, err
				}
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// settling is format with what is not settled; empty: all is.
func (s *drainSink) settling(format string) string {
	if s.Unsettled == 0 {
		return ""
	}
	return fmt.Sprintf(format, s.Unsettled)
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + oneLine(text)
}

// endDrain says that every sink is level, and what that means.
func endDrain(cmd *cobra.Command, f *drainFlags, a drainAnswer) error {
	var letters []error
	for _, s := range a.Sinks {
		if s.DeadLetters > 0 {
			letters = append(letters, fmt.Errorf("sink %s: %d dead letters are in no store: retry, export or discard them (`walproxy dlq ls --sink %s`) before the directory goes", s.Name, s.DeadLetters, s.Name))
		}
	}
	var err error
	if f.json {
		if a.Server != "" { // a replay has said it in its events
			err = printJSON(cmd, a)
		}
	} else {
		err = tellLevel(cmd.OutOrStdout(), a, len(letters) == 0)
	}
	return errors.Join(err, exitWith(exitDeadLetters, errors.Join(letters...)))
}

func tellLevel(out io.Writer, a drainAnswer, nothingLeft bool) error {
	text := fmt.Sprintf("every sink has everything up to LSN %d\n", a.LastLSN)
	switch {
	case a.Server != "" && nothingLeft:
		text += "the server can be stopped for good (SIGTERM), and its data directory be removed then\n"
	case nothingLeft:
		text += "the data directory can be removed\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
