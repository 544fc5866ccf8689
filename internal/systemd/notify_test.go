package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager is the socket of a service manager.
type manager struct{ *net.UnixConn }

func newManager(t *testing.T, watchdog time.Duration) manager {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if watchdog > 0 {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	}
	return manager{conn}
}

// next is the next message that comes within a time; empty: none does.
func (m manager) next(t *testing.T, within time.Duration) string {
	t.Helper()
	_ = m.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 4096)
	n, err := m.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(b[:n])
}

const patience = time.Minute

func TestNotify(t *testing.T) {
	m := newManager(t, 0)
	n := NewNotifier(nil)
	n.Ready("well")
	if got := m.next(t, patience); got != "READY=1\nSTATUS=well" {
		t.Errorf("got %q", got)
	}
	n.Reloading()
	if got := m.next(t, patience); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") || strings.HasSuffix(got, "=0") {
		t.Errorf("got %q", got)
	}
	n.Stopping()
	n.Ready("after the end") // as of a reload that is under way
	n.Stopping()
	if got := m.next(t, patience); got != "STOPPING=1" {
		t.Errorf("got %q", got)
	}
	if got := m.next(t, 50*time.Millisecond); got != "" {
		t.Errorf("after STOPPING=1: %q", got)
	}
	n.Watch(func(context.Context) error { t.Error("no watchdog asked"); return nil })()
}

// TestNoManager: without one, or with a socket that is gone, walproxy works all the same.
func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier(zap.NewNop())
	n.Ready("")
	n.Watch(nil)()
	var none *Notifier
	none.Ready("")
	none.Stopping()
	none.Watch(nil)()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	t.Setenv("WATCHDOG_USEC", "nonsense")
	n = NewNotifier(zap.NewNop())
	n.Ready("")
	n.Watch(nil)()
}

// stalledDisk is a file system whose fsyncs can be held.
type stalledDisk struct {
	vfs.FS
	mu   sync.Mutex
	hold chan struct{} // nil: nothing is held
}

func (d *stalledDisk) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return stalledFile{f, d}, nil
}

type stalledFile struct {
	vfs.File
	disk *stalledDisk
}

func (f stalledFile) Datasync() error {
	f.disk.mu.Lock()
	hold := f.disk.hold
	f.disk.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return f.File.Datasync()
}

// TestWatchdog: a real log; while its disk hangs the service manager gets no sign, though
// the process runs, and gets one again when the disk answers.
func TestWatchdog(t *testing.T) {
	const interval = 60 * time.Millisecond
	m := newManager(t, interval)
	disk := &stalledDisk{FS: vfs.OS()}
	log, err := wal.Open(t.TempDir(), wal.Options{FS: disk, Engine: wal.EngineNative, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	stop := NewNotifier(nil).Watch(log.Prove)
	for range 3 {
		if got := m.next(t, patience); got != "WATCHDOG=1" {
			t.Fatalf("got %q", got)
		}
	}
	hold := make(chan struct{})
	disk.mu.Lock()
	disk.hold = hold
	disk.mu.Unlock()
	// An fsync that had begun may still end, and those signs that are queued are read.
	for range 100 {
		if m.next(t, 5*interval) == "" {
			break
		}
	}
	if got := m.next(t, 5*interval); got != "" {
		t.Errorf("the disk hangs, and systemd is told %q", got)
	}
	disk.mu.Lock()
	disk.hold = nil
	disk.mu.Unlock()
	close(hold)
	if got := m.next(t, patience); got != "WATCHDOG=1" {
		t.Errorf("the disk answers again: got %q", got)
	}
	stop()
}

// TestWatchdogOfPoisonedLog: a log that can write no more is not shown to work.
func TestWatchdogOfPoisonedLog(t *testing.T) {
	m := newManager(t, 30*time.Millisecond)
	proved := make(chan struct{}, 100)
	stop := NewNotifier(nil).Watch(func(context.Context) error {
		select {
		case proved <- struct{}{}:
		default:
		}
		return wal.ErrPoisoned
	})
	for range 3 {
		<-proved
	}
	stop()
	if got := m.next(t, time.Millisecond); got != "" {
		t.Errorf("got %q", got)
	}
}
