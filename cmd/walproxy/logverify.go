package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

func newLogVerify() *cobra.Command {
	var flags logFlags
	var v logVerify
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check every record of the log against its checksums",
		Long: "verify reads the whole log and checks every frame: that its checksums are right, that it stands\n" +
			"where it was written, that no LSN is missing. --full decodes the records as well; --tail looks only\n" +
			"at what a start looks at. Beside a running server it checks what is durable. It changes nothing.\n\n" +
			"A torn tail is what a crash leaves of a write that nobody was told is durable: the next start sets\n" +
			"it aside. Damage is another matter: acknowledged records are hit. A start is refused if it meets it,\n" +
			"a sink stops at it, and `walproxy log repair` keeps what is left.",
		Example: "  walproxy log verify --data-dir /var/lib/walproxy\n" +
			"  walproxy log verify --full --json --data-dir /var/lib/walproxy\n" +
			"  walproxy log verify --tail --data-dir /var/lib/walproxy",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := flags.inspect(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return v.run(ctx, cmd, in)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&v.full, "full", false, "decode every record as well")
	cmd.Flags().BoolVar(&v.tail, "tail", false, "only what a start looks at: headers and the last segment")
	cmd.Flags().IntVar(&v.workers, "workers", 0, "verify `n` segments at the same time (default: one for each processor)")
	cmd.Flags().BoolVar(&v.json, "json", false, "one JSON object")
	cmd.MarkFlagsMutuallyExclusive("full", "tail")
	exits(cmd, map[int]string{
		exitOK:      "every record is as it was written",
		exitTorn:    "it ends in a torn tail; nothing that was acknowledged is hit",
		exitDamaged: "acknowledged data is damaged, or records cannot be decoded (--full)",
	})
	return cmd
}

type logVerify struct {
	full, tail, json bool
	workers          int
}

// logVerdict is what `log verify --json` prints.
type logVerdict struct {
	Dir      string        `json:"dir"`
	OK       bool          `json:"ok"`
	Torn     bool          `json:"torn_tail"`
	Damaged  bool          `json:"damaged"`
	Refusal  string        `json:"start_refused,omitempty"`
	Checked  string        `json:"checked"` // frames, full, tail
	First    wal.LSN       `json:"first_lsn"`
	Last     wal.LSN       `json:"last_lsn"`
	Durable  wal.LSN       `json:"durable_lsn"`
	Segments int           `json:"segments"`
	Records  uint64        `json:"records"`
	Bytes    int64         `json:"bytes"`
	Seconds  float64       `json:"seconds"`
	Lost     []rangeJSON   `json:"lost"`
	Gaps     []rangeJSON   `json:"gaps"`
	Findings []findingJSON `json:"findings"`
	More     int           `json:"more_findings,omitempty"`
}

type rangeJSON struct {
	First wal.LSN `json:"first_lsn"`
	Last  wal.LSN `json:"last_lsn"`
}

type findingJSON struct {
	Segment string           `json:"segment,omitempty"`
	State   wal.SegmentState `json:"state,omitempty"`
	damageJSON
}

func (v *logVerify) run(ctx context.Context, cmd *cobra.Command, in *wal.Inspection) error {
	began := time.Now()
	out := logVerdict{Dir: in.Dir, First: in.First, Last: in.Last, Durable: in.Durable, Segments: len(in.Segments), Checked: "frames",
		Lost: []rangeJSON{}, Gaps: []rangeJSON{}, Findings: []findingJSON{}}
	if in.Refusal != nil {
		out.Refusal = in.Refusal.Error()
	}
	for _, err := range in.Damage {
		out.Findings = append(out.Findings, findingJSON{damageJSON: newDamageJSON(err)})
	}
	if v.tail {
		out.tail(in)
	} else {
		if v.full {
			out.Checked = "full"
		}
		report, err := v.verify(ctx, cmd.ErrOrStderr(), in)
		if err != nil {
			return exitWith(exitFailed, fmt.Errorf("interrupted, the rest is not verified: %w", err))
		}
		out.whole(report)
	}
	out.OK, out.Seconds = !out.Torn && !out.Damaged, time.Since(began).Seconds()
	if v.json {
		return errors.Join(printJSON(cmd, out), out.exit())
	}
	return errors.Join(out.text(cmd.OutOrStdout(), in), out.exit())
}

// exit is the verdict as an exit code.
func (d logVerdict) exit() error {
	switch {
	case d.Damaged && d.Refusal != "":
		return exitWith(exitDamaged, errors.New("the log is damaged; `walproxy log repair` keeps what is left"))
	case d.Damaged:
		return exitWith(exitDamaged, errors.New("the log is damaged"))
	case d.Torn:
		return exitWith(exitTorn, errors.New("the log ends in a torn tail, which was never acknowledged; the next `walproxy serve` sets it aside"))
	}
	return nil
}

// tail judges by what a start looks at.
func (d *logVerdict) tail(in *wal.Inspection) {
	d.Checked, d.Damaged = "tail", in.Refusal != nil
	for _, s := range in.Segments {
		add := func(err error) {
			d.Findings = append(d.Findings, findingJSON{fmt.Sprintf("%016x", s.Seq), s.State, newDamageJSON(err)})
		}
		for _, c := range s.Damage {
			d.Damaged = true
			add(c)
		}
		if s.Torn != nil {
			d.Torn = true
			add(s.Torn)
		}
	}
}

// whole takes over what was found in all of the log.
func (d *logVerdict) whole(r *wal.Report) {
	d.Torn, d.Damaged, d.Records, d.Bytes = r.Torn, r.Damaged, r.Records, r.Verified
	for _, s := range r.Segments {
		for _, err := range s.Findings {
			d.Findings = append(d.Findings, findingJSON{fmt.Sprintf("%016x", s.Seq), s.State, newDamageJSON(err)})
		}
		d.More += s.More
	}
	for _, l := range r.Lost {
		d.Lost = append(d.Lost, rangeJSON(l))
	}
	for _, g := range r.Gaps {
		d.Gaps = append(d.Gaps, rangeJSON(g))
	}
}

// verify reads everything, with a bar if somebody looks.
func (v *logVerify) verify(ctx context.Context, errOut io.Writer, in *wal.Inspection) (*wal.Report, error) {
	o := wal.VerifyOptions{Workers: v.workers}
	if v.full {
		o.Visit = func(f wal.Frame) error {
			_, err := mutation.Decode(f.Payload)
			return err
		}
	}
	if f, ok := errOut.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		var total int64
		for _, s := range in.Segments {
			total += s.Bytes
		}
		bar := newBytesBar(f, total, "verified")
		o.Progress = bar.add
		defer bar.finish()
	}
	return in.Verify(ctx, o)
}

// bytesBar shows on a terminal how many bytes are done.
type bytesBar struct {
	bar   *progressbar.ProgressBar
	bytes atomic.Int64
}

func newBytesBar(out io.Writer, total int64, what string) *bytesBar {
	return &bytesBar{bar: progressbar.NewOptions64(total, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())}
}

// add may be called by several goroutines. Drawing may fail: it is a courtesy.
func (b *bytesBar) add(n int64) { _ = b.bar.Set64(b.bytes.Add(n)) }

func (b *bytesBar) finish() { _ = b.bar.Clear() }

// text prints the verdict for people.
func (d logVerdict) text(out io.Writer, in *wal.Inspection) error {
	if len(d.Findings) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "SEGMENT\tFOUND\tOFFSET\tRECORDS HIT\tWHAT")
		for _, f := range d.Findings {
			hit := "none"
			if f.First != 0 {
				hit = rangeText(f.First, max(f.First, f.Last))
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", orDash(f.Segment), f.Kind, f.Offset, hit, f.Text)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if d.More > 0 {
			fmt.Fprintf(out, "and %d more\n", d.More)
		}
		fmt.Fprintln(out)
	}
	for _, l := range d.Lost {
		fmt.Fprintf(out, "lost: %s (%d records)\n", rangeText(l.First, l.Last), l.Last-l.First+1)
	}
	for _, g := range d.Gaps {
		fmt.Fprintf(out, "given up by an earlier repair: %s\n", rangeText(g.First, g.Last))
	}
	switch {
	case d.Refusal != "":
		fmt.Fprintf(out, "a start would be refused: %s\n", d.Refusal)
	case in.Owner != nil:
		fmt.Fprintf(out, "%s: what is durable was checked\n", stateText(in))
	}
	result := map[bool]string{true: "ok"}[d.OK]
	switch {
	case d.Damaged:
		result = "damaged"
	case d.Torn:
		result = "torn tail"
	}
	if d.Checked == "tail" {
		_, err := fmt.Fprintf(out, "%s: headers of %d segments and the tail; %s\n", result, d.Segments, rangeText(d.First, d.Last))
		return err
	}
	_, err := fmt.Fprintf(out, "%s: %d records in %d segments, %s, %s in %.2f s (%s/s)\n", result, d.Records, d.Segments,
		rangeText(d.First, d.Last), sizeText(d.Bytes), d.Seconds, sizeText(int64(float64(d.Bytes)/max(d.Seconds, 1e-6))))
	return err
}
