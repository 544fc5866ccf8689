package aerospike

import (
	"io"
	"net"
	"sync"
)

// link is a connection to the store that a test can cut.
type link struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu struct {
		sync.Mutex
		cut   bool
		conns map[net.Conn]bool
	}
}

func newLink(to string) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, to: to}
	l.mu.conns = map[net.Conn]bool{}
	l.wg.Go(l.accept)
	return l, nil
}

func (l *link) addr() string { return l.listener.Addr().String() }

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.carry(near) })
	}
}

func (l *link) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer far.Close()
	if !l.keep(near, far) {
		return
	}
	defer l.drop(near, far)
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			io.Copy(way[0], way[1])
			near.Close()
			far.Close()
		})
	}
	wg.Wait()
}

func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.mu.conns[c] = true
	}
	return !l.mu.cut
}

func (l *link) drop(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.mu.conns, c)
	}
}

// cut ends all connections and takes no more. It may be called again.
func (l *link) cut() {
	l.listener.Close()
	l.mu.Lock()
	l.mu.cut = true
	for c := range l.mu.conns {
		c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}
