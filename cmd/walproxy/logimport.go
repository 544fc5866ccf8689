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

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/walproxy/walproxy/internal/portable"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/unfinished"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

func newLogImport() *cobra.Command {
	var flags logFlags
	var i logImport
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make a data directory of a file of `log export`",
		Long: "import makes log and state store of an exported file, in a data directory that holds neither: the same\n" +
			"stream, the same LSNs. The next start begins a new incarnation and goes on where each sink's own\n" +
			"checkpoint is, so that nothing is applied twice. The file is checked as it is read; nothing has its\n" +
			"name in the directory before all of it was right. An import that was interrupted is begun again.\n\n" +
			"Let only one of the two directories go on: a sink that has applied what one of them wrote since\n" +
			"refuses the other as diverged.",
		Example: "  walproxy log import /mnt/usb/walproxy.export --data-dir /var/lib/walproxy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			i.ctx, i.dir, i.errOut = ctx, c.DataDir, cmd.ErrOrStderr()
			return i.run(cmd, args[0])
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&i.withoutState, "without-state", false, "import a file that was exported without the state store")
	cmd.Flags().BoolVar(&i.json, "json", false, "one JSON object")
	exits(cmd, map[int]string{
		exitUsage:   "wrong usage or configuration, or refused: the directory is not empty, the file is without state",
		exitDamaged: "the file is damaged, cut short, of a newer version or no export; nothing was imported",
	})
	return cmd
}

type logImport struct {
	withoutState, json bool

	ctx    context.Context
	dir    string
	errOut io.Writer
	report exportReport
	log    *wal.Restorer
	state  *state.Loader
}

func (i *logImport) temporary(name string) string {
	return filepath.Join(i.dir, unfinished.Import, name)
}

func (i *logImport) run(cmd *cobra.Command, name string) (err error) {
	i.report = exportReport{File: name, Dir: i.dir, Lost: []rangeJSON{}, Damage: []damageJSON{}}
	file, err := os.Open(name)
	if err != nil {
		return exitWith(exitUsage, err)
	}
	defer func() { _ = file.Close() }() // it was only read
	reader, err := portable.NewReader(bufio.NewReaderSize(i.progress(file), 1<<20))
	if err != nil {
		return i.refused(err)
	}
	defer reader.Close()
	i.report.Head, i.report.First = reader.Head(), reader.Head().First
	if !reader.Head().State && !i.withoutState {
		return exitWith(exitUsage, fmt.Errorf("%s was exported without the state store: dead letters and held records, which were acknowledged, "+
			"are not in it, nor claims and request ids, and a start will be refused until `walproxy log repair --state` made a new one. "+
			"--without-state imports it nevertheless", name))
	}
	lock, err := i.prepare()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := i.read(reader); err != nil {
		return errors.Join(i.refused(err), i.abandon())
	}
	if err := i.publish(); err != nil {
		return exitWith(exitFailed, err)
	}
	if i.json {
		return printJSON(cmd, i.report)
	}
	return i.text(cmd.OutOrStdout())
}

// refused gives an error the exit code of what is wrong.
func (i *logImport) refused(err error) error {
	code := exitFailed
	if _, ok := errors.AsType[*portable.FormatError](err); ok {
		code = exitDamaged
		err = fmt.Errorf("%s: %w", i.report.File, err)
	}
	return exitWith(code, fmt.Errorf("nothing was imported: %w", err))
}

func (i *logImport) progress(file *os.File) io.Reader {
	f, ok := i.errOut.(*os.File)
	info, err := file.Stat()
	if !ok || err != nil || !term.IsTerminal(int(f.Fd())) {
		return file
	}
	size := info.Size()
	if !info.Mode().IsRegular() { // a pipe: it is not known
		size = -1
	}
	return &barReader{file, newBytesBar(f, size, "imported")}
}

// barReader shows how much was read.
type barReader struct {
	io.Reader
	bar *bytesBar
}

func (r *barReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.bar.add(int64(n))
	if err != nil {
		r.bar.finish()
	}
	return n, err
}

// prepare makes room for the import, and takes its lock. What is in the directory
// is left alone, but for what an interrupted import left.
func (i *logImport) prepare() (lock io.Closer, err error) {
	begun := exists(i.temporary(""))
	if begun && exists(filepath.Join(i.dir, "log")) {
		err := errors.Join(vfs.OS().RemoveAll(i.temporary("")), syncDir(i.dir))
		return nil, exitWith(exitUsage, errors.Join(fmt.Errorf("%s holds a log already: an import that was interrupted had come to its end; "+
			"next: `walproxy log verify`, then `walproxy serve`", i.dir), err))
	}
	if exists(filepath.Join(i.dir, "log")) || exists(filepath.Join(i.dir, "state")) && !begun {
		return nil, exitWith(exitUsage, fmt.Errorf("%s holds a log or a state store already: import into a directory that holds neither", i.dir))
	}
	if err := vfs.MkdirAllSync(vfs.OS(), i.dir, 0o755); err != nil {
		return nil, exitWith(exitFailed, err)
	}
	if lock, err = wal.Lock(i.temporary("")); err != nil {
		return nil, exitWith(exitStart, fmt.Errorf("another import is under way: %w", err))
	}
	if begun {
		fmt.Fprintln(i.errOut, "an earlier import was interrupted: it is begun again")
	}
	err = errors.Join(i.clear(), vfs.OS().RemoveAll(filepath.Join(i.dir, "state")))
	if err != nil {
		return nil, exitWith(exitFailed, errors.Join(err, lock.Close()))
	}
	return lock, nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

func (i *logImport) clear() error {
	return errors.Join(vfs.OS().RemoveAll(i.temporary("log")), vfs.OS().RemoveAll(i.temporary("state")))
}

func (i *logImport) abandon() error {
	var errs []error
	if i.log != nil {
		errs = append(errs, i.log.Abandon())
	}
	if i.state != nil {
		_ = i.state.Close() // of what is removed
	}
	return errors.Join(append(errs, i.clear(), vfs.OS().RemoveAll(i.temporary("")))...)
}

// read makes log and state store of all that is in the file.
func (i *logImport) read(r *portable.Reader) (err error) {
	head := r.Head()
	o := wal.RestoreOptions{Stream: head.Stream, First: head.First, Boot: head.Boot}
	for _, in := range head.Incarnations {
		o.Incarnations = append(o.Incarnations, wal.Point{Incarnation: in.ID, LSN: in.First})
	}
	if i.log, err = wal.Restore(i.temporary("log"), o); err != nil {
		return err
	}
	if head.State {
		if i.state, err = state.Load(i.temporary("state"), nil); err != nil {
			return err
		}
	}
	for {
		item, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = i.item(item)
		}
		if err != nil {
			return err
		}
		if i.ctx.Err() != nil {
			return context.Cause(i.ctx)
		}
	}
	i.report.Summary = r.Summary()
	if err := i.log.Close(); err != nil {
		return err
	}
	if i.state == nil {
		return nil
	}
	err = i.state.Close()
	i.state = nil
	return err
}

func (i *logImport) item(item portable.Item) error {
	switch {
	case item.LSN == 0:
		i.report.count(item.Key)
		return i.state.Put(item.Key, item.Value)
	case item.Gap:
		i.report.lost(rangeJSON{item.LSN, item.Last})
		return i.log.Gap(item.LSN, item.Last)
	}
	return i.log.Record(item.LSN, item.Payload)
}

// publish gives state store and log their names, the log last: with it the
// directory is one.
func (i *logImport) publish() error {
	if i.report.Head.State {
		if err := vfs.OS().Rename(i.temporary("state"), filepath.Join(i.dir, "state")); err != nil {
			return err
		}
		if err := syncDir(i.dir); err != nil {
			return err
		}
	}
	if err := vfs.OS().Rename(i.temporary("log"), filepath.Join(i.dir, "log")); err != nil {
		return err
	}
	if err := syncDir(i.dir); err != nil {
		return err
	}
	return errors.Join(vfs.OS().RemoveAll(i.temporary("")), syncDir(i.dir))
}

func (i *logImport) text(out io.Writer) error {
	r := i.report
	r.lostText(out, "lost before the export")
	fmt.Fprintf(out, "imported %s: %d records of stream %s, into %s\n", rangeText(r.First, r.Last), r.Records, r.Head.Stream, r.Dir)
	if !r.Head.State {
		_, err := fmt.Fprintln(out, "WITHOUT a state store: a start is refused until `walproxy log repair --state` made a new one; "+
			"dead letters and held records are not there")
		return err
	}
	_, err := fmt.Fprintf(out, "with the state store: %d dead letters, %d held records, %d entries in all\n"+
		"next: `walproxy serve --data-dir %s` with the sinks of the same names; a new incarnation begins, each sink goes on at its checkpoint\n",
		r.Dead, r.Held, r.State, r.Dir)
	return err
}
