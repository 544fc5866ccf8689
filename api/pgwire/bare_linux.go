package pgwire

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bare is a socket that Go's poller does not know, so that a loop alone is woken for it.
// Nothing of it waits. It is what a connection of a pool is from its first use in a loop
// until a goroutine has to talk there.
type bare struct{ fd int }

func (c *bare) Close() error { return unix.Close(c.fd) }

func (c *bare) Write(b []byte) (int, error) {
	n, errno := write(c.fd, b)
	if errno != 0 {
		return 0, errno
	}
	if n < len(b) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// CloseWrite says that nothing more is written.
func (c *bare) CloseWrite() error { return unix.Shutdown(c.fd, unix.SHUT_WR) }

func (*bare) Read([]byte) (int, error)         { return 0, errors.ErrUnsupported }
func (*bare) LocalAddr() net.Addr              { return linkAddr{} }
func (*bare) RemoteAddr() net.Addr             { return linkAddr{} }
func (*bare) SetDeadline(time.Time) error      { return nil } // it never waits
func (*bare) SetReadDeadline(time.Time) error  { return nil }
func (*bare) SetWriteDeadline(time.Time) error { return nil }

// For who looks whether something has come.
func (c *bare) SyscallConn() (syscall.RawConn, error) { return bareSocket{c.fd}, nil }

type bareSocket struct{ fd int }

func (s bareSocket) Control(f func(uintptr)) error    { f(uintptr(s.fd)); return nil }
func (s bareSocket) Read(f func(uintptr) bool) error  { f(uintptr(s.fd)); return nil }
func (s bareSocket) Write(f func(uintptr) bool) error { f(uintptr(s.fd)); return nil }

// errEncrypted: PostgreSQL has begun to ask for TLS.
var errEncrypted = errors.New("the connection is encrypted, others were not")

// loosen takes the connection away from Go's poller. Only who has it may call it.
func (b *backend) loosen() error {
	if _, is := b.conn.(*bare); is {
		return nil
	}
	if !plain(b.conn) {
		return errEncrypted
	}
	fd, err := duplicate(b.conn)
	if err != nil {
		return err
	}
	_ = b.conn.Close() // the duplicate stays
	b.conn, b.peek = &bare{fd}, nil
	return nil
}

// tame undoes loosen: a goroutine can talk there. Only who has the connection may call it.
func (b *backend) tame() error {
	c, is := b.conn.(*bare)
	if !is {
		return nil
	}
	b.unmoor()
	f := os.NewFile(uintptr(c.fd), "")
	conn, err := net.FileConn(f) // of another duplicate
	if err = errors.Join(err, f.Close()); err != nil {
		b.conn = &bare{-1} // which is closed
		if conn != nil {
			_ = conn.Close()
		}
		return err
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(keepAlive) // that of a connection that is gone fails, as its next use does
	}
	b.conn, b.peek = conn, nil
	return nil
}

// moor has the loop watch a connection that a session of its takes. Only the loop calls it.
func (l *loop) moor(b *backend, c *looped) error {
	if b.at != l {
		if err := b.loosen(); err != nil {
			return err
		}
		b.unmoor()
		if len(l.freeBerths) == 0 {
			l.berths = append(l.berths, berth{})
			l.freeBerths = append(l.freeBerths, int32(len(l.berths)-1))
		}
		at := l.freeBerths[len(l.freeBerths)-1]
		if err := l.control(unix.EPOLL_CTL_ADD, b.conn.(*bare).fd, unix.EPOLLIN, at, atBerth); err != nil {
			return err
		}
		l.freeBerths = l.freeBerths[:len(l.freeBerths)-1]
		l.berths[at].b, b.at, b.berth = b, l, at
	}
	l.berths[b.berth].c = c
	return nil
}

// unmoor has no loop watch the connection any more. Only who has it may call it.
func (b *backend) unmoor() {
	l, at := b.at, b.berth
	if l == nil {
		return
	}
	b.at = nil
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, b.conn.(*bare).fd, nil) // it is there, unless the loop has muted it
	l.post(func() {                                                        // what the loop is at may still be about the berth
		l.berths[at] = berth{}
		l.freeBerths = append(l.freeBerths, at)
	})
}

// berth is where a loop finds a connection of a pool and who has it.
type berth struct {
	b *backend
	c *looped // nil: nobody has it
}

// hear finds out which connections that nobody has have ended, before any is taken.
func (l *loop) hear(events []unix.EpollEvent) {
	for i := range events {
		if e := &events[i]; e.Pad == atBerth && l.berths[e.Fd].c == nil {
			l.hail(e.Fd, e.Events)
		}
	}
}

// hail: PostgreSQL has said something at a berth.
func (l *loop) hail(at int32, events uint32) {
	switch here := l.berths[at]; {
	case here.c != nil:
		here.c.ready(atUpstream, events)
	case here.b != nil:
		l.s.pools.spoke(here.b)
	}
}
