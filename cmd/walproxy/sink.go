package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
)

func newSink() *cobra.Command {
	cmd := &cobra.Command{Use: "sink", Short: "Look after the stores"}
	cmd.AddCommand(newSinkInit(), newSinkList(), newSinkPause(), newSinkResume(), newSinkForget())
	return cmd
}

func newSinkList() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the sinks of a data directory that serve does not have open: how far applied, dead letters",
		Example: "  walproxy sink ls --data-dir /var/lib/walproxy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			known, err := walproxy.KnownSinks(c.DataDir)
			if err != nil {
				return exitWith(exitStart, err)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tCONFIGURED\tCLAIMED\tPAUSED\tFROM\tAPPLIED\tDEAD LETTERS\tBYTES\tSTORE")
			for _, s := range known {
				_, configured := c.Sinks[s.Name]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Name, yesNo(configured), yesNo(s.Claimed), yesNo(s.Paused),
					s.From, s.Applied, s.DeadLetters, s.DeadLetterBytes, s.Identity)
			}
			return w.Flush()
		},
	}
	flags.register(cmd)
	return cmd
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func newSinkForget() *cobra.Command {
	var flags placeFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget NAME",
		Short: "Give up what is kept for a sink: its records in the log and its dead letters",
		Long: "forget gives up, for good, what the data directory keeps for a sink: its claim, its dead letters,\n" +
			"and its records in the log, whose space the next start frees. The store itself is not touched. A sink\n" +
			"of the same name that is added later gets what is written from then on. It says what would be given up\n" +
			"and asks; without a terminal it takes --yes. The server must be stopped.",
		Example: "  walproxy sink forget old --data-dir /var/lib/walproxy\n" +
			"  walproxy sink forget old --yes",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSink(&flags.configFlags),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.stopped(cmd)
			if err != nil {
				return err
			}
			return forgetSink(cmd, p.dir, args[0], yes)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func forgetSink(cmd *cobra.Command, dir, name string, yes bool) error {
	known, err := walproxy.KnownSinks(dir)
	if err != nil {
		return exitWith(exitStart, err)
	}
	for _, s := range known {
		if s.Name != name {
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "sink %s: what it lacks of the log above LSN %d and %d dead letters (%d bytes) would be given up for good\n",
			name, max(s.Applied, s.From), s.DeadLetters, s.DeadLetterBytes)
		if err := confirm(cmd, yes, fmt.Sprintf("Forget sink %s?", name)); err != nil {
			return err
		}
		entry := audit.Entry{Action: "sink forget", Sink: name, Detail: fmt.Sprintf("what is above LSN %d", max(s.Applied, s.From)),
			Counts: map[string]uint64{"dead_letters": s.DeadLetters, "dead_letter_bytes": s.DeadLetterBytes}}
		if err := audit.New(dir, nil).Do(entry, func(*audit.Entry) error { return walproxy.Forget(dir, name) }); err != nil {
			return exitWith(exitStart, err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "sink %s is forgotten; the next start frees its space\n", name)
		return nil
	}
	return exitWith(exitUsage, fmt.Errorf("%w: %q in %s", walproxy.ErrNoSink, name, dir))
}
