package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

func newLogList() *cobra.Command {
	var flags logFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the segments of the log: records, times, sizes, what state they are in",
		Long: "ls lists the segments of a log, what is in its trash and its quarantine, and what a start would\n" +
			"say of it. It reads the segments' headers, their first records and the tail: `log verify` reads all.\n" +
			"A segment is sealed, active (a server writes to it), prepared (for later), missing, damaged, or ends\n" +
			"in a torn tail, which was never acknowledged and which the next start sets aside.",
		Example: "  walproxy log ls --data-dir /var/lib/walproxy\n  walproxy log ls --data-dir /var/lib/walproxy --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := flags.inspect(cmd)
			if err != nil {
				return err
			}
			list := newLogListing(in)
			if asJSON {
				return printJSON(cmd, list)
			}
			return list.table(cmd.OutOrStdout(), in)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

// logListing is what `log ls --json` prints.
type logListing struct {
	Dir          string            `json:"dir"`
	Stream       uuid.UUID         `json:"stream"`
	Open         bool              `json:"open"`
	PID          int               `json:"pid,omitempty"`
	First        wal.LSN           `json:"first_lsn"`
	Last         wal.LSN           `json:"last_lsn"`
	Durable      wal.LSN           `json:"durable_lsn"`
	Clean        bool              `json:"clean"`
	Refusal      string            `json:"start_refused,omitempty"`
	LastTime     *time.Time        `json:"last_accepted,omitempty"`
	Bytes        int64             `json:"bytes"`
	Incarnations []incarnationJSON `json:"incarnations"`
	Segments     []segmentJSON     `json:"segments"`
	Aside        []asideJSON       `json:"aside"`
	Damage       []damageJSON      `json:"damage"`
}

type incarnationJSON struct {
	ID    uuid.UUID `json:"id"`
	First wal.LSN   `json:"first_lsn"`
}

type segmentJSON struct {
	Segment     string           `json:"segment"`
	Run         uint64           `json:"run,omitempty"`
	File        string           `json:"file"`
	Engine      string           `json:"engine,omitempty"`
	State       wal.SegmentState `json:"state"`
	First       wal.LSN          `json:"first_lsn"`
	Last        wal.LSN          `json:"last_lsn"`
	Bytes       int64            `json:"bytes"`
	Written     *time.Time       `json:"file_modified,omitempty"`
	Accepted    *time.Time       `json:"first_accepted,omitempty"`
	Incarnation *uuid.UUID       `json:"incarnation,omitempty"`
	Boot        uint64           `json:"boot,omitempty"`
}

type asideJSON struct {
	Path  string           `json:"path"`
	State wal.SegmentState `json:"state"`
	Bytes int64            `json:"bytes"`
}

func newLogListing(in *wal.Inspection) logListing {
	l := logListing{Dir: in.Dir, Stream: in.Stream, First: in.First, Last: in.Last, Durable: in.Durable, Clean: in.Clean,
		Incarnations: []incarnationJSON{}, Segments: []segmentJSON{}, Aside: []asideJSON{}, Damage: []damageJSON{}}
	if in.Owner != nil {
		l.Open, l.PID = true, in.Owner.PID
	}
	if in.Refusal != nil {
		l.Refusal = in.Refusal.Error()
	}
	for _, p := range in.Incarnations {
		l.Incarnations = append(l.Incarnations, incarnationJSON{p.Incarnation, p.LSN})
	}
	for _, err := range in.Damage {
		l.Damage = append(l.Damage, newDamageJSON(err))
	}
	for _, s := range in.Segments {
		j := segmentJSON{Segment: fmt.Sprintf("%016x", s.Seq), File: s.Path, Engine: s.Engine, State: s.State, First: s.First,
			Last: s.Last, Bytes: s.Bytes, Boot: s.Boot, Written: known(s.Modified), Accepted: known(firstAccepted(s))}
		if s.Run > 1 {
			j.Run = s.Run
		}
		if s.Incarnation != uuid.Nil {
			j.Incarnation = &s.Incarnation
		}
		l.Bytes += s.Bytes
		l.Segments = append(l.Segments, j)
		for _, c := range s.Damage {
			l.Damage = append(l.Damage, newDamageJSON(c))
		}
		if s.Torn != nil {
			l.Damage = append(l.Damage, newDamageJSON(s.Torn))
		}
	}
	l.LastTime = known(lastAccepted(in))
	for _, a := range in.Aside {
		l.Aside = append(l.Aside, asideJSON{a.Path, a.State, a.Bytes})
	}
	return l
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// firstAccepted is when the first record of s was accepted; zero if it does not
// tell.
func firstAccepted(s *wal.Segment) time.Time {
	for f, err := range s.Frames() {
		if err != nil || f.Gap {
			break
		}
		at, _ := mutation.AcceptedAt(f.Payload)
		return at
	}
	return time.Time{}
}

// lastAccepted is when the last record was accepted.
func lastAccepted(in *wal.Inspection) (at time.Time) {
	for f, err := range in.Frames(in.Last) {
		if err == nil && !f.Gap {
			at, _ = mutation.AcceptedAt(f.Payload)
		}
	}
	return at
}

func (l logListing) table(out io.Writer, in *wal.Inspection) error {
	fmt.Fprintf(out, "stream %s, %s, durable up to LSN %d, last write %s\n%s\n\n", l.Stream, rangeText(l.First, l.Last), l.Durable,
		timeText(orZero(l.LastTime)), stateText(in))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEGMENT\tSTATE\tFIRST LSN\tLAST LSN\tBYTES\tFIRST WRITE\tENGINE\tINCARNATION")
	for i, s := range l.Segments {
		incarnation := "-"
		if s.Incarnation != nil {
			incarnation = s.Incarnation.String()[:8]
		}
		first, last := lsnText(s.First), lsnText(s.Last)
		if s.Last < s.First {
			first, last = "-", "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", segmentText(in.Segments[i]), s.State, first, last, s.Bytes,
			timeText(orZero(s.Accepted)), orDash(s.Engine), incarnation)
	}
	for _, a := range l.Aside {
		fmt.Fprintf(w, "%s\t%s\t-\t-\t%d\t-\t-\t-\n", a.Path, a.State, a.Bytes)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, d := range l.Damage {
		fmt.Fprintf(out, "\n%s\n", d.Text)
	}
	if l.Refusal != "" {
		_, err := fmt.Fprint(out, "\nA start would be refused. `walproxy log verify` reads every record and says which are hit; "+
			"`walproxy log repair` sets aside what is damaged and keeps the rest.\n")
		return err
	}
	return nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
