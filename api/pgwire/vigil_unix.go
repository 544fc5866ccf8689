//go:build unix

package pgwire

import (
	"net"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// vigil waits for a client's next message in a system call, so that Go's scheduler sees
// nothing of it: it wakes no thread to look for other work while this one is at the
// message, and none to watch sockets when it waits again. These cost a client that writes
// alone as much as the write itself. But it keeps a thread and a processor of Go's, so it is
// brief, and for one session at a time. Not for concurrent use.
type vigil struct {
	raw     syscall.RawConn // nil: it does not wait
	look    func(fd uintptr) bool
	fds     [1]unix.PollFd
	came    bool
	vain    int // how often in a row nothing came, up to vigilVainMax
	skips   int // how often it does not wait from now on
	yielded time.Time
}

const (
	vigilMillis  = 10 // as a client may take on a machine that is busy with other things
	vigilVainMax = 4  // then it waits one time in 16
	// vigilYield is how long a goroutine may go on without Go's scheduler: from 10 ms its
	// processor is taken from it, and behind that Go's monitor looks every 20 µs for a while.
	vigilYield = 5 * time.Millisecond
)

func newVigil(c net.Conn) *vigil {
	v := &vigil{}
	if runtime.GOMAXPROCS(0) == 1 {
		return v
	}
	switch c := c.(type) { // not TLS, which may have read more than it has given
	case *net.TCPConn:
		v.raw, _ = c.SyscallConn() // closed: the next read says so
	case *net.UnixConn:
		v.raw, _ = c.SyscallConn()
	}
	v.look = func(fd uintptr) bool {
		v.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n, _ := unix.Poll(v.fds[:], vigilMillis) // interrupted: as if nothing came
		v.came = n > 0
		return true
	}
	return v
}

// keep returns when something has come, or soon. Behind times in vain it does so less often.
func (v *vigil) keep() {
	if v.raw == nil {
		return
	}
	if v.skips > 0 {
		v.skips--
		return
	}
	if now := time.Now(); now.Sub(v.yielded) > vigilYield {
		v.yielded = now
		runtime.Gosched()
	}
	if v.raw.Read(v.look) != nil { // closed, or past its deadline: so says the next read
		return
	}
	if v.came {
		v.vain = 0
		return
	}
	v.vain = min(v.vain+1, vigilVainMax)
	v.skips = 1<<v.vain - 1
}
