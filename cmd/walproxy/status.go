package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

func newStatus() *cobra.Command {
	var flags placeFlags
	var watch, asJSON bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show on one screen whether writes are taken, the sinks move, and the disk lasts",
		Long: "status asks the running server, or says what the files of a stopped one tell. Rates are the server's own,\n" +
			"measured over the last minute at most. What needs a person comes last, with the command that helps, and\n" +
			"decides over the exit code: writes are refused, a sink has halted or does not get on, the disk is full\n" +
			"within the hour, no server runs. A paused sink and dead letters are shown, and are no reason by themselves.\n" +
			"--watch shows it again and again until it is interrupted, in place on a terminal that can, else one below\n" +
			"the other; with --json one object a line.",
		Example: "  walproxy status\n" +
			"  walproxy status --watch --interval 1s\n" +
			"  walproxy status --json --server http://127.0.0.1:7070",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usage("--interval: %v: want at least 100ms", interval)
			}
			if watch {
				return watchStatus(cmd, &flags, interval, asJSON)
			}
			v, err := flags.view(cmd)
			if err != nil {
				return err
			}
			if err := v.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			return v.verdict()
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "how `long` between two, with --watch")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	exits(cmd, map[int]string{
		exitOK:        "healthy: writes are taken, and every sink has everything, gets on or is paused; or --watch was interrupted",
		exitUnhealthy: "something needs a person: what, is said last",
		exitFailed:    "the server does not answer",
	})
	return cmd
}

// statusView is what is shown, and what --json prints.
type statusView struct {
	Time    time.Time `json:"time"`
	Running bool      `json:"running"`
	Healthy bool      `json:"healthy"`
	// Attention is what needs a person; Notes are what is worth knowing.
	Attention []string `json:"attention"`
	Notes     []string `json:"notes"`
	Server    string   `json:"server,omitempty"`
	Dir       string   `json:"data_dir,omitempty"`
	// Status of a running server: what GET /v1/status says.
	Status json.RawMessage `json:"status,omitempty"`
	// Stopped: what the files say.
	Stopped *stoppedStatus `json:"stopped,omitempty"`

	live *liveStatus
}

// stoppedStatus is what the files of a data directory say.
type stoppedStatus struct {
	First           wal.LSN   `json:"first"`
	Last            wal.LSN   `json:"last"`
	Clean           bool      `json:"clean"`
	Refusal         string    `json:"refusal,omitempty"`
	LogBytes        int64     `json:"log_bytes"`
	Segments        int       `json:"segments"`
	QuarantineBytes int64     `json:"quarantine_bytes"`
	FreeBytes       int64     `json:"free_bytes"`
	MaxBytes        int64     `json:"max_bytes"`
	MinFree         int64     `json:"min_free"`
	Sinks           []sinkRow `json:"sinks"`
	// StateError is why nothing is known of the sinks.
	StateError string `json:"state_error,omitempty"`
}

// liveStatus is what is shown of GET /v1/status.
type liveStatus struct {
	Stream        string  `json:"stream"`
	Accepting     bool    `json:"accepting"`
	Refusing      string  `json:"refusing"`
	WindowSeconds float64 `json:"window_seconds"`
	StateBytes    int64   `json:"state_bytes"`
	Log           struct {
		First       uint64  `json:"first"`
		Durable     uint64  `json:"durable"`
		Bytes       int64   `json:"bytes"`
		FreeBytes   int64   `json:"free_bytes"`
		MaxBytes    int64   `json:"max_bytes"`
		MinFree     int64   `json:"min_free"`
		Quarantine  int64   `json:"quarantine_bytes"`
		RecordsRate float64 `json:"records_per_second"`
		BytesRate   float64 `json:"bytes_per_second"`
		GrowthRate  float64 `json:"growth_bytes_per_second"`
		FullSeconds float64 `json:"full_in_seconds"`
	} `json:"log"`
	Sinks []liveSinkStatus `json:"sinks"`
}

type liveSinkStatus struct {
	liveSink
	Paused          bool     `json:"paused"`
	LagAtMost       bool     `json:"lag_at_most,omitempty"`
	MaxLagBytes     int64    `json:"max_lag_bytes"`
	RatesKnown      bool     `json:"rates_known"`
	AddedRate       float64  `json:"records_added_per_second"`
	PassedRate      float64  `json:"records_passed_per_second"`
	LagRate         float64  `json:"lag_shrinks_bytes_per_second"`
	LevelSeconds    float64  `json:"level_in_seconds"`
	OldestSeconds   float64  `json:"oldest_seconds"`
	DeadLetterBytes int64    `json:"dead_letter_bytes"`
	HeldRecords     uint64   `json:"held_records"`
	HeldBytes       int64    `json:"held_bytes"`
	LostRecords     uint64   `json:"lost_records"`
	Unsettled       uint64   `json:"unsettled"`
	Warnings        []string `json:"warnings"`
}

// view asks the server, or looks at the files.
func (f *placeFlags) view(cmd *cobra.Command) (*statusView, error) {
	p, err := f.find(cmd)
	if err != nil {
		return nil, err
	}
	v := &statusView{Time: time.Now().UTC(), Dir: p.dir, Attention: []string{}, Notes: []string{}}
	if p.server == nil {
		err = v.lookAtFiles(cmd.Context(), p)
	} else {
		v.Running, v.Server = true, p.server.api
		err = v.ask(cmd.Context(), p.server)
	}
	v.Healthy = len(v.Attention) == 0
	return v, err
}

func (v *statusView) attend(format string, args ...any) {
	v.Attention = append(v.Attention, fmt.Sprintf(format, args...))
}

func (v *statusView) note(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}

func (v *statusView) ask(ctx context.Context, r *remote) error {
	if err := r.call(ctx, "GET", "/v1/status", nil, &v.Status); err != nil {
		return err
	}
	v.live = &liveStatus{}
	if err := json.Unmarshal(v.Status, v.live); err != nil {
		return exitWith(exitFailed, fmt.Errorf("the status of %s cannot be read: %w", r.api, err))
	}
	v.judge()
	return nil
}

// fullSoon is when a disk that fills needs a person.
const fullSoon = time.Hour

// judge finds what needs a person in a server's status.
func (v *statusView) judge() {
	st := v.live
	if !st.Accepting {
		v.attend("WRITES ARE REFUSED: %s", st.Refusing)
	}
	if s := st.Log.FullSeconds; s > 0 && s < fullSoon.Seconds() {
		v.attend("the disk is full in about %s at this rate: docs/runbooks.md, \"The disk is filling\"", roughly(s))
	}
	for i := range st.Sinks {
		s := &st.Sinks[i]
		switch s.word(st.WindowSeconds) {
		case sinkHalted:
			v.attend("sink %s has HALTED: %s; when that is mended: walproxy sink resume %s", s.Name, s.Error, s.Name)
		case sinkAway:
			v.attend("sink %s does not get on, its store fails: %s; nothing is lost, it goes on when the store does", s.Name, s.Error)
		case sinkStands:
			v.attend("sink %s DOES NOT MOVE, with %d records behind it and no error yet", s.Name, s.Lag)
		case sinkPaused:
			v.note("sink %s is paused: walproxy sink resume %s", s.Name, s.Name)
		}
		if s.MaxLagBytes > 0 && s.LagBytes >= s.MaxLagBytes-s.MaxLagBytes/10 {
			v.attend("sink %s is at its max_lag_bytes: writes to it are refused until it catches up", s.Name)
		}
		if s.DeadLetters > 0 {
			v.note("sink %s has %d dead letters: walproxy dlq ls --sink %s", s.Name, s.DeadLetters, s.Name)
		}
		for _, warning := range s.Warnings {
			v.note("sink %s: %s", s.Name, warning)
		}
		if s.LostRecords > 0 {
			v.note("sink %s passed %d records that a repair of the log gave up as lost", s.Name, s.LostRecords)
		}
	}
	if st.Log.Quarantine > 0 {
		v.note("%s are in the log's quarantine, set aside by starts or repairs", sizeText(st.Log.Quarantine))
	}
}

// How a sink is, in a word.
const (
	sinkLevel    = "level"
	sinkMoving   = "moving"
	sinkStands   = "NOT MOVING"
	sinkAway     = "STORE AWAY"
	sinkPaused   = "paused"
	sinkHalted   = "HALTED"
	sinkStarting = "starting"
)

// standsAfter is how long a sink may do nothing before that is said.
const standsAfter = 20 // seconds

func (s *liveSinkStatus) word(window float64) string {
	switch {
	case s.Paused:
		return sinkPaused
	case s.State == "halted":
		return sinkHalted
	case s.State == "retrying", s.State == "starting" && s.Error != "":
		return sinkAway
	case s.State == "starting":
		return sinkStarting
	case s.Lag == 0:
		return sinkLevel
	case s.PassedRate == 0 && window >= standsAfter && s.OldestSeconds >= standsAfter:
		return sinkStands
	}
	return sinkMoving
}

func (v *statusView) lookAtFiles(ctx context.Context, p *place) error {
	st := &stoppedStatus{Sinks: []sinkRow{}, MaxBytes: int64(p.config.Log.MaxBytes), MinFree: int64(p.config.Log.MinFree)}
	v.Stopped = st
	in, err := wal.Inspect(filepath.Join(p.dir, "log"), wal.InspectOptions{})
	if errors.Is(err, wal.ErrNoLog) {
		err = nil
	}
	v.attend("no server runs for %s: nothing is taken and nothing applied; start it: walproxy serve", p.dir)
	if in != nil {
		st.First, st.Last, st.Clean, st.Segments = in.First, in.Last, in.Clean, len(in.Segments)
		for _, s := range in.Segments {
			st.LogBytes += s.Bytes
		}
		for _, a := range in.Aside {
			if a.State == wal.StateQuarantined {
				st.QuarantineBytes += a.Bytes
			}
		}
		err = in.Refusal
	}
	if err != nil {
		st.Refusal = err.Error()
		v.attend("a start would refuse the log: %s; docs/runbooks.md, \"The start is refused\"", st.Refusal)
	}
	if space, err := vfs.OS().Space(p.dir); err == nil {
		st.FreeBytes = space.Free
	}
	_, rows, err := stoppedSinks(ctx, p, false)
	if err != nil {
		st.StateError = err.Error()
		v.attend("nothing is known of the sinks: %v", err)
		return nil
	}
	st.Sinks = rows
	for i := range rows {
		if rows[i].DeadLetters > 0 {
			v.note("sink %s has %d dead letters: walproxy dlq ls --sink %s", rows[i].Name, rows[i].DeadLetters, rows[i].Name)
		}
	}
	return nil
}

// verdict is the exit code.
func (v *statusView) verdict() error {
	if v.Healthy {
		return nil
	}
	return exitWith(exitUnhealthy, fmt.Errorf("not healthy: %s", short(strings.Join(v.Attention, "; "), 300)))
}

func (v *statusView) print(out io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	_, err := io.WriteString(out, strings.Join(v.lines(widthOf(out)), "\n")+"\n")
	return err
}

// widthOf is the width of a terminal; 0: it is none, and lines may be long.
func widthOf(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}

// redraws reports whether out can be drawn over: a terminal that is not a dumb one.
func redraws(out io.Writer) bool {
	name := os.Getenv("TERM")
	return widthOf(out) > 0 && name != "" && name != "dumb"
}

// watchStatus shows the status until it is interrupted. That the server does not
// answer, or no more, is shown, too.
func watchStatus(cmd *cobra.Command, flags *placeFlags, interval time.Duration, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd.SetContext(ctx)
	out := cmd.OutOrStdout()
	draw := redraws(out) && !asJSON
	s := newScreen(out)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		v, err := flags.view(cmd)
		if err != nil && ctx.Err() == nil {
			var coded *exitError
			if errors.As(err, &coded) && coded.code == exitUsage {
				return err
			}
			v = &statusView{Time: time.Now().UTC(), Attention: []string{err.Error()}, Notes: []string{}}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case draw:
			s.draw(fit(v.lines(widthOf(out)), out))
		default:
			if err := v.print(out, asJSON); err != nil {
				return err
			}
			if !asJSON {
				fmt.Fprintln(out)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// fit leaves out what a terminal has no lines for: what was drawn beyond them could not
// be drawn over.
func fit(lines []string, out io.Writer) []string {
	f, ok := out.(*os.File)
	if !ok {
		return lines
	}
	_, height, err := term.GetSize(int(f.Fd()))
	if err != nil || height < 3 || len(lines) < height {
		return lines
	}
	return append(lines[:height-2:height-2], "... the terminal is too low for the rest")
}
