package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/wal"
)

// logRepair is what the flags of log repair say.
type logRepair struct {
	flags                      configFlags
	yes, dryRun, asJSON, tails bool
	state                      string
}

func newLogRepair() *cobra.Command {
	r := &logRepair{}
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Make a damaged log one that a start takes, keeping every record that can be read",
		Long: "repair is for a log that a start refuses because acknowledged data is damaged, or that a sink halted\n" +
			"at. It reads all of it and shows what is damaged and which LSNs are lost or doubtful; then it asks, and\n" +
			"without a terminal takes --yes. It keeps every record that can be read, before and behind the damage,\n" +
			"notes what is lost in the log itself, so that each sink passes it counted and named, and goes on above\n" +
			"every LSN that was or may have been given out. What was there before is kept in log/quarantine/, with\n" +
			"the list of what is lost. A repair that is interrupted, at any point, is finished by the next one; one\n" +
			"of a good log changes nothing. A torn tail is no damage: the next start cuts it off by itself.\n\n" +
			"It also looks whether the state store fits the log. --state accept goes on with one that is older, or\n" +
			"lacks request ids; --state rebuild sets it aside and makes a new one, without its dead letters, its held\n" +
			"records, its request ids and what was paused: prefer a backup of it. The server must be stopped.",
		Example: "  walproxy log repair --data-dir /var/lib/walproxy --dry-run\n" +
			"  walproxy log repair --data-dir /var/lib/walproxy --yes\n" +
			"  walproxy log repair --state rebuild --yes",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd) },
	}
	r.flags.registerFiles(cmd)
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "only show what would be done")
	cmd.Flags().BoolVar(&r.yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&r.tails, "cut-torn-tail", false, "cut a torn tail off now, not at the next start")
	cmd.Flags().StringVar(&r.state, "state", "", "what to do about a state store that does not fit the log: `accept or rebuild`")
	exits(cmd, map[int]string{
		exitDamaged: "something is damaged still: nothing was done (--dry-run), or the state store needs --state",
	})
	return cmd
}

// repairAnswer is what --json prints.
type repairAnswer struct {
	*walproxy.RepairReport
	Needed bool `json:"needed"`
	Done   bool `json:"done"`
}

func (r *logRepair) run(cmd *cobra.Command) error {
	c, err := r.flags.load(cmd)
	if err != nil {
		return err
	}
	if r.state != "" && r.state != walproxy.StateAccept && r.state != walproxy.StateRebuild {
		return exitWith(exitUsage, fmt.Errorf("--state is %q: want accept or rebuild", r.state))
	}
	if _, err := os.Stat(c.DataDir + "/state"); err != nil { // without either there is nothing to repair
		if err := isDataDir(c.DataDir); err != nil {
			return exitWith(exitStart, err)
		}
	}
	o := walproxy.RepairOptions{CutTornTail: r.tails, State: r.state}
	for name := range c.Sinks {
		o.Sinks = append(o.Sinks, name)
	}
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		var bar *bytesBar
		o.Progress = func(read, total int64) {
			if bar == nil {
				bar = newBytesBar(f, total, "read")
			}
			bar.add(read - bar.bytes.Load())
			if read >= total {
				bar.finish()
			}
		}
	}
	repair, err := walproxy.OpenRepair(c.DataDir, o)
	switch {
	case errors.Is(err, wal.ErrVersion):
		err = fmt.Errorf("%w: that is no damage; a newer walproxy wrote it: use that one", err)
	case errors.Is(err, wal.ErrLocked):
		err = fmt.Errorf("%w: stop it first", err)
	}
	if err != nil {
		return exitWith(exitStart, err)
	}
	return errors.Join(r.repair(cmd, c.DataDir, repair), exitWith(exitFailed, repair.Close()))
}

// repair shows, asks and does.
func (r *logRepair) repair(cmd *cobra.Command, dir string, repair *walproxy.Repair) error {
	report := repair.Report()
	answer := repairAnswer{RepairReport: report, Needed: report.Needed()}
	stateLeft := len(report.State.Choices) > 0 && report.State.Action == ""
	if !r.asJSON {
		if err := tellRepair(cmd.OutOrStdout(), report); err != nil {
			return err
		}
	}
	if r.dryRun || !report.Needed() {
		if r.asJSON {
			if err := printJSON(cmd, answer); err != nil {
				return err
			}
		}
		switch {
		case report.Needed():
			return exitWith(exitDamaged, errors.New("nothing was changed: this was a dry run; without --dry-run it is done"))
		case stateLeft:
			return exitWith(exitDamaged, stateChoice(report))
		}
		return nil
	}
	if err := confirm(cmd, r.yes, "Repair the log?"); err != nil {
		return err
	}
	entry := audit.Entry{Action: "log repair", Counts: map[string]uint64{
		"lost": report.Log.LostForSure(), "doubtful": report.Log.LostPerhaps()},
		Detail: strings.TrimSpace(report.Log.ID + " " + report.State.Action)}
	err := audit.New(dir, nil).Do(entry, func(*audit.Entry) error { return repair.Apply() })
	answer.Done = err == nil || errors.Is(err, walproxy.ErrStateNeeded)
	if r.asJSON && answer.Done {
		if err := printJSON(cmd, answer); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(err, walproxy.ErrStateNeeded):
		return exitWith(exitDamaged, fmt.Errorf("the log is repaired; %w", stateChoice(report)))
	case err != nil:
		return exitWith(exitFailed, fmt.Errorf("%w; what was begun is finished by another `walproxy log repair`", err))
	case r.asJSON:
		return nil
	}
	return tellRepaired(cmd.OutOrStdout(), report)
}

// stateChoice is what is to be said about a state store that does not fit.
func stateChoice(r *walproxy.RepairReport) error {
	var choices []string
	for _, c := range r.State.Choices {
		choices = append(choices, "--state "+c)
	}
	return fmt.Errorf("the state store is refused (%s): %s; put the right one back, or say %s",
		r.State.Condition, r.State.Found, strings.Join(choices, " or "))
}

func tellRepair(out io.Writer, r *walproxy.RepairReport) error {
	if err := r.Log.WriteText(out); err != nil {
		return err
	}
	if !r.Log.Needed() {
		fmt.Fprintln(out, "log: nothing to repair")
	}
	switch s := r.State; {
	case s.Condition == walproxy.StateGood:
		fmt.Fprintln(out, "state store: good")
	case s.Action == walproxy.StateAccept:
		fmt.Fprintf(out, "state store: %s (%s); it is accepted as it is: dead letters, request ids and pauses that came after it are gone,\n"+
			"  and dead letters that were retried since are there again\n", s.Condition, s.Found)
	case s.Action == walproxy.StateRebuild:
		fmt.Fprintf(out, "state store: %s (%s); a new one is made. Its DEAD LETTERS and HELD RECORDS, which were acknowledged, are given up,\n"+
			"  and its request ids and pauses", s.Condition, s.Found)
		if s.Aside != "" {
			fmt.Fprintf(out, "; the old one is kept in %s", s.Aside)
		}
		fmt.Fprintln(out)
	default:
		fmt.Fprintf(out, "state store: %s (%s); it is left as it is: --state says what to do (%s)\n", s.Condition, s.Found, strings.Join(s.Choices, ", "))
	}
	if len(r.Log.Lost) == 0 || len(r.Sinks) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSINK\tAPPLIED AT LEAST\tLACKS AT MOST\tDOUBTFUL")
	for _, s := range r.Sinks {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", s.Name, s.Applied, s.Lost, s.Doubtful)
	}
	return w.Flush()
}

func tellRepaired(out io.Writer, r *walproxy.RepairReport) error {
	if r.Log.Needed() {
		fmt.Fprintf(out, "repaired; the report is log/quarantine/%s/report.txt, beside what was set aside\n", r.Log.ID)
	}
	if r.State.Action != "" {
		fmt.Fprintf(out, "state store: %s done\n", r.State.Action)
	}
	_, err := fmt.Fprintln(out, "next: `walproxy serve`; it passes what is lost, and its status counts it (lost_records). Then look at the records\n"+
		"of the time around the damage, and repeat writes that clients can repeat")
	if len(r.Log.Lost) > 0 && slices.ContainsFunc(r.Sinks, func(s walproxy.RepairedSink) bool { return s.Lost+s.Doubtful > 0 }) {
		_, err = fmt.Fprintln(out, "keep the quarantine until that is done: `walproxy log quarantine` lists it")
	}
	return err
}
