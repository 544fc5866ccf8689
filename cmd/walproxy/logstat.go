package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

func newLogStat() *cobra.Command {
	var flags logFlags
	var s logStat
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "Count what is in the log: records, rates, collections, group commits, backlog",
		Long: "stat reads the whole log and counts: records and bytes, how many a second, the largest collections,\n" +
			"how many records a group commit had, and how far each sink is behind, by the checkpoints that the state\n" +
			"store noted last. While a server has the state store open, `walproxy status` knows that better.",
		Example: "  walproxy log stat --data-dir /var/lib/walproxy --top 20",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.top < 0 {
				return exitWith(exitUsage, fmt.Errorf("--top is %d", s.top))
			}
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			in, err := inspectLog(c.DataDir)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return s.run(ctx, cmd, in, c.DataDir)
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&s.top, "top", 10, "list `n` collections")
	cmd.Flags().BoolVar(&s.json, "json", false, "one JSON object")
	exits(cmd, map[int]string{exitDamaged: "some of the log is damaged; what can be read was counted"})
	return cmd
}

// collectionsMax bounds what is counted by itself; beyond it the smallest ones are
// counted together.
const collectionsMax = 10_000

type logStat struct {
	top  int
	json bool

	report  statReport
	by      map[string]*collectionStat
	outline mutation.Outline
	sinks   []sinkBacklog
	group   groupCount
	hurt    int
}

// statReport is what `log stat --json` prints.
type statReport struct {
	Dir         string           `json:"dir"`
	First       wal.LSN          `json:"first_lsn"`
	Last        wal.LSN          `json:"last_lsn"`
	Segments    int              `json:"segments"`
	Bytes       int64            `json:"bytes"`
	Records     uint64           `json:"records"`
	Payload     int64            `json:"payload_bytes"`
	Largest     int              `json:"largest_record_bytes"`
	Undecoded   uint64           `json:"undecoded"`
	From        *time.Time       `json:"first_accepted,omitempty"`
	To          *time.Time       `json:"last_accepted,omitempty"`
	Groups      uint64           `json:"groups"`
	LargestOf   uint64           `json:"largest_group_records"`
	Collections int              `json:"collections"`
	Top         []collectionStat `json:"top"`
	Sinks       []sinkBacklog    `json:"sinks"`
	SinksWhy    string           `json:"sinks_unknown,omitempty"`
	Damage      int              `json:"damage"`
}

type collectionStat struct {
	Collection string `json:"collection"`
	Records    uint64 `json:"records"`
	Payload    int64  `json:"payload_bytes"`
}

// sinkBacklog is what is routed to a sink above its last noted checkpoint.
type sinkBacklog struct {
	Sink    string  `json:"sink"`
	Applied wal.LSN `json:"applied_lsn"`
	Paused  bool    `json:"paused"`
	Records uint64  `json:"backlog_records"`
	Payload int64   `json:"backlog_payload_bytes"`
}

// groupCount counts group commits: the records of one say the same of what was
// durable before them.
type groupCount struct {
	any             bool
	durable         wal.LSN
	groups, largest uint64
	records         uint64 // of the one at hand
}

func (g *groupCount) add(f wal.Frame) {
	if !g.any || f.Durable != g.durable {
		g.any, g.durable, g.records = true, f.Durable, 0
		g.groups++
	}
	g.records++
	g.largest = max(g.largest, g.records)
}

func (s *logStat) run(ctx context.Context, cmd *cobra.Command, in *wal.Inspection, dataDir string) error {
	s.by = map[string]*collectionStat{}
	s.report = statReport{Dir: in.Dir, First: in.First, Last: in.Last, Segments: len(in.Segments), Sinks: []sinkBacklog{}, Top: []collectionStat{}}
	for _, seg := range in.Segments {
		s.report.Bytes += seg.Bytes
	}
	if err := s.findSinks(filepath.Join(dataDir, "state")); err != nil {
		s.report.SinksWhy = err.Error()
	}
	for f, err := range in.Frames(0) {
		if ctx.Err() != nil {
			return exitWith(exitFailed, errors.New("interrupted"))
		}
		if err != nil {
			if errors.As(err, new(*wal.CorruptError)) {
				s.hurt++
			}
			continue
		}
		if !f.Gap {
			s.count(f)
		}
	}
	s.sum()
	err := s.text(cmd.OutOrStdout(), in)
	if s.json {
		err = printJSON(cmd, s.report)
	}
	if s.hurt > 0 {
		err = errors.Join(err, exitWith(exitDamaged, fmt.Errorf("%d places of the log are damaged and not counted; `walproxy log verify` says which", s.hurt)))
	}
	return err
}

// findSinks reads the sinks' claims, if nobody has the state store open.
func (s *logStat) findSinks(dir string) error {
	err := state.Dump(dir, nil, func(uuid.UUID, uint64) error { return nil }, func(key, value []byte) error {
		c, ok, err := state.ClaimOf(key, value)
		if ok {
			s.sinks = append(s.sinks, sinkBacklog{Sink: c.Sink, Applied: max(c.Applied, c.From), Paused: c.Paused})
		}
		return err
	})
	if errors.Is(err, state.ErrBusy) {
		return errors.New("a server has the state store open: `walproxy status` says how far the sinks are")
	}
	return err
}

func (s *logStat) count(f wal.Frame) {
	r := &s.report
	r.Records++
	r.Payload += int64(len(f.Payload))
	r.Largest = max(r.Largest, len(f.Payload))
	s.group.add(f)
	if at, ok := mutation.AcceptedAt(f.Payload); ok {
		if r.From == nil {
			r.From = &at
		}
		r.To = &at
	}
	if err := s.outline.ReadRoutes(f.Payload); err != nil {
		r.Undecoded++
		return
	}
	for i := range s.sinks {
		if b := &s.sinks[i]; f.LSN > b.Applied && s.outline.Routed(b.Sink) {
			b.Records++
			b.Payload += int64(len(f.Payload))
		}
	}
	if s.outline.Read(f.Payload) {
		s.countIn(s.outline.Collection, len(f.Payload))
		return
	}
	rec, err := mutation.Decode(f.Payload)
	if err != nil {
		r.Undecoded++
		return
	}
	last := ""
	mutation.Keys(rec, func(collection string, _ *walproxyv1.Key) {
		if collection != last { // a group counts once for a collection that it writes in a row
			s.countIn(collection, len(f.Payload))
		}
		last = collection
	})
}

// countIn counts a record for a collection. The name is the payload's memory.
func (s *logStat) countIn(name string, size int) {
	c, ok := s.by[name]
	if !ok {
		if len(s.by) >= collectionsMax {
			name = "(others)"
		}
		if c, ok = s.by[name]; !ok {
			name = string([]byte(name))
			c = &collectionStat{Collection: name}
			s.by[name] = c
		}
	}
	c.Records++
	c.Payload += int64(size)
}

func (s *logStat) sum() {
	r := &s.report
	r.Damage, r.Groups, r.LargestOf, r.Collections = s.hurt, s.group.groups, s.group.largest, len(s.by)
	r.Sinks = append(r.Sinks, s.sinks...)
	top := slices.SortedFunc(maps.Values(s.by), func(a, b *collectionStat) int {
		return cmp.Or(cmp.Compare(b.Payload, a.Payload), cmp.Compare(a.Collection, b.Collection))
	})
	for _, c := range top[:min(s.top, len(top))] {
		r.Top = append(r.Top, *c)
	}
}

func (s *logStat) text(out io.Writer, in *wal.Inspection) error {
	if s.json {
		return nil
	}
	r := s.report
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "log\t%s, %s\n", rangeText(r.First, r.Last), stateText(in))
	fmt.Fprintf(w, "files\t%s in %d segments\n", sizeText(r.Bytes), r.Segments)
	if r.Records > 0 {
		fmt.Fprintf(w, "records\t%d, %s; %d bytes on average, %d the largest\n", r.Records, sizeText(r.Payload), r.Payload/int64(r.Records), r.Largest)
		fmt.Fprintf(w, "group commits\t%d, of %.1f records on average, %d the largest\n", r.Groups, float64(r.Records)/float64(r.Groups), r.LargestOf)
	}
	if r.From != nil {
		took := r.To.Sub(*r.From)
		rate := "all at once"
		if took > 0 {
			rate = fmt.Sprintf("%.0f records/s, %s/s", float64(r.Records)/took.Seconds(), sizeText(int64(float64(r.Payload)/took.Seconds())))
		}
		fmt.Fprintf(w, "accepted\t%s to %s: %s\n", timeText(*r.From), timeText(*r.To), rate)
	}
	if r.Undecoded > 0 {
		fmt.Fprintf(w, "undecoded\t%d\n", r.Undecoded)
	}
	for _, b := range r.Sinks {
		paused := map[bool]string{true: ", paused"}[b.Paused]
		fmt.Fprintf(w, "sink %s\tnoted as applied up to LSN %d%s; %d records, %s above it\n", b.Sink, b.Applied, paused, b.Records, sizeText(b.Payload))
	}
	if r.SinksWhy != "" {
		fmt.Fprintf(w, "sinks\t%s\n", r.SinksWhy)
	}
	if err := w.Flush(); err != nil || len(r.Top) == 0 {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d collections:\n", len(r.Top), r.Collections)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COLLECTION\tRECORDS\tBYTES\tAVERAGE")
	for _, c := range r.Top {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", c.Collection, c.Records, c.Payload, c.Payload/int64(c.Records))
	}
	return w.Flush()
}
