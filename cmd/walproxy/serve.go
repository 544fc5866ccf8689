package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/config"
)

func newServe() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the proxy",
		Long: "serve runs the proxy until SIGTERM or SIGINT: then it takes no new work, acknowledges what\n" +
			"is under way, drains the log up to shutdown.drain_timeout and stops. A second signal stops it\n" +
			"at once. Nothing that was acknowledged is lost either way. Under systemd it says when it is\n" +
			"ready and that the log still works, and serves the sockets that are passed to it.",
		Example: "  walproxy serve\n" +
			"  walproxy serve --config /etc/walproxy.yaml --data-dir /var/lib/walproxy",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logs := newLogs(config.Logging{})
			logger := logs.logger(os.Stderr)
			around, err := surroundingsOf(logger)
			if err != nil {
				return err
			}
			around.logs = logs
			load := func() (*config.Config, error) { return around.load(&flags, cmd) }
			c, err := load()
			if err != nil {
				return errors.Join(err, around.close())
			}
			logs.apply(c.Logging)
			return serve(cmd.Context(), c, load, around, logger, os.Stdout, os.Stderr)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&flags.level, "log-level", "", "`level`: debug, info, warn or error (logging.level)")
	exits(cmd, map[int]string{
		exitOK:        "stopped, everything acknowledged is applied",
		exitUsage:     "wrong usage or configuration; nothing was touched",
		exitRemaining: "stopped in order; records stay in the log for the next start",
		exitFailed:    "failed while running: the log could not be written, a listener broke, or closing failed",
		exitStart:     "could not start: directory in use, damaged or of an unknown format, port taken",
		exitSignal:    "a second signal n ended the stop",
	})
	return cmd
}

// serve runs until a signal comes or it cannot go on, and closes everything.
func serve(ctx context.Context, c *config.Config, load func() (*config.Config, error), around surroundings, logger *zap.Logger, out, errOut io.Writer) error {
	defer func() { _ = logger.Sync() }() // a terminal cannot be synced
	ctx, stop := withSignals(ctx, logger)
	defer stop()
	defer limitMemory()()
	spareProcessor()
	defer around.logs.say(logger)
	i, err := startIn(ctx, c, around, logger)
	if err != nil {
		return exitWith(exitStart, err)
	}
	defer i.reloader.onHangup(load)()
	announce(i, out, errOut)
	around.notifier.Ready(readyStatus)
	unwatch := around.notifier.Watch(i.proxy.Prove)
	failure := i.failed(ctx)
	around.notifier.Stopping()
	unwatch()
	if failure != nil {
		logger.Error("cannot go on, stopping", zap.Error(failure))
	} else {
		logger.Info("stopping", zap.NamedError("cause", context.Cause(ctx)))
	}
	return verdict(failure, i.close(), out)
}

// verdict is the last word: what is left, and the exit code.
func verdict(failure, closing error, out io.Writer) error {
	var remaining *walproxy.RemainingError
	left := errors.As(closing, &remaining)
	if left {
		for name, n := range remaining.Records {
			fmt.Fprintf(out, "stopped: %d records stay in the log for sink %s; the next start applies them\n", n, name)
		}
	}
	switch {
	case failure != nil:
		return exitWith(exitFailed, errors.Join(failure, closing))
	case closing == nil:
		fmt.Fprintln(out, "stopped: everything acknowledged is applied")
		return nil
	case left && only(closing, remaining):
		return exitWith(exitRemaining, closing)
	}
	return exitWith(exitFailed, closing)
}

// only reports whether err holds nothing but want.
func only(err, want error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !only(e, want) {
				return false
			}
		}
		return true
	}
	return errors.Is(err, want)
}

func announce(i *instance, out, errOut io.Writer) {
	apiAddr, adminAddr := i.apiListener.Addr(), i.adminListener.Addr()
	fmt.Fprintf(out, "walproxy %s keeps its data in %s\n", versionName(), i.config.DataDir)
	curl, address := "curl", urlOf(i.apiListener, i.secure("api") != nil)
	if len(i.config.API.Tokens) > 0 {
		curl += ` -H "Authorization: Bearer $WALPROXY_TOKEN"`
	}
	fmt.Fprintf(out, "try:  %s -X PUT %s/v1/orders/42 -d '{\"total\": 10}'\n", curl, address)
	fmt.Fprintf(out, "then: %s %s/v1/orders/42\n", curl, address)
	fmt.Fprintf(errOut, "listening api=%s admin=%s", apiAddr, adminAddr)
	if i.aerowireListener != nil {
		fmt.Fprintf(errOut, " aerowire=%s", i.aerowireListener.Addr())
	}
	if i.pgwireListener != nil {
		fmt.Fprintf(errOut, " pgwire=%s", i.pgwireListener.Addr())
	}
	fmt.Fprintln(errOut)
}

// withSignals ends ctx at the first SIGINT or SIGTERM and the process at the
// second.
func withSignals(ctx context.Context, logger *zap.Logger) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done, joined := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(joined)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case s := <-signals:
				if n > 0 {
					logger.Warn("second signal, leaving at once; the next start applies what is left")
					os.Exit(exitSignal + int(s.(syscall.Signal)))
				}
				cancel(fmt.Errorf("signal: %s", s))
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-joined
		cancel(nil)
	}
}
