// Package systemd speaks with the service manager that started walproxy, if one did: it
// says how far walproxy is (sd_notify(3)), shows it at intervals that the log works, and
// takes the sockets that it listens on already (sd_listen_fds(3)).
package systemd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Notifier tells the service manager. Without one, or as nil, it does nothing. Methods may
// be called concurrently; what cannot be told is logged: nothing else depends on it.
type Notifier struct {
	logger   *zap.Logger
	watchdog time.Duration // within which it wants a sign; 0: it wants none

	// mu keeps the order of what is told that of the calls.
	mu       sync.Mutex
	stopping bool
}

// NewNotifier reads what the environment says of the service manager.
func NewNotifier(logger *zap.Logger) *Notifier {
	if logger == nil {
		logger = zap.NewNop()
	}
	n := &Notifier{logger: logger}
	var err error
	if n.watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		logger.Warn("systemd's watchdog is not served", zap.Error(err))
	}
	return n
}

// Ready says that walproxy takes work, and status in words.
func (n *Notifier) Ready(status string) { n.tell(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Reloading says that the configuration is read again; Ready says that it was.
func (n *Notifier) Reloading() {
	state := daemon.SdNotifyReloading
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil { // Type=notify-reload asks for it
		state += fmt.Sprintf("\nMONOTONIC_USEC=%d", now.Nano()/1000)
	}
	n.tell(state)
}

// Stopping says that walproxy ends; nothing is told after it.
func (n *Notifier) Stopping() { n.tell(daemon.SdNotifyStopping) }

func (n *Notifier) tell(state string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopping {
		return
	}
	n.stopping = state == daemon.SdNotifyStopping
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.logger.Warn("systemd was not told how walproxy is", zap.Error(err))
	}
}

// errSlow is why a proof is given up.
var errSlow = errors.New("it takes longer than systemd waits")

// Watch shows the service manager that walproxy works, by what prove says, until stop is
// called, which joins it: three times in the time after which it would restart walproxy.
// While prove does not return, or fails, nothing is told. prove must end with its context.
func (n *Notifier) Watch(prove func(context.Context) error) (stop func()) {
	if n == nil || n.watchdog <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var joined sync.WaitGroup
	joined.Go(func() {
		for ctx.Err() == nil {
			n.show(ctx, prove)
			select {
			case <-time.After(n.watchdog / 3):
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		joined.Wait()
	}
}

// show tells that prove has succeeded, if it has.
func (n *Notifier) show(ctx context.Context, prove func(context.Context) error) {
	bounded, cancel := context.WithTimeoutCause(ctx, n.watchdog, errSlow)
	defer cancel()
	err := prove(bounded)
	if err == nil {
		n.tell(daemon.SdNotifyWatchdog)
	} else if ctx.Err() == nil {
		n.logger.Warn("the log shows no life: systemd is not told that it works", zap.Error(err))
	}
}
