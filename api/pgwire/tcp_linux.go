package pgwire

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// lostAfter is how long PostgreSQL's machine may leave bytes unacknowledged.
const lostAfter = 30 * time.Second

// patient bounds the wait for a machine that is gone without a word.
func patient(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return // closed: the next use tells
	}
	_ = raw.Control(func(fd uintptr) {
		// Keep-alive probes find it as well, later.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(lostAfter.Milliseconds()))
	})
}
