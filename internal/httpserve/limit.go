package httpserve

import (
	"net"
	"sync"

	"github.com/walproxy/walproxy/internal/slots"
)

// limitListener accepts no further connection while as many as it allows are
// open. Those beyond wait in the kernel's queue.
type limitListener struct {
	net.Listener
	slots  *slots.Pool
	closed chan struct{}
	idle   *idleConns
	once   sync.Once
}

func limit(l net.Listener, n int, idle *idleConns) *limitListener {
	return &limitListener{Listener: l, slots: slots.New(n), closed: make(chan struct{}), idle: idle}
}

func (l *limitListener) Accept() (net.Conn, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	c, err := l.Listener.Accept()
	if err != nil {
		l.slots.Free()
		return nil, err
	}
	return &limitConn{Conn: c, free: sync.OnceFunc(l.slots.Free)}, nil
}

// enter waits for room for a connection, and makes it if one carries no request.
func (l *limitListener) enter() error {
	if l.slots.TryTake() {
		return nil
	}
	l.idle.makeRoom()
	defer l.idle.roomMade()
	if !l.slots.Take(l.closed) {
		return net.ErrClosed
	}
	return nil
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn
	free func()
}

func (c *limitConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
