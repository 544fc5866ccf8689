//go:build unix

package pgwire

import (
	"crypto/tls"
	"errors"
	"syscall"
)

// silent reports that nothing has come on an idle connection, not even its end. What
// PostgreSQL says unasked (that it stops, that its configuration has changed) is
// reason enough to do without it.
func (b *backend) silent() bool {
	c := b.conn
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	var said error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, said = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && (errors.Is(said, syscall.EAGAIN) || errors.Is(said, syscall.EWOULDBLOCK) || errors.Is(said, syscall.EINTR))
}
