package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
)

// forgetAnswer is what --json prints: what was given up.
type forgetAnswer struct {
	Sink      string `json:"sink"`
	Forgotten bool   `json:"forgotten"`
	// Records of the log above what is known to be applied, and of those held.
	Records      uint64 `json:"records"`
	RecordsBytes uint64 `json:"records_bytes"`
	Held         uint64 `json:"held"`
	HeldBytes    uint64 `json:"held_bytes"`
	Dead         uint64 `json:"dead"`
	Parked       uint64 `json:"parked"`
	Unreadable   int    `json:"unreadable,omitempty"` // places of the log
}

func newSinkForget() *cobra.Command {
	var flags placeFlags
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "forget NAME",
		Short: "Give up what is kept for a sink: its records in the log and its dead letters",
		Long: "forget gives up, for good, what the data directory keeps for a sink: its claim, its dead letters,\n" +
			"and its records in the log, whose space the next start frees. The store itself is not touched. A sink\n" +
			"of the same name that is added later gets what is written from then on. It says what would be given up\n" +
			"and asks; without a terminal it takes --yes. The server must be stopped. To keep the dead letters,\n" +
			"export them first.",
		Example: "  walproxy sink forget old --data-dir /var/lib/walproxy\n" +
			"  walproxy sink forget old --yes",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSink(&flags.configFlags),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.stopped(cmd)
			if err != nil {
				return err
			}
			return forgetSink(cmd, p.dir, args[0], yes, asJSON)
		},
	}
	flags.registerStopped(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

func forgetSink(cmd *cobra.Command, dir, name string, yes, asJSON bool) error {
	b, err := walproxy.CountSink(cmd.Context(), dir, name)
	if errors.Is(err, walproxy.ErrNoSink) {
		return exitWith(exitUsage, fmt.Errorf("%w in %s: `walproxy sink ls` lists those it knows", err, dir))
	}
	if err != nil {
		return exitWith(exitStart, err)
	}
	answer := forgetAnswer{Sink: name, Records: b.Records, RecordsBytes: b.Bytes, Held: b.HeldRecords, HeldBytes: b.HeldBytes,
		Dead: b.Dead, Parked: b.Parked, Unreadable: b.Unreadable}
	if !asJSON {
		tellForget(cmd, answer)
	}
	if err := confirm(cmd, yes, fmt.Sprintf("Forget sink %s?", name)); err != nil {
		return err
	}
	entry := audit.Entry{Action: "sink forget", Sink: name, Counts: map[string]uint64{
		"records": b.Records, "held": b.HeldRecords, "dead": b.Dead, "parked": b.Parked}}
	if err := audit.New(dir, nil).Do(entry, func(*audit.Entry) error { return walproxy.Forget(dir, name) }); err != nil {
		return exitWith(exitFailed, err)
	}
	answer.Forgotten = true
	if asJSON {
		return printJSON(cmd, answer)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "sink %s is forgotten; take it out of the configuration, and the next start frees its space\n", name)
	return err
}

func tellForget(cmd *cobra.Command, a forgetAnswer) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "sink %s would give up, for good, what is not in its store:\n", a.Sink)
	fmt.Fprintf(out, "  %d records of the log (%d bytes) above what is known to be applied\n", a.Records, a.RecordsBytes)
	fmt.Fprintf(out, "  %d records held outside the log (%d bytes)\n", a.Held, a.HeldBytes)
	fmt.Fprintf(out, "  %d dead letters that were rejected, %d parked behind them\n", a.Dead, a.Parked)
	if a.Unreadable > 0 {
		fmt.Fprintf(out, "  and what stands in %d places of the log that cannot be read\n", a.Unreadable)
	}
}
