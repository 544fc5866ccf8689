package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/wal"
)

// surveyAnswer is what --dry-run --json prints.
type surveyAnswer struct {
	DataDir   string             `json:"data_dir"`
	Stream    string             `json:"stream"`
	FirstLSN  walproxy.LSN       `json:"first_lsn"`
	LastLSN   walproxy.LSN       `json:"last_lsn"`
	EndLSN    walproxy.LSN       `json:"end_lsn"`
	Clean     bool               `json:"clean"`
	TornBytes int64              `json:"torn_bytes,omitempty"`
	Refusal   string             `json:"refusal,omitempty"`
	Sinks     []sinkSurveyAnswer `json:"sinks"`
}

type sinkSurveyAnswer struct {
	Sink            string                 `json:"sink"`
	State           string                 `json:"state"` // known, new, paused, refused
	Refusal         string                 `json:"refusal,omitempty"`
	Claimed         bool                   `json:"claimed"`
	CheckpointFrom  string                 `json:"checkpoint_from"` // store, noted
	Why             string                 `json:"why,omitempty"`   // it is not the store's
	Records         uint64                 `json:"records"`
	Bytes           int64                  `json:"bytes"`
	Oldest          *time.Time             `json:"oldest,omitempty"`
	Lanes           []laneSurveyAnswer     `json:"lanes"`
	Together        countAnswer            `json:"together"`
	Collections     map[string]countAnswer `json:"collections"`
	Others          *countAnswer           `json:"other_collections,omitempty"`
	Undecodable     []walproxy.LSN         `json:"undecodable,omitempty"`
	Held            uint64                 `json:"held_records"`
	DeadLetters     uint64                 `json:"dead_letters"`
	DeadLetterBytes uint64                 `json:"dead_letter_bytes"`
	ParkedKeys      int                    `json:"parked_keys"`
}

type countAnswer struct {
	Records uint64 `json:"records"`
	Bytes   int64  `json:"bytes"`
}

type laneSurveyAnswer struct {
	Checkpoint walproxy.LSN `json:"checkpoint"`
	countAnswer
}

// dryRun says what a replay would do.
func dryRun(cmd *cobra.Command, c *config.Config, f *replayFlags, r walproxy.ReplayOptions) error {
	found, err := survey(cmd.Context(), c, f, walproxy.SurveyOptions{ReplayOptions: r, Collections: f.collections})
	if err != nil {
		return err
	}
	answer := answerOf(c.DataDir, found)
	if f.json {
		err = printJSON(cmd, answer)
	} else {
		err = tellSurvey(cmd.OutOrStdout(), &answer, found)
	}
	return errors.Join(err, surveyVerdict(found))
}

// surveyVerdict is what a replay is known to be refused with.
func surveyVerdict(found *walproxy.Survey) error {
	switch {
	case errors.Is(found.Refusal, wal.ErrCorrupt):
		return exitWith(exitDamaged, openAdvice("", found.Refusal))
	case found.Refusal != nil:
		return exitWith(exitStart, found.Refusal)
	case found.Orphans != nil:
		return exitWith(exitStart, found.Orphans)
	}
	var errs []error
	damaged := false
	for _, s := range found.Sinks {
		errs = append(errs, s.Refusal)
		for i := range s.Broken {
			damaged = true
			errs = append(errs, &s.Broken[i])
		}
	}
	if damaged {
		return exitWith(exitDamaged, errors.Join(errs...))
	}
	return exitWith(exitStart, errors.Join(errs...))
}

func survey(ctx context.Context, c *config.Config, f *replayFlags, r walproxy.SurveyOptions) (found *walproxy.Survey, err error) {
	i := &instance{config: c, logger: zap.NewNop(), registry: prometheus.NewRegistry(), sinks: map[string]sinks.Sink{}}
	defer func() {
		if closeErr := i.closeSinks(); closeErr != nil && err == nil {
			err = exitWith(exitFailed, closeErr)
		}
	}()
	for name, sink := range c.Sinks {
		if len(f.sinks) > 0 && !slices.Contains(f.sinks, name) {
			continue
		}
		i.sinks[name] = i.look(name, sink)
	}
	for _, name := range f.sinks {
		if _, ok := c.Sinks[name]; !ok {
			return nil, exitWith(exitUsage, fmt.Errorf("there is no sink %q in the configuration", name))
		}
	}
	found, err = walproxy.SurveyReplay(ctx, i.options(), r)
	return found, exitWith(openCode(err), openAdvice(c.DataDir, err))
}

// look opens a store so that it is not changed. One that cannot be opened says why
// when it is asked.
func (i *instance) look(name string, c config.Sink) sinks.Sink {
	if c.Type != config.TypePebble { // to open one is not to change it
		s, err := i.openSink(name, c)
		if err != nil {
			return unopened{err: err}
		}
		return s
	}
	s, err := pebble.Open(i.config.SinkPath(name), pebble.Options{Logger: i.logger, ReadOnly: true})
	switch {
	case errors.Is(err, pebble.ErrNoStore):
		return unopened{err: fmt.Errorf("%w: %w", sinks.ErrNoCheckpoint, err)}
	case err != nil:
		return unopened{err: err}
	}
	return s
}

// unopened is a store that could not be opened.
type unopened struct {
	sinks.Sink // nil: only asked for its position
	err        error
}

func (u unopened) Position(context.Context) (sinks.Checkpoint, error) {
	return sinks.Checkpoint{}, u.err
}
func (unopened) Close(context.Context) error { return nil }

func answerOf(dir string, found *walproxy.Survey) surveyAnswer {
	a := surveyAnswer{DataDir: dir, Stream: found.Stream, FirstLSN: found.First, LastLSN: found.Last, EndLSN: found.End,
		Clean: found.Clean, TornBytes: found.TornBytes, Sinks: []sinkSurveyAnswer{}}
	if err := cmp.Or(found.Refusal, found.Orphans); err != nil {
		a.Refusal = err.Error()
	}
	for _, s := range found.Sinks {
		a.Sinks = append(a.Sinks, sinkAnswer(s))
	}
	return a
}

func sinkAnswer(s walproxy.SinkSurvey) sinkSurveyAnswer {
	a := sinkSurveyAnswer{
		Sink: s.Name, State: "known", Claimed: s.Claimed, CheckpointFrom: "noted",
		Records: s.All.Records, Bytes: s.All.Bytes, Together: countAnswer(s.Together), Collections: map[string]countAnswer{},
		Held: s.Held, DeadLetters: s.DeadLetters, DeadLetterBytes: s.DeadLetterBytes, ParkedKeys: s.ParkedKeys,
	}
	switch {
	case s.Refusal != nil:
		a.State, a.Refusal = "refused", s.Refusal.Error()
	case s.New:
		a.State = "new"
	case s.Paused:
		a.State = "paused"
	}
	if s.Asked {
		a.CheckpointFrom = "store"
	} else if s.Err != nil {
		a.Why = s.Err.Error()
	}
	if !s.Oldest.IsZero() {
		a.Oldest = &s.Oldest
	}
	for i, n := range s.Lanes {
		a.Lanes = append(a.Lanes, laneSurveyAnswer{s.Checkpoint.Lanes[i].LSN, countAnswer(n)})
	}
	for name, n := range s.Collections {
		a.Collections[name] = countAnswer(*n)
	}
	if s.Others.Records > 0 {
		others := countAnswer(s.Others)
		a.Others = &others
	}
	for _, broken := range s.Broken {
		a.Undecodable = append(a.Undecodable, broken.LSN)
	}
	return a
}

func tellSurvey(out io.Writer, a *surveyAnswer, found *walproxy.Survey) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s holds LSN %d to %d, stream %s\n", a.DataDir, a.FirstLSN, a.LastLSN, a.Stream)
	if a.EndLSN < a.LastLSN {
		fmt.Fprintf(w, "a replay would end at LSN %d\n", a.EndLSN)
	}
	switch {
	case a.Refusal != "":
		fmt.Fprintln(w, "a replay would be refused; what can be read:")
	case a.TornBytes > 0:
		fmt.Fprintf(w, "the last stop was a crash: the start sets %d bytes aside that were never acknowledged\n", a.TornBytes)
	case !a.Clean:
		fmt.Fprintln(w, "the last stop was a crash or a kill; nothing is torn")
	}
	for i := range a.Sinks {
		tellSinkSurvey(w, &a.Sinks[i], &found.Sinks[i])
	}
	fmt.Fprintln(w, "\nnothing was changed; without --dry-run it is done")
	return w.Flush()
}

func tellSinkSurvey(w io.Writer, a *sinkSurveyAnswer, s *walproxy.SinkSurvey) {
	fmt.Fprintf(w, "\nsink %s: %d records, %d bytes of the log to go", a.Sink, a.Records, a.Bytes)
	if a.Oldest != nil {
		fmt.Fprintf(w, "; the oldest was accepted %s, %v ago", a.Oldest.Format(time.RFC3339), time.Since(*a.Oldest).Round(time.Second))
	}
	fmt.Fprintln(w)
	switch a.State {
	case "refused":
		fmt.Fprintf(w, "  it would halt at once: %s; `walproxy sink accept %s` shows what accepting that means\n", a.Refusal, a.Sink)
	case "new":
		fmt.Fprintln(w, "  it is not known here yet: it would be added at the end of the log (`walproxy sink add` can do otherwise)")
	case "paused":
		fmt.Fprintf(w, "  it is paused: nothing is applied before `walproxy sink resume %s`\n", a.Sink)
	}
	switch {
	case s.Asked:
		fmt.Fprintf(w, "  checkpoints as its store has them, epoch %d:\n", s.Checkpoint.Epoch)
	case errors.Is(s.Err, sinks.ErrNoCheckpoint):
		fmt.Fprintln(w, "  its store holds no checkpoint; where it would begin:")
	default:
		fmt.Fprintf(w, "  its store was not reached (%s); checkpoints as noted last, it may be further:\n", oneLine(a.Why))
	}
	fmt.Fprintln(w, "  LANE\tCHECKPOINT\tRECORDS\tBYTES")
	for i, lane := range a.Lanes {
		fmt.Fprintf(w, "  %d\t%d\t%d\t%d\n", i, lane.Checkpoint, lane.Records, lane.Bytes)
	}
	if a.Together.Records > 0 {
		fmt.Fprintf(w, "  alone\t\t%d\t%d\n", a.Together.Records, a.Together.Bytes)
	}
	if len(a.Collections) > 0 {
		fmt.Fprintln(w, "  COLLECTION\t\tRECORDS\tBYTES")
	}
	names := slices.SortedFunc(maps.Keys(a.Collections), func(x, y string) int {
		return cmp.Or(cmp.Compare(a.Collections[y].Records, a.Collections[x].Records), cmp.Compare(x, y))
	})
	for _, name := range names {
		fmt.Fprintf(w, "  %s\t\t%d\t%d\n", name, a.Collections[name].Records, a.Collections[name].Bytes)
	}
	if a.Others != nil {
		fmt.Fprintf(w, "  (others)\t\t%d\t%d\n", a.Others.Records, a.Others.Bytes)
	}
	if a.DeadLetters > 0 {
		fmt.Fprintf(w, "  %d dead letters (%d bytes) park %d keys: what is to go for these is parked, too\n", a.DeadLetters, a.DeadLetterBytes, a.ParkedKeys)
	}
	for i := range s.Broken {
		fmt.Fprintf(w, "  it would halt at LSN %d, which cannot be decoded\n", s.Broken[i].LSN)
	}
}

// confirmFrom says what --from-lsn gives up, and asks.
func confirmFrom(cmd *cobra.Command, c *config.Config, f *replayFlags, r walproxy.ReplayOptions) error {
	below := walproxy.ReplayOptions{Sinks: r.Sinks, ToLSN: max(r.FromLSN-1, 1)}
	found, err := survey(cmd.Context(), c, f, walproxy.SurveyOptions{ReplayOptions: below})
	if err != nil {
		return err
	}
	s := found.Sinks[0]
	if s.Claimed {
		return exitWith(exitStart, &walproxy.FromError{Sink: s.Name, From: r.FromLSN, Err: walproxy.ErrClaimedSink,
			Why: "it was claimed, and its store's checkpoint says what it has: from anywhere else records would be skipped or applied twice; leave --from-lsn out, or look with --dry-run"})
	}
	var given replay.Count
	if r.FromLSN > 1 {
		given = s.All
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "sink %s was never claimed. It would begin at LSN %d: %d records (%d bytes of the log) below that are its own and would be given up for good.\n",
		s.Name, r.FromLSN, given.Records, given.Bytes)
	return confirm(cmd, f.yes, fmt.Sprintf("Give up %d records?", given.Records))
}
