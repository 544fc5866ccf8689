package aerowire_test

import (
	"net"
	"sync"
	"testing"
)

// link is the way to a store: it can be held, so that nothing passes and nothing is
// refused, and cut, so that nothing is there.
type link struct {
	t    testing.TB
	to   string
	name string // host:port, kept when it is cut

	mu       sync.Mutex
	passes   sync.Cond // while not held
	held     bool
	listener net.Listener
	conns    map[net.Conn]struct{}
	joined   sync.WaitGroup
}

func newLink(t testing.TB, to string) *link {
	t.Helper()
	l := &link{t: t, to: to, name: "127.0.0.1:0", conns: map[net.Conn]struct{}{}}
	l.passes.L = &l.mu
	l.listen()
	t.Cleanup(func() {
		l.set(false)
		l.cut()
		l.joined.Wait()
	})
	return l
}

func (l *link) addr() string { return l.name }

func (l *link) listen() {
	listener, err := net.Listen("tcp", l.name)
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name, l.listener = listener.Addr().String(), listener
	l.joined.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			l.joined.Go(func() { l.serve(c) })
		}
	})
}

func (l *link) serve(c net.Conn) {
	up, err := net.Dial("tcp", l.to)
	if err != nil {
		_ = c.Close()
		return
	}
	l.mu.Lock()
	l.conns[c], l.conns[up] = struct{}{}, struct{}{}
	l.mu.Unlock()
	l.joined.Go(func() { l.pipe(up, c) })
	l.pipe(c, up)
}

// pipe ends with both connections.
func (l *link) pipe(to, from net.Conn) {
	defer func() {
		_, _ = to.Close(), from.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, to)
		delete(l.conns, from)
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		for l.held {
			l.passes.Wait()
		}
		l.mu.Unlock()
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}

func (l *link) set(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	l.passes.Broadcast()
}

func (l *link) hold() (release func()) {
	l.set(true)
	return func() { l.set(false) }
}

func (l *link) cut() (restore func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.listener.Close()
	for c := range l.conns {
		_ = c.Close()
	}
	return l.listen
}
