package pgwire

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loop carries sessions that need no encryption: one thread that waits for all of
// their sockets at once and moves what came from one to the other. Go's own
// scheduler would, for each message, try a read in vain, park a goroutine and wake
// another; that costs more than everything else the endpoint does.
//
// All of a loop's state belongs to its goroutine. Others reach it by post.
type loop struct {
	s     *Server
	epoll int
	wake  int // an eventfd
	done  sync.WaitGroup

	slots []*looped // by index; nil: free
	free  []int32
	live  int
	owed  int    // sessions whose client waits for PostgreSQL
	vain  int    // how often in a row yielding brought nothing
	waits int    // without yielding, because of that
	buf   []byte // what is being moved

	berths     []berth // connections of pools, by index
	freeBerths []int32

	up, down, requests int // not yet in the metrics
	swept              time.Time
	round              time.Time // when it was looked at the clock in this round; zero: it was not

	asleep atomic.Bool // it may wait, and has to be woken for what is posted
	posts  atomic.Int32

	mu struct {
		sync.Mutex
		posted []func()
		over   bool // nothing is posted any more
	}
}

// wakeSlot stands for the eventfd among the slots.
const wakeSlot = -1

// Where at least yieldFrom sessions wait for PostgreSQL more is about to come. A loop that
// sleeps until the first of it does is woken for each message by itself, which costs more
// than to carry it. So it lets others run before, so often at most, and looks again: what
// came meanwhile is carried in one go.
const (
	yieldFrom = 3
	yieldsMax = 4
	vainMax   = 4 // one wait in 16
)

// loopBytes are moved at once, at most.
const loopBytes = 64 << 10

// startLoops starts one for two processors: PostgreSQL needs some, too.
func startLoops(s *Server) ([]*loop, error) {
	n := s.o.loops
	if n == 0 {
		n = min(max(runtime.GOMAXPROCS(0)/2, 1), 8)
	}
	var loops []*loop
	for range max(n, 0) {
		l, err := startLoop(s)
		if err != nil {
			for _, l := range loops {
				l.close()
			}
			return nil, err
		}
		loops = append(loops, l)
	}
	return loops, nil
}

func startLoop(s *Server) (*loop, error) {
	l := &loop{s: s, buf: make([]byte, loopBytes)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pgwire: %w", os.NewSyscallError("epoll_create1", err))
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("pgwire: %w", os.NewSyscallError("eventfd", err)), unix.Close(l.epoll))
	}
	if err := l.control(unix.EPOLL_CTL_ADD, l.wake, unix.EPOLLIN, wakeSlot, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("pgwire: %w", err), unix.Close(l.wake), unix.Close(l.epoll))
	}
	l.done.Go(l.run)
	return l, nil
}

// close ends the loop, whose sessions are over, and joins it.
func (l *loop) close() {
	l.mu.Lock()
	over := l.mu.over
	l.mu.over = true
	l.mu.Unlock()
	if !over {
		l.nudge()
		l.done.Wait()
		_ = unix.Close(l.wake) // nobody uses them
		_ = unix.Close(l.epoll)
	}
}

// post has f run by the loop, before it waits again; false: the loop has ended.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	over := l.mu.over
	if !over {
		l.mu.posted = append(l.mu.posted, f)
		l.posts.Store(int32(len(l.mu.posted)))
	}
	l.mu.Unlock()
	if !over && l.asleep.Swap(false) {
		l.nudge()
	}
	return !over
}

func (l *loop) nudge() {
	one := [8]byte{1}                 // any number but 0, whatever the order of bytes
	_, _ = unix.Write(l.wake, one[:]) // full: it wakes anyhow
}

// take returns what was posted.
func (l *loop) take() (posted []func(), over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	posted, l.mu.posted = l.mu.posted, nil
	l.posts.Store(0)
	return posted, l.mu.over
}

func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	interval := l.s.o.sweepInterval()
	events := make([]unix.EpollEvent, 256)
	l.swept = time.Now()
	for rounds, n := 0, 0; ; rounds++ {
		var err error
		n, err = l.wait(events, interval, n > 1)
		if err != nil { // of a valid descriptor: cannot be
			panic(fmt.Sprintf("pgwire: epoll_wait: %v", err))
		}
		l.round = time.Time{}
		woken := false
		l.hear(events[:n])
		for i := range events[:n] {
			e := &events[i]
			if e.Fd == wakeSlot {
				woken = true
			} else if e.Pad == atBerth {
				l.hail(e.Fd, e.Events)
			} else if x := l.slots[e.Fd]; x != nil { // else it ended just now
				x.ready(int(e.Pad), e.Events)
			}
		}
		if woken {
			var number [8]byte
			_, _ = unix.Read(l.wake, number[:]) // it is a wake-up whatever it says
		}
		if woken || l.posts.Load() > 0 {
			posted, over := l.take()
			for _, f := range posted {
				f()
			}
			if over {
				l.leaveAll()
				return
			}
		}
		if n == 0 || rounds%64 == 0 {
			if now := l.now(); now.Sub(l.swept) >= interval {
				l.sweep(now)
			}
		}
	}
}

// now is some time of this round: looking at the clock costs as much as a look at a message.
func (l *loop) now() time.Time {
	if l.round.IsZero() {
		l.round = time.Now()
	}
	return l.round
}

// wait waits for events. busy: some are likely there, and looking for them without
// telling Go's scheduler is the cheaper try.
func (l *loop) wait(events []unix.EpollEvent, interval time.Duration, busy bool) (int, error) {
	if busy {
		if n := l.poll(events); n > 0 {
			return n, nil
		}
	}
	if l.posts.Load() > 0 {
		return l.poll(events), nil
	}
	if l.yields() {
		for range yieldsMax {
			_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // cannot fail
			if n := l.poll(events); n > 0 {
				l.vain = 0
				return n, nil
			}
		}
		l.vain = min(l.vain+1, vainMax)
		l.waits = 1<<l.vain - 1
	}
	timeout := -1
	if l.live > 0 {
		timeout = int(interval.Milliseconds()) + 1
	}
	l.asleep.Store(true)
	defer l.asleep.Store(false)
	if l.posts.Load() > 0 { // it came before that was said
		timeout = 0
	}
	for {
		n, err := unix.EpollWait(l.epoll, events, timeout)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// yields reports whether yielding may bring something: where it did not, as while all
// queries take long, it is tried less often.
func (l *loop) yields() bool {
	if l.owed < yieldFrom {
		return false
	}
	if l.waits > 0 {
		l.waits--
		return false
	}
	return true
}

// poll returns how many events are there.
func (l *loop) poll(events []unix.EpollEvent) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 { // who waits for them says so
		return 0
	}
	return int(n)
}

// control sets for what the loop waits.
func (l *loop) control(op, fd int, events uint32, slot, pad int32) error {
	e := unix.EpollEvent{Events: events, Fd: slot, Pad: pad}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, op, fd, &e))
}

// enter gives a session a slot. It is called between two waits, so no event that is
// on its way can be meant for the slot's session before.
func (l *loop) enter(x *looped) {
	if len(l.free) == 0 {
		l.slots = append(l.slots, nil)
		l.free = append(l.free, int32(len(l.slots)-1))
	}
	x.slot = l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.slots[x.slot] = x
	l.live++
}

func (l *loop) leave(x *looped) {
	l.slots[x.slot] = nil
	l.free = append(l.free, x.slot)
	l.live--
}

// leaveAll closes what is left: clients that were told why they are ended.
func (l *loop) leaveAll() {
	for _, x := range l.slots {
		if x != nil {
			x.finish(endStopping())
		}
	}
	l.report()
}

// sweep ends sessions whose time is up.
func (l *loop) sweep(now time.Time) {
	l.swept = now
	for _, x := range l.slots {
		if x != nil {
			x.look(now)
		}
	}
	l.report()
}

func (l *loop) report() {
	m := l.s.metrics
	m.up.Add(float64(l.up))
	m.down.Add(float64(l.down))
	m.requests.Add(float64(l.requests))
	l.up, l.down, l.requests = 0, 0, 0
}

// read and write do not block, so Go's scheduler need not know of them.

func read(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func write(fd int, b []byte) (int, syscall.Errno) {
	for {
		// Not write(2): a connection that is gone must not be a signal.
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			return 0, 0
		}
		return int(n), errno
	}
}
