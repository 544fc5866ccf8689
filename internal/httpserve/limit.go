package httpserve

import (
	"net"
	"sync"
)

// limitListener accepts no further connection while as many as it allows are
// open. Those beyond wait in the kernel's queue.
type limitListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	idle   *idleConns
	once   sync.Once
}

func limit(l net.Listener, n int, idle *idleConns) net.Listener {
	return &limitListener{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{}), idle: idle}
}

func (l *limitListener) Accept() (net.Conn, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

// enter waits for room for a connection, and makes it if one carries no request.
func (l *limitListener) enter() error {
	select {
	case l.slots <- struct{}{}:
		return nil
	default:
	}
	l.idle.makeRoom()
	defer l.idle.roomMade()
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-l.closed:
		return net.ErrClosed
	}
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
