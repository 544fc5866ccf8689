package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/zstdfile"
)

func newDLQExport() *cobra.Command {
	var flags letterFlags
	var to string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write dead letters as JSON lines, with all that is needed to bring them back",
		Long: "export writes dead letters, one JSON object a line, of a running server or of the files of a stopped one:\n" +
			"mend them with jq and bring them back with `walproxy dlq import`, or import them on another machine. They\n" +
			"stay what they are here. The count is told on stderr. A file whose name ends in .zst is compressed with\n" +
			"zstd; `walproxy dlq import` sees that by itself.",
		Example: "  walproxy dlq export > letters.ndjson\n" +
			"  walproxy dlq export --sink main --collection orders --out letters.ndjson.zst\n" +
			"  walproxy dlq export --code 22003 | jq -c '.mutation.set.total = 0' | walproxy dlq import -",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := flags.selection()
			if err != nil {
				return err
			}
			box, err := flags.open(cmd)
			if err != nil {
				return err
			}
			defer closeBox(box, &err)
			return flags.exportTo(cmd, box, s, to)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&to, "out", "", "write them to this `file`, which must not be there yet, instead of stdout")
	return cmd
}

func (f *letterFlags) exportTo(cmd *cobra.Command, box letterBox, s selection, to string) error {
	names, err := f.sinksOf(cmd.Context(), box)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	var file *os.File
	if to != "" {
		if file, err = os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return usage("--out: %w", err)
		}
		out = file
	}
	var packed io.WriteCloser
	if zstdfile.Named(to) {
		if packed, err = zstdfile.NewWriter(file); err != nil {
			return exitWith(exitFailed, errors.Join(err, file.Close()))
		}
		out = packed
	}
	w := &lineWriter{out: bufio.NewWriterSize(out, 1<<16)}
	for _, name := range names {
		w.last = 0
		if err = box.export(cmd.Context(), name, &s.filter, s.from, w); err != nil {
			break
		}
	}
	if flushErr := w.out.Flush(); err == nil {
		err = exitWith(exitFailed, flushErr)
	}
	if packed != nil {
		if packErr := packed.Close(); err == nil {
			err = exitWith(exitFailed, packErr)
		}
	}
	if file != nil {
		if fileErr := errors.Join(file.Sync(), file.Close()); err == nil {
			err = exitWith(exitFailed, fileErr)
		}
	}
	if err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "exported %d dead letters of %s; they are still there\n", w.count, box.where())
	}
	return err
}

func newDLQImport() *cobra.Command {
	var flags letterFlags
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Bring exported dead letters back, as they are or mended; - reads stdin",
		Long: "import takes the lines of `walproxy dlq export` and has each logged again, as it came or mended, and waits\n" +
			"for what becomes of it. On the server that it is of a line is a retry of that dead letter, as the line\n" +
			"has it; what is none any more is passed over. On another one it is a new write for the sink alone, written\n" +
			"once however often it is imported (within the window of request ids): discard it where it came from\n" +
			"when it is applied here. Keep the lines in their order.",
		Example: "  walproxy dlq import letters.ndjson\n" +
			"  walproxy dlq import --sink main --timeout 5m --json - < letters.ndjson",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			box, err := flags.openServer(cmd)
			if err != nil {
				return err
			}
			in := io.NopCloser(cmd.InOrStdin())
			if args[0] != "-" {
				if in, err = os.Open(args[0]); err != nil {
					return usage("%w", err)
				}
			}
			defer func() { _ = in.Close() }() // read only
			text, err := zstdfile.NewReader(in)
			if err != nil {
				return exitWith(exitFailed, err)
			}
			defer func() { _ = text.Close() }()
			i := importer{cmd: cmd, box: box, sink: flags.sink, lines: bufio.NewReaderSize(text, 1<<16), deadline: time.Now().Add(timeout)}
			err = i.run(cmd.Context())
			return errors.Join(err, i.tell(asJSON))
		},
	}
	flags.placeFlags.register(cmd)
	cmd.Flags().StringVar(&flags.sink, "sink", "", "`name` of the sink to import for; without it each line's own")
	registerOutcome(cmd, &timeout, &asJSON)
	return cmd
}

// importer sends lines to the server, those of one sink in one request.
type importer struct {
	cmd      *cobra.Command
	box      *remoteLetters
	sink     string // that they are for; empty: each line's own
	lines    *bufio.Reader
	deadline time.Time

	number int    // of the line that was read last
	next   []byte // a line that was read and not sent
	of     string // its sink

	result outcomes
	passed int // no dead letters any more
	wrong  int
	failed []string // the first of what was wrong
}

// lineBytesMax bounds a line.
const lineBytesMax = 64 << 20

// read returns the next line that is not empty and its sink, io.EOF behind the last.
func (i *importer) read() (line []byte, sink string, err error) {
	if i.next != nil {
		line, i.next = i.next, nil
		return line, i.of, nil
	}
	for {
		line = line[:0]
		for {
			part, err := i.lines.ReadSlice('\n')
			line = append(line, part...)
			if len(line) > lineBytesMax {
				return nil, "", usage("line %d is longer than %d bytes", i.number+1, lineBytesMax)
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, "", exitWith(exitFailed, err)
			}
			if err != nil && len(line) == 0 {
				return nil, "", io.EOF
			}
			break
		}
		i.number++
		if line = bytes.TrimSpace(line); len(line) > 0 {
			break
		}
	}
	var head struct{ Sink string }
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, "", usage("line %d is no line of an export: %w", i.number, err)
	}
	if i.sink != "" {
		head.Sink = i.sink
	}
	if head.Sink == "" {
		return nil, "", usage("line %d is no line of an export: it names no sink", i.number)
	}
	return append([]byte(nil), line...), head.Sink, nil
}

// run sends all lines.
func (i *importer) run(ctx context.Context) error {
	for {
		line, sink, err := i.read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		i.next, i.of = line, sink
		if err := i.send(ctx, sink); err != nil {
			return err
		}
	}
}

// importBatch is how many lines go in one request.
const importBatch = 500

// send sends lines of sink, up to a batch of them or the first of another.
func (i *importer) send(ctx context.Context, sink string) error {
	var body bytes.Buffer
	var lsns []walproxy.LSN
	first := 0
	var broken error
	for len(lsns) < importBatch && body.Len() < 16<<20 {
		line, of, err := i.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			broken = err // what is before it is still sent
			break
		}
		if of != sink {
			i.next, i.of = line, of
			break
		}
		if len(lsns) == 0 {
			first = i.number
		}
		var head struct{ LSN walproxy.LSN }
		_ = json.Unmarshal(line, &head) // it was read before
		lsns = append(lsns, head.LSN)
		body.Write(append(line, '\n'))
	}
	wait := min(max(time.Until(i.deadline), time.Second), apiTimeoutMax)
	ctx, cancel := context.WithTimeout(ctx, wait+callTimeout)
	defer cancel()
	answer, err := i.box.stream(ctx, "POST", lettersPath(sink)+":import?ack=applied&timeout="+wait.String(), "application/x-ndjson", &body)
	if err != nil {
		return errors.Join(err, broken)
	}
	defer func() { _ = answer.Body.Close() }() // it was read
	return errors.Join(i.answers(answer.Body, sink, lsns, first), broken)
}

// answers reads what became of the lines from first on.
func (i *importer) answers(in io.Reader, sink string, lsns []walproxy.LSN, first int) error {
	lines := bufio.NewReader(in)
	for n := range lsns {
		text, err := lines.ReadBytes('\n')
		var one struct {
			LSN   walproxy.LSN
			State string
			Error *struct {
				Status    int
				Code      string
				Message   string
				Retryable bool
				Details   struct {
					RetriedAs walproxy.LSN `json:"retried_as"`
					GivenUp   bool         `json:"given_up"`
				}
			}
		}
		if err != nil || json.Unmarshal(text, &one) != nil {
			return exitWith(exitFailed, fmt.Errorf("the answer broke off at line %d: import the same again, which does no harm", first+n))
		}
		switch {
		case one.Error == nil:
			i.result.add(outcome{Sink: sink, Origin: lsns[n], LSN: one.LSN, State: one.State})
		case one.Error.Status == 404 || one.Error.Code == "retried":
			i.passed++
		default:
			if i.wrong++; len(i.failed) == outcomesShown {
				continue
			}
			i.failed = append(i.failed, fmt.Sprintf("line %d (LSN %d): %s", first+n, lsns[n], one.Error.Message))
		}
	}
	return nil
}

// importAnswer is what --json prints.
type importAnswer struct {
	*outcomes
	Lines  int      `json:"lines"`
	Passed int      `json:"passed"` // no dead letters any more
	Wrong  int      `json:"wrong"`
	Failed []string `json:"failed,omitempty"`
}

func (i *importer) tell(asJSON bool) error {
	if asJSON {
		if i.result.Retried == nil {
			i.result.Retried = []outcome{}
		}
		if err := printJSON(i.cmd, importAnswer{&i.result, i.number, i.passed, i.wrong, i.failed}); err != nil {
			return err
		}
	} else {
		out := i.cmd.OutOrStdout()
		fmt.Fprintf(out, "%d lines: %d applied, %d dead, %d parked, %d not known yet, %d passed over (no dead letters any more, or under way), %d refused\n",
			i.number, i.result.Applied, i.result.Dead, i.result.Parked, i.result.Unknown, i.passed, i.wrong)
		for n, text := range i.failed {
			if n == chosenShown {
				fmt.Fprintf(out, "  and %d more\n", i.wrong-n)
				break
			}
			fmt.Fprintln(out, "  "+text)
		}
	}
	if i.wrong > 0 {
		return exitWith(exitUsage, fmt.Errorf("%d lines were refused, and nothing of them was written", i.wrong))
	}
	return i.result.verdict()
}
