package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// replayReport tells how a replay goes, in one of three ways: bars on a terminal,
// a line per sink and interval, or events.
type replayReport struct {
	out      io.Writer
	json     bool
	screen   *screen // nil: no terminal
	interval time.Duration
	began    time.Time
	speed    map[string]*speed
	failed   error // the first write to out that did; the replay goes on
}

// barInterval is how often bars are drawn.
const barInterval = 200 * time.Millisecond

func newReplayReport(out io.Writer, f *replayFlags) *replayReport {
	r := &replayReport{out: out, json: f.json, interval: f.interval, began: time.Now(), speed: map[string]*speed{}}
	if !f.json && isTerminal(out) {
		r.screen = newScreen(out)
		r.interval = min(barInterval, f.interval)
	}
	return r
}

// above is out, written to above the bars if there are any.
func (r *replayReport) above(out io.Writer) io.Writer {
	if r.screen == nil || !isTerminal(out) {
		return out
	}
	return r.screen
}

// replayEvent is one line of --json. What does not belong to an event is left out.
type replayEvent struct {
	Event string    `json:"event"` // start, progress, sink, end
	Time  time.Time `json:"time"`

	// start
	DataDir  string       `json:"data_dir,omitempty"`
	Stream   string       `json:"stream,omitempty"`
	FirstLSN walproxy.LSN `json:"first_lsn,omitempty"` // of the log
	LastLSN  walproxy.LSN `json:"last_lsn,omitempty"`  // of the log
	EndLSN   walproxy.LSN `json:"end_lsn,omitempty"`   // of what is to be applied

	// progress, and sink: how it ended
	*replaySinkEvent

	// end
	ExitCode *int    `json:"exit_code,omitempty"`
	Seconds  float64 `json:"seconds,omitempty"`
	Error    string  `json:"error,omitempty"`
}

type replaySinkEvent struct {
	Sink            string       `json:"sink"`
	State           string       `json:"state"` // starting, running, retrying, settling, done, stopped, halted, paused, left
	Applied         walproxy.LSN `json:"applied"`
	Checkpoint      walproxy.LSN `json:"checkpoint"`
	Done            uint64       `json:"done"`       // records of this run, dead letters included
	Left            uint64       `json:"left"`       // records
	LeftExact       bool         `json:"left_exact"` // false: at most so many
	LeftBytes       int64        `json:"left_bytes"`
	Rate            float64      `json:"rate"`                   // records per second, of the last 10 s
	SecondsLeft     *float64     `json:"seconds_left,omitempty"` // at this rate
	Retries         uint64       `json:"retries"`
	DeadLetters     uint64       `json:"dead_letters"`      // stored
	DeadLettersMade uint64       `json:"dead_letters_made"` // by this run
	Why             string       `json:"why,omitempty"`     // it retries, or halted
	Next            string       `json:"next,omitempty"`    // what to do

	// Unsettled: LSNs that are applied and that a restart of the store could take back.
	Unsettled uint64 `json:"unsettled,omitempty"`

	passed uint64 // also what some lane had before
}

func (r *replayReport) event(e replayEvent) {
	e.Time = time.Now().UTC()
	out := json.NewEncoder(r.out)
	out.SetEscapeHTML(false)
	r.note(out.Encode(e))
}

func (r *replayReport) printf(format string, args ...any) {
	var err error
	if r.screen != nil {
		_, err = fmt.Fprintf(r.screen, format, args...)
	} else {
		_, err = fmt.Fprintf(r.out, format, args...)
	}
	r.note(err)
}

func (r *replayReport) note(err error) {
	if r.failed == nil && err != nil {
		r.failed = fmt.Errorf("the report could not be written: %w", err)
	}
}

func (r *replayReport) start(dir string, rp *walproxy.Replay) {
	log := rp.Log()
	if r.json {
		r.event(replayEvent{Event: "start", DataDir: dir, Stream: rp.Stream(), FirstLSN: log.First, LastLSN: log.Durable, EndLSN: rp.End()})
		return
	}
	r.printf("%s holds LSN %d to %d, stream %s\n", dir, log.First, log.Durable, rp.Stream())
	switch end := rp.End(); {
	case end == 0:
		r.printf("nothing was accepted that early: nothing is to be applied\n")
	case end < log.Durable:
		r.printf("applying up to LSN %d; what is above stays for later\n", end)
	default:
		r.printf("applying up to the end; SIGINT stops, and loses nothing\n")
	}
}

// watch shows progress until the replay has ended.
func (r *replayReport) watch(rp *walproxy.Replay, ended <-chan struct{}) {
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			if r.screen != nil {
				r.screen.draw(nil)
			}
			return
		case <-ticker.C:
			r.progress(rp.Status())
		}
	}
}

func (r *replayReport) progress(states []walproxy.ReplayStatus) {
	var lines []string
	for _, st := range states {
		if st.Outcome == walproxy.ReplayLeft {
			continue
		}
		e := r.sinkEvent(st)
		switch {
		case r.json:
			if st.Outcome == walproxy.ReplayRunning {
				r.event(replayEvent{Event: "progress", replaySinkEvent: &e})
			}
		case r.screen != nil:
			lines = append(lines, r.screen.bar(&e))
		case st.Outcome == walproxy.ReplayRunning:
			r.printf("%s\n", progressLine(&e))
		}
	}
	if r.screen != nil {
		r.screen.draw(lines)
	}
}

func (r *replayReport) sinkEvent(st walproxy.ReplayStatus) replaySinkEvent {
	e := replaySinkEvent{
		Sink: st.Name, State: cmp.Or(string(st.Outcome), string(st.State)), Applied: st.Applied, Checkpoint: st.Checkpoint,
		Done: st.Records + st.DeadLettersMade, passed: st.Passed, Left: st.Left, LeftExact: st.Exact, LeftBytes: st.LeftBytes,
		Retries: st.Retries, DeadLetters: st.DeadLetters, DeadLettersMade: st.DeadLettersMade,
		Unsettled: st.Unsettled,
	}
	if st.Outcome == walproxy.ReplayRunning && st.State == replay.Stopped {
		e.State = stateSettling
	}
	if st.Err != nil {
		e.Why, e.Next = st.Err.Error(), nextStep(st)
	}
	sp := r.speed[st.Name]
	if sp == nil {
		sp = &speed{}
		r.speed[st.Name] = sp
	}
	e.Rate = sp.note(time.Now(), st.Passed)
	if e.Rate > 0 && st.Outcome == walproxy.ReplayRunning {
		left := float64(e.Left) / e.Rate
		e.SecondsLeft = &left
	}
	return e
}

// stateSettling: everything is applied, and waits until no restart of the store could
// take it back.
const stateSettling = "settling"

// progressLine is for where there is no terminal.
func progressLine(e *replaySinkEvent) string {
	if e.State == stateSettling {
		return fmt.Sprintf("sink %s: everything is applied; waiting until no restart of the store could take it back, %d LSNs to go", e.Sink, e.Unsettled)
	}
	text := fmt.Sprintf("sink %s: %s, LSN %d applied, %d records done, %s left", e.Sink, e.State, e.Applied, e.Done, atMost(e))
	if e.SecondsLeft != nil {
		text += fmt.Sprintf(", %.0f/s, %s to go", e.Rate, roughly(*e.SecondsLeft))
	}
	if e.DeadLettersMade > 0 {
		text += fmt.Sprintf(", %d dead letters made", e.DeadLettersMade)
	}
	if e.Why != "" {
		text += ": " + oneLine(e.Why)
	}
	return text
}

func atMost(e *replaySinkEvent) string {
	if e.LeftExact {
		return fmt.Sprint(e.Left)
	}
	return fmt.Sprintf("at most %d", e.Left)
}

func roughly(seconds float64) string {
	if seconds > 1e9 {
		return "very long"
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// verdict says how every sink ended, and gives the worst its exit code.
func (r *replayReport) verdict(states []walproxy.ReplayStatus, cause error) error {
	worst := exitOK
	var errs []error
	for _, st := range states {
		e := r.sinkEvent(st)
		e.SecondsLeft, e.Rate = nil, float64(e.Done)/time.Since(r.began).Seconds() // of all of it
		code := outcomeCode(st)
		if slices.Index(severity, code) > slices.Index(severity, worst) {
			worst = code
		}
		if r.json {
			r.event(replayEvent{Event: "sink", replaySinkEvent: &e})
		} else {
			r.printf("%s", verdictLines(&e))
		}
		switch code {
		case exitOK:
		case exitDeadLetters:
			errs = append(errs, fmt.Errorf("sink %s: %d dead letters were made", st.Name, st.DeadLettersMade))
		default:
			errs = append(errs, fmt.Errorf("sink %s: %s, %s records are left", st.Name, st.Outcome, atMost(&e)))
		}
	}
	if worst == exitOK {
		return nil
	}
	if cause != nil {
		errs = append(errs, fmt.Errorf("ended by: %w", cause))
	}
	return exitWith(worst, errors.Join(errs...))
}

// severity orders exit codes: of several sinks the worst counts.
var severity = []int{exitOK, exitRemaining, exitDeadLetters, exitStart, exitDamaged}

func outcomeCode(st walproxy.ReplayStatus) int {
	var refused *replay.ResumeError
	switch {
	case errors.Is(st.Err, wal.ErrCorrupt), errors.Is(st.Err, replay.ErrUndecodable):
		return exitDamaged
	case errors.As(st.Err, &refused):
		return exitStart
	case st.DeadLettersMade > 0:
		return exitDeadLetters
	case st.Outcome == walproxy.ReplayDone, st.Outcome == walproxy.ReplayLeft:
		return exitOK
	}
	return exitRemaining
}

// nextStep is what to do about an error that does not say it itself.
func nextStep(st walproxy.ReplayStatus) string {
	var refused *replay.ResumeError
	var halted *replay.HaltError
	switch {
	case st.Outcome != walproxy.ReplayHalted || errors.As(st.Err, &refused):
		return "" // it retries, or says it
	case errors.Is(st.Err, replay.ErrRejectLimit):
		return fmt.Sprintf("look at what was rejected (`walproxy dlq ls --sink %s`); run it again to go on behind it", st.Name)
	case errors.Is(st.Err, replay.ErrDeadLettersFull):
		return fmt.Sprintf("give dead letters up (`walproxy dlq discard`), or raise sinks.%s.dead_letters, and run it again", st.Name)
	case errors.Is(st.Err, replay.ErrRejected):
		return fmt.Sprintf("mend it in the store, or set sinks.%s.collections.*.on_reject to park_key or skip to go on behind it, and run it again", st.Name)
	case errors.Is(st.Err, wal.ErrCorrupt), errors.Is(st.Err, replay.ErrUndecodable):
		return "`walproxy log verify` shows all that is damaged, `walproxy log repair` what can be kept"
	case errors.As(st.Err, &halted):
		return "mend that where it is, and run it again: it goes on where it stands"
	}
	return "run it again: it goes on where it stands"
}

func verdictLines(e *replaySinkEvent) string {
	var b strings.Builder
	tell := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	switch walproxy.ReplayOutcome(e.State) {
	case walproxy.ReplayDone:
		tell("sink %s: done at LSN %d, %d records by this run", e.Sink, e.Applied, e.Done)
	case walproxy.ReplayLeft:
		tell("sink %s: left alone (--sink): %s records of it stay in the log", e.Sink, atMost(e))
	case walproxy.ReplayPaused:
		tell("sink %s: paused: %s records stay in the log; `walproxy sink resume %s`, and sinks.%s.paused, have it go on", e.Sink, atMost(e), e.Sink, e.Sink)
	case walproxy.ReplayHalted:
		tell("sink %s: halted at LSN %d, %d records by this run, %s are left: %s", e.Sink, e.Applied, e.Done, atMost(e), oneLine(e.Why))
	default:
		tell("sink %s: stopped at LSN %d, %d records by this run, %s are left; run it again, or start the server: it goes on there", e.Sink, e.Applied, e.Done, atMost(e))
	}
	if e.Next != "" {
		tell("  next: %s", e.Next)
	}
	if e.DeadLettersMade > 0 {
		tell("  %d dead letters were made, %d are stored: `walproxy dlq ls --sink %s`", e.DeadLettersMade, e.DeadLetters, e.Sink)
	}
	return b.String()
}

// end is the last event. It returns why the report is not complete.
func (r *replayReport) end(code int, err error) error {
	if r.json {
		e := replayEvent{Event: "end", ExitCode: &code, Seconds: time.Since(r.began).Seconds()}
		if err != nil {
			e.Error = err.Error()
		}
		r.event(e)
	}
	return exitWith(exitFailed, r.failed)
}
