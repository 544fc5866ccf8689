package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// replayFlags are those of `walproxy replay`.
type replayFlags struct {
	configFlags
	sinks, collections []string
	rate, until        string
	lanes, maxErrors   int
	toLSN, fromLSN     uint64
	interval, timeout  time.Duration
	dryRun, json, yes  bool
	level              string
}

func newReplay() *cobra.Command {
	var flags replayFlags
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Apply what the log holds to the stores, without a server, and stop",
		Long: "replay opens a data directory that no server has open and applies what its sinks lack, with the same\n" +
			"loops and checks as `walproxy serve`, from each store's own checkpoint to the end of the log. Then it\n" +
			"stops. It takes no writes. SIGINT and SIGTERM stop it in order, a second one at once; neither loses\n" +
			"anything, and run again it goes on where it stood. A sink that halts says why and what to do; the others\n" +
			"go on.\n\n" +
			"--to-lsn and --until end it at a prefix of the log: everything up to there is applied, nothing above.\n" +
			"--until compares the times at which walproxy accepted the writes, which never go back from one LSN to\n" +
			"the next. Nothing can leave out records in the middle: a checkpoint never passes what was not applied.\n" +
			"That is why --collection is for --dry-run alone, and --from-lsn for it or for a sink that was never\n" +
			"claimed.\n\n" +
			"--dry-run changes nothing and needs no store: it says, per sink and lane, where the checkpoint is, and\n" +
			"what would be applied. On a terminal there is a bar per sink, else a line per sink and --interval;\n" +
			"--json writes events, one JSON object a line (docs/operations.md has their fields).",
		Example: "  walproxy replay --config walproxy.yaml\n" +
			"  walproxy replay --config walproxy.yaml --dry-run\n" +
			"  walproxy replay --config walproxy.yaml --sink main --rate 5000/s --max-errors 10\n" +
			"  walproxy replay --config walproxy.yaml --until 2026-11-21T14:30:00Z --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			o, err := flags.options(cmd)
			if err != nil {
				return exitWith(exitUsage, err)
			}
			if err := flags.free(c.DataDir); err != nil {
				return err
			}
			if flags.dryRun {
				return dryRun(cmd, c, &flags, o)
			}
			return runReplay(cmd, c, &flags, o)
		},
	}
	flags.register(cmd)
	exits(cmd, map[int]string{
		exitOK:          "everything that was to be applied is applied",
		exitUsage:       "wrong usage or configuration; nothing was changed",
		exitRemaining:   "records are left: interrupted, out of time, or a sink is paused or has halted; run it again when that is mended",
		exitFailed:      "failed while running or closing",
		exitStart:       "refused: the directory is in use or none, or a sink's checkpoint does not fit the log (it says which command accepts that)",
		exitDamaged:     "the log is damaged: `walproxy log verify` says where",
		exitDeadLetters: "dead letters were made of writes that a store rejected; with --max-errors records may be left",
		exitSignal:      "a second signal n ended it at once",
	})
	return cmd
}

func (f *replayFlags) register(cmd *cobra.Command) {
	f.registerFiles(cmd)
	fs := cmd.Flags()
	fs.StringArrayVar(&f.sinks, "sink", nil, "only the sink of this `name`; may be repeated")
	fs.StringVar(&f.rate, "rate", "", "at most so many records per second and sink: `N/s`")
	fs.IntVar(&f.lanes, "lanes", 0, "use `N` lanes instead of sinks.*.lanes; the next start switches back")
	fs.Uint64Var(&f.toLSN, "to-lsn", 0, "end when everything up to this `LSN` is applied")
	fs.StringVar(&f.until, "until", "", "end before the first write that was accepted after this `time` (RFC 3339)")
	fs.IntVar(&f.maxErrors, "max-errors", 0, "stop when `N` writes were rejected and became dead letters; those parked behind them do not count")
	fs.Uint64Var(&f.fromLSN, "from-lsn", 0, "with --dry-run look from this `LSN` on; else have a sink that was never claimed begin there")
	fs.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and change nothing")
	fs.StringArrayVar(&f.collections, "collection", nil, "with --dry-run: only records of this `collection`; may be repeated")
	fs.DurationVar(&f.interval, "interval", 10*time.Second, "`time` between lines or events of progress")
	fs.DurationVar(&f.timeout, "timeout", 0, "stop in order after this `time`; 0: never")
	fs.BoolVar(&f.json, "json", false, "write events as JSON lines; with --dry-run one JSON object")
	fs.BoolVar(&f.yes, "yes", false, "with --from-lsn: give up what is below without being asked")
	fs.StringVar(&f.level, "log-level", "error", "`level`: debug, info, warn or error")
	_ = cmd.RegisterFlagCompletionFunc("sink", completeSink(&f.configFlags)) // the flag is there
}

// options translates the flags, all faults at once.
func (f *replayFlags) options(cmd *cobra.Command) (o walproxy.ReplayOptions, err error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	o = walproxy.ReplayOptions{Sinks: f.sinks, ToLSN: walproxy.LSN(f.toLSN), FromLSN: walproxy.LSN(f.fromLSN)}
	if f.until != "" {
		if o.Until, err = time.Parse(time.RFC3339Nano, f.until); err != nil {
			fault("--until %q: want a time as 2026-11-21T14:30:00Z or 2026-11-21T15:30:00+01:00", f.until)
		}
	}
	if _, err := f.perSecond(); err != nil {
		faults = append(faults, err)
	}
	for name, value := range map[string]int{"lanes": f.lanes, "max-errors": f.maxErrors} {
		if value < 0 || cmd.Flags().Changed(name) && value == 0 {
			fault("--%s is %d: want at least 1", name, value)
		}
	}
	for name, value := range map[string]uint64{"to-lsn": f.toLSN, "from-lsn": f.fromLSN} {
		if cmd.Flags().Changed(name) && value == 0 {
			fault("--%s is 0: the first LSN is 1", name)
		}
	}
	if f.interval <= 0 {
		fault("--interval is %v: want more than 0", f.interval)
	}
	if f.timeout < 0 {
		fault("--timeout is negative")
	}
	if len(f.collections) > 0 && !f.dryRun {
		fault("--collection is for --dry-run alone: a checkpoint that passed the records of other collections would lose them")
	}
	if f.fromLSN > 0 && !f.dryRun && len(f.sinks) != 1 {
		fault("--from-lsn needs --dry-run, or one --sink that was never claimed: any other goes on from its store's checkpoint")
	}
	return o, errors.Join(faults...)
}

// perSecond reads --rate; 0: none.
func (f *replayFlags) perSecond() (float64, error) {
	if f.rate == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(f.rate, "/s"), 64)
	if err != nil || !(n > 0 && n <= 1e9) {
		return 0, fmt.Errorf("--rate %q: want records per second, as 5000/s", f.rate)
	}
	return n, nil
}

// free refuses a directory that is none, or that somebody has open.
func (f *replayFlags) free(dir string) error {
	if err := isDataDir(dir); err != nil {
		return exitWith(exitStart, err)
	}
	if locked := lockedBy(dir); locked != nil {
		return exitWith(exitStart, inUse(dir, locked))
	}
	return nil
}

// inUse says who has dir open, and what to do.
func inUse(dir string, err error) error {
	locked, ok := errors.AsType[*wal.LockedError](err)
	if !ok {
		return err
	}
	server, findErr := serverOf(dir, credentials{})
	if findErr != nil || server == nil {
		return fmt.Errorf("%s is in use by pid %d, a command that works on its files or a server that starts or stops; wait until it is done: %w", dir, locked.PID, err)
	}
	return fmt.Errorf("%s is in use by the server with pid %d, which applies the log itself: `walproxy sink ls` tells how far it is; "+
		"to replay here, stop it first (kill -TERM %d): %w", dir, locked.PID, locked.PID, err)
}

// replaySinks are the sinks to be replayed, opened, as Options of the root package.
func replaySinks(c *config.Config, f *replayFlags, logger *zap.Logger) (o walproxy.Options, closeSinks func() error, err error) {
	i := &instance{config: c, logger: logger, registry: prometheus.NewRegistry(), sinks: map[string]sinks.Sink{}}
	closeSinks = i.closeSinks
	for _, name := range f.sinks {
		if _, ok := c.Sinks[name]; !ok {
			return o, closeSinks, exitWith(exitUsage, fmt.Errorf("there is no sink %q in the configuration", name))
		}
	}
	for name := range c.Sinks {
		if len(f.sinks) > 0 && !slices.Contains(f.sinks, name) {
			continue
		}
		if i.sinks[name], err = i.openSink(name, c.Sinks[name]); err != nil {
			delete(i.sinks, name)
			if locked := lockedBy(c.DataDir); locked != nil {
				return o, closeSinks, exitWith(exitStart, inUse(c.DataDir, locked))
			}
			return o, closeSinks, exitWith(exitStart, fmt.Errorf("sinks.%s: %w; leave it out with --sink", name, err))
		}
	}
	o = i.options()
	o.Registerer = nil
	rate, err := f.perSecond()
	if err != nil {
		return o, closeSinks, exitWith(exitUsage, err)
	}
	var limit *replay.RejectLimit
	if f.maxErrors > 0 {
		limit = replay.NewRejectLimit(f.maxErrors)
	}
	for n := range o.Sinks {
		loop := &o.Sinks[n].Loop
		loop.Rate, loop.Rejects = rate, limit
		if f.lanes > 0 {
			loop.Lanes = f.lanes
		}
	}
	return o, closeSinks, nil
}

func runReplay(cmd *cobra.Command, c *config.Config, f *replayFlags, r walproxy.ReplayOptions) (err error) {
	level, err := zapcore.ParseLevel(f.level)
	if err != nil {
		return exitWith(exitUsage, fmt.Errorf("--log-level: %w", err))
	}
	report := newReplayReport(cmd.OutOrStdout(), f)
	logger := loggerTo(report.above(os.Stderr), level, isTerminal(os.Stderr))
	defer func() {
		err = errors.Join(err, report.end(exitCodeOf(err), err))
	}()
	ctx, stop := withSignals(cmd.Context(), logger)
	defer stop()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("out of time: --timeout %v", f.timeout))
		defer cancel()
	}
	defer limitMemory()()
	if f.fromLSN > 0 {
		if err := confirmFrom(cmd, c, f, r); err != nil {
			return err
		}
	}
	o, closeSinks, err := replaySinks(c, f, logger)
	defer func() {
		if closeErr := closeSinks(); closeErr != nil && err == nil {
			err = exitWith(exitFailed, closeErr)
		}
	}()
	if err != nil {
		return err
	}
	rp, err := walproxy.OpenReplay(ctx, o, r)
	if err != nil && ctx.Err() != nil {
		return exitWith(exitRemaining, fmt.Errorf("ended while the log was opened; nothing was applied: %w", context.Cause(ctx)))
	}
	if err != nil {
		return exitWith(openCode(err), openAdvice(c.DataDir, err))
	}
	report.start(c.DataDir, rp)
	running := make(chan struct{})
	go func() { // joined below
		defer close(running)
		rp.Run(ctx)
	}()
	report.watch(rp, running)
	states := rp.Status()
	closeErr := rp.Close(context.WithoutCancel(ctx))
	return errors.Join(report.verdict(states, context.Cause(ctx)), exitWith(exitFailed, closeErr))
}

// openCode is the exit code of a directory that could not be opened.
func openCode(err error) int {
	switch {
	case errors.Is(err, wal.ErrCorrupt):
		return exitDamaged
	case errors.Is(err, walproxy.ErrNoSink), errors.Is(err, walproxy.ErrEnd):
		return exitUsage
	}
	return exitStart
}

// openAdvice adds what to do to an error that does not say it.
func openAdvice(dir string, err error) error {
	switch {
	case errors.Is(err, wal.ErrLocked):
		return inUse(dir, err)
	case errors.Is(err, wal.ErrCorrupt):
		return fmt.Errorf("%w; nothing was changed: `walproxy log verify` shows all that is damaged, `walproxy log repair` what can be kept", err)
	}
	return err
}

// exitCodeOf is the code that the process will end with.
func exitCodeOf(err error) int {
	if err == nil {
		return exitOK
	}
	if coded, ok := errors.AsType[*exitError](err); ok {
		return coded.code
	}
	return exitUsage
}
