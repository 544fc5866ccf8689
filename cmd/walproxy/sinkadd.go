package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/wal"
)

// addAnswer is what --json prints.
type addAnswer struct {
	Sink  string `json:"sink"`
	Added bool   `json:"added"` // false: it was known already
	// After: what is above this LSN, and routed to the sink, it gets.
	After walproxy.LSN `json:"after"`
	// With --from oldest: what the log still had for it.
	First       walproxy.LSN      `json:"first,omitempty"`
	Last        walproxy.LSN      `json:"last,omitempty"`
	Records     uint64            `json:"records"`
	Bytes       uint64            `json:"bytes"`
	Collections map[string]uint64 `json:"collections,omitempty"`
	Retries     uint64            `json:"retries,omitempty"`
	Lost        uint64            `json:"lost,omitempty"`
}

func newSinkAdd() *cobra.Command {
	var flags placeFlags
	var from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a sink that is new in the configuration known, from now on or from the oldest record kept",
		Long: "add is run between two runs of the server, after the sink was put into the configuration.\n\n" +
			"Where a write goes is fixed when it is acknowledged, so a new sink gets what is written from then\n" +
			"on: --from now, which is what a start does by itself. With --from oldest it gets, before that, what\n" +
			"the log still has: every record with a write to a collection that the configured routes send to it,\n" +
			"in order, once. They are copied into the state store now, within log.max_bytes. What the log has\n" +
			"freed is not there: if the store needs it, load it from elsewhere first.",
		Example: "  walproxy sink add archive --from oldest --config walproxy.yaml\n" +
			"  walproxy sink add archive --from now --config walproxy.yaml",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSink(&flags.configFlags),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.stopped(cmd)
			if err != nil {
				return err
			}
			if from != "oldest" && from != "now" {
				return exitWith(exitUsage, fmt.Errorf("say --from oldest or --from now: what the sink is to begin with (--from is %q)", from))
			}
			answer, err := addSink(cmd.Context(), p, args[0], from == "oldest")
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, answer)
			}
			tellAdded(cmd, answer, from == "oldest")
			return nil
		},
	}
	flags.registerStopped(cmd)
	cmd.Flags().StringVar(&from, "from", "", "begin with `oldest` or now")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

func addSink(ctx context.Context, p *place, name string, oldest bool) (answer addAnswer, err error) {
	if _, ok := p.config.Sinks[name]; !ok {
		return answer, exitWith(exitUsage, fmt.Errorf("sink %q is not in the configuration (%s): put it there first, with the routes that it is to have",
			name, slices.Sorted(maps.Keys(p.config.Sinks))))
	}
	i := &instance{config: p.config, logger: zap.NewNop()}
	added, err := walproxy.AddSink(ctx, i.options(), name, oldest)
	var known *walproxy.SinkKnownError
	switch {
	case errors.As(err, &known) && !oldest:
		return addAnswer{Sink: name, After: known.From}, nil
	case errors.As(err, &known):
		return answer, exitWith(exitUsage, fmt.Errorf("%w, so it cannot begin anew: empty its store, then `walproxy sink forget %s`, then add it again", err, name))
	case errors.Is(err, wal.ErrFull):
		return answer, exitWith(exitUsage, fmt.Errorf("nothing was changed: %w", err))
	case err != nil:
		return answer, exitWith(exitStart, err)
	}
	answer = addAnswer{Sink: name, Added: true, After: added.From}
	if k := added.Kept; k != nil {
		answer.First, answer.Last, answer.Records, answer.Bytes = k.First, k.Last, k.Records, k.Bytes
		answer.Collections, answer.Retries, answer.Lost = k.Collections, k.Retries, k.Lost
	}
	return answer, nil
}

func tellAdded(cmd *cobra.Command, a addAnswer, oldest bool) {
	out := cmd.OutOrStdout()
	switch {
	case !a.Added:
		fmt.Fprintf(out, "sink %s is known already, with what is above LSN %d; nothing was changed\n", a.Sink, a.After)
		return
	case !oldest || a.Records == 0 && a.First > a.Last:
		fmt.Fprintf(out, "sink %s is added: it gets what is written from now on, above LSN %d\n", a.Sink, a.After)
	default:
		fmt.Fprintf(out, "the log has LSN %d to %d\n", a.First, a.Last)
		for _, name := range slices.Sorted(maps.Keys(a.Collections)) {
			fmt.Fprintf(out, "  %d records of %s go to sink %s\n", a.Collections[name], name, a.Sink)
		}
		if a.Retries > 0 {
			fmt.Fprintf(out, "  %d retries of dead letters do not: what they retry does\n", a.Retries)
		}
		if a.Lost > 0 {
			fmt.Fprintf(out, "  %d records that a repair of the log gave up are missing\n", a.Lost)
		}
		if a.First > 1 {
			fmt.Fprintf(out, "  what was written before LSN %d is not in the log any more: the store needs it from elsewhere\n", a.First)
		}
		fmt.Fprintf(out, "sink %s is added with %d records (%d bytes), and gets what is written from now on\n", a.Sink, a.Records, a.Bytes)
	}
	fmt.Fprintf(out, "next: walproxy serve\n")
}
