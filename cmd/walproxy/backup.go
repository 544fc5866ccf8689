package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/internal/backup"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

// backupAnswer is what --json prints.
type backupAnswer struct {
	Path   string       `json:"path"`
	First  walproxy.LSN `json:"first"`
	Last   walproxy.LSN `json:"last"`
	Stream string       `json:"stream"`
	Files  int          `json:"files"`
	Bytes  int64        `json:"bytes"`
	Stores []string     `json:"stores,omitempty"`
	// NotIn are the sinks of the configuration whose stores are elsewhere.
	NotIn  []string  `json:"not_in,omitempty"`
	Made   time.Time `json:"made"`
	Server string    `json:"server,omitempty"`
}

func newBackup() *cobra.Command {
	var flags placeFlags
	var rate config.Size
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "backup PATH",
		Short: "Copy log, state and embedded stores, while the server runs or without one",
		Long: "backup writes a copy to PATH, which does not exist yet: a directory, a file if PATH ends in .tar,\n" +
			"or a file compressed with zstd if it ends in .tar.zst.\n" +
			"It holds the log up to a moment after the command began, the state that belongs to it (claims, dead\n" +
			"letters, request ids) and the embedded stores; PostgreSQL has backups of its own. Each file is\n" +
			"verified by its checksum, and durable when the command ends. The server goes on meanwhile; on the disk\n" +
			"of the data directory the copy takes next to nothing but keeps what is freed, until it was sent.\n" +
			"`walproxy restore` makes a data directory of it.",
		Example: "  walproxy backup /backup/walproxy-1 --data-dir /var/lib/walproxy\n" +
			"  walproxy backup /backup/walproxy-1.tar.zst --rate 50MiB --data-dir /var/lib/walproxy",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.find(cmd)
			if err != nil {
				return err
			}
			b := backuper{place: p, path: args[0], rate: int64(rate)}
			m, err := b.run(cmd.Context())
			if err != nil {
				return err
			}
			return b.tell(cmd, m, asJSON)
		},
	}
	flags.register(cmd)
	cmd.Flags().Var(&sizeFlag{&rate}, "rate", "read at most so many `bytes` a second")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

// sizeFlag takes a size as the configuration does.
type sizeFlag struct{ size *config.Size }

func (f *sizeFlag) String() string {
	if f.size == nil || *f.size == 0 {
		return ""
	}
	return f.size.String()
}

func (f *sizeFlag) Set(text string) error {
	size, err := config.ParseSize(text)
	if err == nil && size < 1 {
		err = fmt.Errorf("%q is not positive", text)
	}
	*f.size = size
	return err
}

func (f *sizeFlag) Type() string { return "bytes" }

// backuper is one call of the command.
type backuper struct {
	place *place
	path  string
	rate  int64
}

func (b *backuper) run(ctx context.Context) (m backup.Manifest, err error) {
	if _, err := os.Stat(filepath.Dir(filepath.Clean(b.path))); err != nil {
		return m, exitWith(exitUsage, err)
	}
	if b.place.server != nil {
		m, err = b.fromServer(ctx)
	} else {
		m, err = b.fromFiles(ctx)
	}
	var coded *exitError
	switch {
	case errors.Is(err, backup.ErrExists):
		return m, exitWith(exitUsage, err)
	case err != nil && !errors.As(err, &coded):
		return m, exitWith(exitFailed, err)
	case err != nil:
		return m, err
	case !b.toFile():
		err = verifyLog(ctx, filepath.Join(b.path, "log"), m)
	}
	return m, exitWith(exitFailed, err)
}

func (b *backuper) toFile() bool {
	return strings.HasSuffix(b.path, ".tar") || strings.HasSuffix(b.path, ".tar.zst")
}

func (b *backuper) save(ctx context.Context, r io.Reader) (backup.Manifest, error) {
	if b.toFile() {
		return backup.SaveFile(ctx, r, b.path)
	}
	return backup.SaveDir(ctx, r, b.path)
}

func (b *backuper) fromServer(ctx context.Context) (m backup.Manifest, err error) {
	path := "/v1/backup"
	if b.rate > 0 {
		path += fmt.Sprintf("?rate=%d", b.rate)
	}
	answer, err := b.place.server.stream(ctx, http.MethodPost, path, "", nil)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	return b.save(ctx, answer.Body)
}

// fromFiles makes the copy itself, and sends it to itself.
func (b *backuper) fromFiles(ctx context.Context) (m backup.Manifest, err error) {
	i := &instance{config: b.place.config, logger: zap.NewNop(), registry: prometheus.NewRegistry()}
	stage := stoppedStagePath(b.place.dir)
	if lock, err := lockStage(stage); err == nil { // a crash left it
		if err := errors.Join(vfs.OS().RemoveAll(stage), lock.Close()); err != nil {
			return m, err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return m, exitWith(exitStart, fmt.Errorf("another backup is under way: %w", err))
	}
	o := i.options()
	for at := range o.Sinks {
		name := o.Sinks[at].Name
		if _, err := os.Stat(i.config.SinkPath(name)); err != nil || i.config.Sinks[name].Type != config.TypePebble {
			continue // has no store of ours, or none yet
		}
		store, err := i.openSink(name, i.config.Sinks[name])
		if err != nil {
			return m, exitWith(exitStart, fmt.Errorf("sinks.%s: %w", name, err))
		}
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), frontTimeout)
			defer cancel()
			err = errors.Join(err, store.Close(closing))
		}()
		o.Sinks[at].Sink = store
	}
	copied, err := walproxy.Backup(ctx, o, stage)
	if err != nil {
		return m, exitWith(exitStart, err)
	}
	defer func() { err = errors.Join(err, vfs.OS().RemoveAll(stage)) }()
	lock, err := lockStage(stage)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return b.pipe(ctx, stage, backup.Manifest{Made: time.Now().UTC(), By: versionName(), Stream: copied.Log.Stream,
		Incarnation: copied.Log.Incarnation, First: copied.Log.First, Last: copied.Log.Last, Stores: copied.Stores})
}

func (b *backuper) pipe(ctx context.Context, stage string, m backup.Manifest) (backup.Manifest, error) {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() { // ends when r is closed
		_, err := backup.Send(ctx, w, stage, m, b.rate)
		sent <- errors.Join(err, w.CloseWithError(err))
	}()
	m, err := b.save(ctx, r)
	err = errors.Join(err, r.Close())
	if sending := <-sent; err == nil {
		err = sending
	}
	return m, err
}

// verifyLog wants every frame of a copied log to verify, up to the last.
func verifyLog(ctx context.Context, dir string, m backup.Manifest) error {
	in, err := wal.Inspect(dir, wal.InspectOptions{})
	switch {
	case err != nil:
		return err
	case in.Refusal != nil:
		return fmt.Errorf("%w: %w", backup.ErrDamaged, in.Refusal)
	case in.First != m.First || in.Last != m.Last:
		return fmt.Errorf("%w: its log has LSN %d to %d; the manifest says %d to %d", backup.ErrDamaged, in.First, in.Last, m.First, m.Last)
	}
	report, err := in.Verify(ctx, wal.VerifyOptions{})
	if err != nil {
		return err
	}
	for _, seg := range report.Segments {
		if len(seg.Findings) > 0 {
			return fmt.Errorf("%w: %w", backup.ErrDamaged, errors.Join(seg.Findings...))
		}
	}
	return nil
}

func (b *backuper) tell(cmd *cobra.Command, m backup.Manifest, asJSON bool) error {
	a := backupAnswerOf(b.path, m)
	if b.place.server != nil {
		a.Server = b.place.server.api
	}
	for name, s := range b.place.config.Sinks {
		if b.place.server == nil && s.Type != config.TypePebble {
			a.NotIn = append(a.NotIn, name)
		}
	}
	if asJSON {
		return printJSON(cmd, a)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s holds the log from LSN %d to %d, the state%s: %d files, %d bytes, verified\n", a.Path, a.First, a.Last, storesOf(a.Stores), a.Files, a.Bytes)
	if len(a.NotIn) > 0 {
		fmt.Fprintf(out, "the stores of %s are not in it: back them up by their own means, before or after\n", strings.Join(a.NotIn, ", "))
	}
	return nil
}

func backupAnswerOf(path string, m backup.Manifest) backupAnswer {
	return backupAnswer{Path: path, First: m.First, Last: m.Last, Stream: m.Stream.String(), Files: len(m.Files), Bytes: m.Bytes(), Stores: m.Stores, Made: m.Made}
}

func storesOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " and the stores of " + strings.Join(names, ", ")
}

func newRestore() *cobra.Command {
	var flags configFlags
	var asJSON, check bool
	cmd := &cobra.Command{
		Use:   "restore PATH",
		Short: "Make a data directory of a backup, or verify one",
		Long: "restore writes what `walproxy backup` has saved to the data directory of --data-dir or --config, which\n" +
			"is empty or does not exist, verifies it, and makes it durable. The next start on it begins a new\n" +
			"incarnation of the log.\n\n" +
			"What the original did after the backup is not in it. A store that was fed by it meanwhile refuses the\n" +
			"restored log as diverged: `walproxy sink accept NAME` says from where on they differ. While the\n" +
			"original runs its stores are its own.",
		Example: "  walproxy restore /backup/walproxy-1 --data-dir /var/lib/walproxy\n" +
			"  walproxy restore /backup/walproxy-1.tar.zst --verify",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			if check {
				return verifyBackup(cmd, args[0], asJSON)
			}
			return restoreBackup(cmd, c, args[0], asJSON)
		},
	}
	flags.registerFiles(cmd)
	cmd.Flags().BoolVar(&check, "verify", false, "only verify the backup, and write nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

// exitBackup gives what reading a backup failed with its exit code.
func exitBackup(err error) error {
	if errors.Is(err, backup.ErrExists) || errors.Is(err, os.ErrNotExist) {
		return exitWith(exitUsage, err)
	}
	return exitWith(exitFailed, err)
}

func verifyBackup(cmd *cobra.Command, path string, asJSON bool) error {
	m, err := backup.Verify(cmd.Context(), path)
	if info, statErr := os.Stat(path); err == nil && statErr == nil && info.IsDir() {
		err = verifyLog(cmd.Context(), filepath.Join(path, "log"), m)
	}
	if err != nil {
		return exitBackup(err)
	}
	a := backupAnswerOf(path, m)
	if asJSON {
		return printJSON(cmd, a)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is whole: LSN %d to %d, made %s: %d files, %d bytes\n", path, a.First, a.Last, a.Made.Format(time.RFC3339), a.Files, a.Bytes)
	return err
}

func restoreBackup(cmd *cobra.Command, c *config.Config, path string, asJSON bool) error {
	m, err := backup.Restore(cmd.Context(), path, c.DataDir)
	if err == nil {
		err = verifyLog(cmd.Context(), filepath.Join(c.DataDir, "log"), m)
	}
	if err != nil {
		return exitBackup(err)
	}
	entry := audit.Entry{Action: "restore", Detail: fmt.Sprintf("of %s, made %s, LSN %d to %d", path, m.Made.Format(time.RFC3339), m.First, m.Last)}
	if err := audit.New(c.DataDir, nil).Do(entry, func(*audit.Entry) error { return nil }); err != nil {
		return exitWith(exitFailed, err)
	}
	a := backupAnswerOf(c.DataDir, m)
	if asJSON {
		return printJSON(cmd, a)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s is restored: the log from LSN %d to %d, the state%s\n", c.DataDir, a.First, a.Last, storesOf(a.Stores))
	for _, name := range a.Stores {
		if at := filepath.Join(c.DataDir, "sinks", name); c.SinkPath(name) != at {
			fmt.Fprintf(out, "the store of %s lies in %s: move it to %s, where the configuration has it\n", name, at, c.SinkPath(name))
		}
	}
	_, err = fmt.Fprintln(out, "next: make sure that the original does not run, then walproxy serve; a sink that says it has diverged was fed beyond the backup: walproxy sink accept NAME")
	return err
}
