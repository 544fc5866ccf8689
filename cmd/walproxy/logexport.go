package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/internal/portable"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

func newLogExport() *cobra.Command {
	var flags logFlags
	var e logExport
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write log and state store to one file, to be imported elsewhere",
		Long: "export writes the log, and the state store beside it (dead letters, held records, claims, request\n" +
			"ids: acknowledged writes are among them), to one file with checksums, which `walproxy log import`\n" +
			"makes a data directory of. It changes nothing, and needs no more than to read a dead machine's disk.\n" +
			"The stores do not travel: an embedded one is a directory of its own.\n\n" +
			"Beside a running server the state store cannot be read: stop the server, or say --without-state and\n" +
			"know that what it holds stays behind. A damaged log is not exported unless --keep-going: then what\n" +
			"is lost of it is lost in the file, and said.",
		Example: "  walproxy log export /mnt/usb/walproxy.export --data-dir /var/lib/walproxy --zstd\n" +
			"  walproxy log export rescue.export --data-dir /mnt/broken/walproxy --keep-going",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return e.run(ctx, cmd, c.DataDir, args[0])
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&e.withoutState, "without-state", false, "leave the state store out: dead letters and held records stay behind")
	cmd.Flags().BoolVar(&e.keepGoing, "keep-going", false, "export what is left of a damaged log")
	cmd.Flags().BoolVar(&e.zstd, "zstd", false, "compress")
	cmd.Flags().BoolVar(&e.json, "json", false, "one JSON object")
	exits(cmd, map[int]string{
		exitDamaged: "the log is damaged: nothing was exported, or with --keep-going all that is left",
	})
	return cmd
}

type logExport struct {
	withoutState, keepGoing, zstd, json bool

	ctx    context.Context
	dir    string
	out    *portable.Writer
	report exportReport
}

// exportReport is what `log export --json` and `log import --json` print.
type exportReport struct {
	File     string        `json:"file"`
	Dir      string        `json:"dir"`
	Head     portable.Head `json:"head"`
	First    wal.LSN       `json:"first_lsn"`
	Dead     uint64        `json:"dead_letters"`
	Held     uint64        `json:"held_records"`
	Lost     []rangeJSON   `json:"lost"`
	MoreLost int           `json:"more_lost,omitempty"` // ranges
	Damage   []damageJSON  `json:"damage"`
	More     int           `json:"more_damage,omitempty"`
	portable.Summary
}

// damageMax bounds what is listed.
const damageMax = 1000

func (r *exportReport) damaged(err error) {
	if len(r.Damage) < damageMax {
		r.Damage = append(r.Damage, newDamageJSON(err))
	} else {
		r.More++
	}
}

func (r *exportReport) lost(what rangeJSON) {
	if len(r.Lost) < damageMax {
		r.Lost = append(r.Lost, what)
	} else {
		r.MoreLost++
	}
}

func (r *exportReport) lostText(out io.Writer, what string) {
	for _, l := range r.Lost {
		fmt.Fprintf(out, "%s: %s\n", what, rangeText(l.First, l.Last))
	}
	if r.MoreLost > 0 {
		fmt.Fprintf(out, "%s: %d more ranges\n", what, r.MoreLost)
	}
}

// count counts what is in the state store, by the kind of its entries.
func (r *exportReport) count(key []byte) {
	switch state.KindOf(key) {
	case state.KindDeadLetter:
		r.Dead++
	case state.KindHeld:
		r.Held++
	}
}

func (e *logExport) run(ctx context.Context, cmd *cobra.Command, dataDir, name string) error {
	e.ctx, e.dir = ctx, dataDir
	e.report = exportReport{File: name, Dir: dataDir, Lost: []rangeJSON{}, Damage: []damageJSON{}}
	if err := isDataDir(dataDir); err != nil {
		return exitWith(exitStart, err)
	}
	err := e.toFile(name)
	if err != nil {
		var coded *exitError
		if !errors.As(err, &coded) {
			err = exitWith(exitFailed, err)
		}
		return fmt.Errorf("nothing was exported: %w", err)
	}
	if e.json {
		err = printJSON(cmd, e.report)
	} else {
		err = e.text(cmd.OutOrStdout())
	}
	if len(e.report.Damage) > 0 {
		err = errors.Join(err, exitWith(exitDamaged, errors.New("the log is damaged: what is left of it was exported")))
	}
	return err
}

// toFile writes the file under another name until it is whole.
func (e *logExport) toFile(name string) (err error) {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return exitWith(exitUsage, fmt.Errorf("%s exists: name another file, or remove it", name))
	}
	part := name + ".part"
	file, err := os.Create(part)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(part))
		}
	}()
	buffered := bufio.NewWriterSize(file, 1<<20)
	if err := e.write(buffered); err != nil {
		return err
	}
	if err := errors.Join(buffered.Flush(), file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(part, name); err != nil {
		return err
	}
	return errors.Join(file.Close(), syncDir(filepath.Dir(name)))
}

func syncDir(name string) error { return vfs.OS().SyncDir(name) }

// write writes log and state store. The state store is open all the while, so that
// no server can start and change either.
func (e *logExport) write(w io.Writer) error {
	if e.withoutState {
		if err := e.log(w, uuid.Nil, 0); err != nil {
			return err
		}
		return e.end()
	}
	dir := filepath.Join(e.dir, "state")
	err := state.Dump(dir, nil,
		func(stream uuid.UUID, boot uint64) error { return e.log(w, stream, boot) },
		func(key, value []byte) error {
			if e.ctx.Err() != nil {
				return context.Cause(e.ctx)
			}
			e.report.count(key)
			return e.out.State(key, value)
		})
	const left = "; --without-state exports the log alone: dead letters, held records, claims and request ids stay behind then"
	switch {
	case errors.Is(err, state.ErrBusy):
		return exitWith(exitStart, fmt.Errorf("%w: stop the server first%s", err, left))
	case errors.Is(err, fs.ErrNotExist) && e.out == nil:
		return exitWith(exitStart, fmt.Errorf("the state store is missing: %w%s", err, left))
	case err != nil:
		return err
	}
	return e.end()
}

func (e *logExport) end() (err error) {
	e.report.Summary, err = e.out.Close()
	return err
}

// log writes the head and the log. A stream and a boot counter are the state store's.
func (e *logExport) log(w io.Writer, stream uuid.UUID, boot uint64) error {
	in, err := inspectLog(e.dir)
	if err != nil {
		return err
	}
	if stream != uuid.Nil && in.Stream != stream {
		return exitWith(exitStart, fmt.Errorf("%w: it is %s's, the log is stream %s; --without-state exports the log alone", state.ErrForeign, stream, in.Stream))
	}
	head := portable.Head{Export: uuid.New(), Created: time.Now().UTC(), Program: versionName(), Stream: in.Stream, First: in.First,
		State: !e.withoutState, Live: in.Owner != nil}
	for _, s := range in.Segments {
		head.Boot = max(head.Boot, s.Boot)
	}
	if !e.withoutState && head.Boot > boot {
		return exitWith(exitStart, fmt.Errorf("%w: it knows of %d starts, the log of %d; --without-state exports the log alone", state.ErrOlder, boot, head.Boot))
	}
	for _, p := range in.Incarnations {
		head.Incarnations = append(head.Incarnations, portable.Incarnation{ID: p.Incarnation, First: p.LSN})
	}
	for _, err := range in.Damage {
		if err := e.hurt(err); err != nil {
			return err
		}
	}
	if e.out, err = portable.NewWriter(w, head, e.zstd); err != nil {
		return err
	}
	e.report.Head, e.report.First = head, head.First
	return e.frames(in)
}

// hurt is nil if the export goes on over damage.
func (e *logExport) hurt(err error) error {
	if !e.keepGoing {
		return exitWith(exitDamaged, fmt.Errorf("%w; `walproxy log verify` says all about it, --keep-going exports what is left", err))
	}
	e.report.damaged(err)
	return nil
}

func (e *logExport) frames(in *wal.Inspection) error {
	next := in.First
	lost := func(upTo wal.LSN) error {
		if upTo < next {
			return nil
		}
		e.report.lost(rangeJSON{next, upTo})
		err := e.out.Gap(next, upTo)
		next = upTo + 1
		return err
	}
	for f, err := range in.Frames(in.First) {
		if e.ctx.Err() != nil {
			return context.Cause(e.ctx)
		}
		if _, torn := errors.AsType[*wal.TornTailError](err); torn {
			continue // never acknowledged
		}
		if err != nil {
			if err := e.hurt(err); err != nil {
				return err
			}
			continue
		}
		if err := lost(f.LSN - 1); err != nil {
			return err
		}
		if f.Gap {
			err = e.out.Gap(f.LSN, f.Last)
		} else {
			err = e.out.Record(f.LSN, f.Payload)
		}
		if err != nil {
			return err
		}
		next = f.Last + 1
	}
	if len(e.report.Damage) > 0 {
		return lost(in.Highest()) // an LSN that may have been given out is never given out again
	}
	return lost(in.Durable)
}

func (e *logExport) text(out io.Writer) error {
	r := e.report
	for _, d := range r.Damage {
		fmt.Fprintln(out, d.Text)
	}
	r.lostText(out, "lost")
	fmt.Fprintf(out, "exported %s: %d records of stream %s, to %s (%s)\n", rangeText(r.First, r.Last), r.Records, r.Head.Stream, r.File, sizeText(r.Bytes))
	switch {
	case !r.Head.State:
		fmt.Fprintln(out, "WITHOUT the state store: dead letters and held records, which were acknowledged, are not in it, nor claims and request ids")
	default:
		fmt.Fprintf(out, "with the state store: %d dead letters, %d held records, %d entries in all\n", r.Dead, r.Held, r.State)
	}
	if r.Head.Live {
		fmt.Fprintln(out, "a server is running: what it writes from now on is not in it")
	}
	_, err := fmt.Fprintf(out, "next: `walproxy log import %s --data-dir DIR` where it is to go on; an embedded store's directory has to be copied there as well\n", filepath.Base(r.File))
	return err
}
