//go:build unix

package pgwire

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// silent reports that nothing has come on an idle connection, not even its end. What
// PostgreSQL says unasked (that it stops, that its configuration has changed) is
// reason enough to do without it.
func (b *backend) silent() bool {
	if b.peek == nil {
		b.peek = newPeek(b.conn)
	}
	return b.peek.silent()
}

// peek looks whether something is to be read on a socket. Not for concurrent use.
type peek struct {
	raw  syscall.RawConn // nil: of another sort
	err  error           // why there is none
	look func(fd uintptr) bool
	said error
	one  [1]byte
}

func newPeek(c net.Conn) *peek {
	p := &peek{}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if s, ok := c.(syscall.Conn); ok {
		p.raw, p.err = s.SyscallConn()
	}
	p.look = func(fd uintptr) bool {
		_, _, p.said = syscall.Recvfrom(int(fd), p.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	}
	return p
}

func (p *peek) silent() bool {
	switch {
	case p.err != nil:
		return false
	case p.raw == nil:
		return true
	}
	err := p.raw.Read(p.look)
	return err == nil && (errors.Is(p.said, syscall.EAGAIN) || errors.Is(p.said, syscall.EWOULDBLOCK) || errors.Is(p.said, syscall.EINTR))
}
