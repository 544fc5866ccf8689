package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/wal"
)

// quarantinedJSON is one thing that was set aside.
type quarantinedJSON struct {
	Path     string    `json:"path"` // below the data directory
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

// quarantineAnswer is what --json prints.
type quarantineAnswer struct {
	Items   []quarantinedJSON `json:"items"`
	Bytes   int64             `json:"bytes"`
	Deleted bool              `json:"deleted"`
}

func newLogQuarantine() *cobra.Command {
	var flags placeFlags
	var empty, yes, asJSON bool
	var age time.Duration
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "List what starts and repairs set aside, or delete it for good",
		Long: "quarantine lists what is in log/quarantine/: torn tails that starts cut off, and what repairs took out\n" +
			"of the log, each with its report. Nothing is ever deleted there but by --empty, and it counts towards\n" +
			"no bound of the log. It works beside a running server too.",
		Example: "  walproxy log quarantine --data-dir /var/lib/walproxy\n" +
			"  walproxy log quarantine --empty --older-than 720h --yes",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := flags.find(cmd)
			if err != nil {
				return err
			}
			dir := filepath.Join(p.dir, "log")
			if age < 0 || age > 0 && !empty {
				return exitWith(exitUsage, errors.New("--older-than is for --empty, and not negative"))
			}
			if empty {
				if p.server == nil { // else the server has the lock
					lock, err := wal.Lock(dir)
					if err != nil {
						return exitWith(exitStart, err)
					}
					defer func() { _ = lock.Close() }() // read only
				}
				return emptyQuarantine(cmd, p.dir, time.Now().Add(-age), yes, asJSON)
			}
			answer, err := quarantined(p.dir, time.Time{})
			if err != nil {
				return exitWith(exitFailed, err)
			}
			if asJSON {
				return printJSON(cmd, answer)
			}
			return answer.tell(cmd)
		},
	}
	flags.registerStopped(cmd)
	cmd.Flags().BoolVar(&empty, "empty", false, "delete it")
	cmd.Flags().DurationVar(&age, "older-than", 0, "with --empty: only what was set aside longer ago than this `duration`")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// quarantined lists what was set aside in dataDir, before a time if that is not zero.
func quarantined(dataDir string, before time.Time) (answer quarantineAnswer, err error) {
	answer.Items = []quarantinedJSON{}
	all, err := wal.Quarantine(filepath.Join(dataDir, "log"))
	for _, a := range all {
		if before.IsZero() || a.Modified.Before(before) {
			answer.Items = append(answer.Items, quarantinedJSON{Path: filepath.Join("log", a.Path), Bytes: a.Bytes, Modified: a.Modified.UTC()})
			answer.Bytes += a.Bytes
		}
	}
	return answer, err
}

func (a quarantineAnswer) tell(cmd *cobra.Command) error {
	if len(a.Items) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing is set aside")
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SET ASIDE\tBYTES\tCHANGED")
	for _, item := range a.Items {
		fmt.Fprintf(w, "%s\t%d\t%s\n", item.Path, item.Bytes, timeText(item.Modified))
	}
	fmt.Fprintf(w, "all\t%d\t\n", a.Bytes)
	return w.Flush()
}

func emptyQuarantine(cmd *cobra.Command, dataDir string, before time.Time, yes, asJSON bool) error {
	answer, err := quarantined(dataDir, before)
	if err != nil {
		return exitWith(exitFailed, err)
	}
	if !asJSON {
		if err := answer.tell(cmd); err != nil {
			return err
		}
	}
	if len(answer.Items) == 0 {
		if asJSON {
			return printJSON(cmd, answer)
		}
		return nil
	}
	if err := confirm(cmd, yes, fmt.Sprintf("Delete %s for good?", sizeText(answer.Bytes))); err != nil {
		return err
	}
	entry := audit.Entry{Action: "log quarantine --empty", Counts: map[string]uint64{
		"items": uint64(len(answer.Items)), "bytes": uint64(answer.Bytes)}}
	err = audit.New(dataDir, nil).Do(entry, func(*audit.Entry) error {
		_, err := wal.EmptyQuarantine(filepath.Join(dataDir, "log"), before)
		return err
	})
	if err != nil {
		return exitWith(exitFailed, err)
	}
	answer.Deleted = true
	if asJSON {
		return printJSON(cmd, answer)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted; %s are free again\n", sizeText(answer.Bytes))
	return err
}
