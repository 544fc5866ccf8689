package aerospike

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// link is a connection to the store that a test can cut, make lose answers, and
// have requests wait.
type link struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu struct {
		sync.Mutex
		cut   bool
		conns map[net.Conn]bool
		deaf  bool          // answers are thrown away
		held  chan struct{} // not nil: requests wait until it is closed
		late  int           // connections whose request waited and is not answered yet
	}
}

// links are one for each node.
type links []*link

func newLinks(to []string) (links, error) {
	var all links
	for _, addr := range to {
		l, err := newLink(addr)
		if err != nil {
			all.cut()
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (all links) addrs() (list []string) {
	for _, l := range all {
		list = append(list, l.listener.Addr().String())
	}
	return list
}

func (all links) cut() {
	for _, l := range all {
		l.cut()
	}
}

func (all links) lose() {
	for _, l := range all {
		l.lose()
	}
}

func (all links) hold() (release func()) {
	var releases []func()
	for _, l := range all {
		releases = append(releases, l.hold())
	}
	return func() {
		for _, release := range releases {
			release()
		}
	}
}

func (all links) drained(t *testing.T) {
	t.Helper()
	for _, l := range all {
		l.drained(t)
	}
}

// waiting is how many connections carry what is held back, or was and is not answered.
func (all links) waiting() (n int) {
	for _, l := range all {
		l.mu.Lock()
		n += l.mu.late
		l.mu.Unlock()
	}
	return n
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

// lose throws every answer away from now on.
func (l *link) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.deaf = true
}

// hold keeps what the client sends from now on back until release is called, also
// if the client has gone by then.
func (l *link) hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := make(chan struct{})
	l.mu.held = held
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.mu.held = nil
		l.mu.Unlock()
		close(held)
	})
}

// drained waits until everything that was held back is answered.
func (l *link) drained(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		late := l.mu.late
		l.mu.Unlock()
		if late == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections still carry what was held back", late)
		}
	}
}

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
	waited := false // guarded by l.mu
	answered := func() {
		if waited {
			waited = false
			l.mu.late--
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		relay(far, near, func() bool {
			l.mu.Lock()
			held := l.mu.held
			if held != nil && !waited {
				waited = true
				l.mu.late++
			}
			l.mu.Unlock()
			if held != nil {
				<-held
			}
			return true
		})
		// What was held back has arrived; its answer may still be on its way.
		far.(*net.TCPConn).CloseWrite()
	})
	wg.Go(func() {
		relay(near, far, func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			answered()
			return !l.mu.deaf
		})
		near.Close()
	})
	wg.Wait()
	l.mu.Lock()
	answered()
	l.mu.Unlock()
}

// relay copies what pass lets through. Where the receiver has gone the rest is read
// and thrown away.
func relay(to io.Writer, from io.Reader, pass func() bool) {
	buf := make([]byte, 64<<10)
	gone := false
	for {
		n, err := from.Read(buf)
		if n > 0 && pass() && !gone {
			_, failed := to.Write(buf[:n])
			gone = failed != nil
		}
		if err != nil {
			return
		}
	}
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
