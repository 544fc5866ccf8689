package pgtest

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Side says where a Proxy cuts.
type Side int

const (
	// BeforeServer: the matched bytes never reach the server.
	BeforeServer Side = iota + 1
	// AfterServer: the server gets them, and its answer is thrown away.
	AfterServer
	// Halfway: the server gets one half of the chunk that they came in.
	Halfway
)

// Proxy is a TCP proxy in front of a server. Connections are forwarded as they
// are, until told otherwise. Matching needs sslmode=disable.
type Proxy struct {
	listener net.Listener
	delay    atomic.Int64 // nanoseconds, per chunk and direction
	cuts     atomic.Int64

	wg sync.WaitGroup
	mu struct {
		sync.Mutex
		target  string
		open    map[*link]struct{}
		rule    *rule
		refuse  bool
		held    chan struct{} // non-nil: chunks wait until it is closed
		closing bool
	}
}

// rule cuts a connection once, or as often as it matches.
type rule struct {
	match []byte
	side  Side
	left  int
}

// link is one client's connection.
type link struct {
	client, server net.Conn
	deaf           atomic.Bool // answers are thrown away and the connection is cut
}

func (l *link) cut() {
	// A reset, not an orderly end: as a dead middle box gives.
	if c, ok := l.client.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = l.client.Close()
	_ = l.server.Close()
}

// NewProxy starts a proxy to an address; it ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener}
	p.mu.target = target
	p.mu.open = map[*link]struct{}{}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Target sends new connections elsewhere.
func (p *Proxy) Target(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.target = addr
}

// Delay holds every chunk back, in both directions, from now on.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// CutAt cuts the next times connections that send match, on one side of it.
func (p *Proxy) CutAt(match string, side Side, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.rule = &rule{match: []byte(match), side: side, left: times}
}

// Cuts counts the cuts of CutAt.
func (p *Proxy) Cuts() int { return int(p.cuts.Load()) }

// Cut resets all open connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.mu.open {
		l.cut()
	}
}

// Refuse resets new connections (and with Cut the open ones) while it is on.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.refuse = on
}

// Hold keeps all connections open and lets nothing through, as a network that
// swallows packets, until Release.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.held == nil {
		p.mu.held = make(chan struct{})
	}
}

// Release ends Hold.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.held != nil {
		close(p.mu.held)
		p.mu.held = nil
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target, refuse := p.mu.target, p.mu.refuse
		p.mu.Unlock()
		p.wg.Go(func() { p.serve(client, target, refuse) })
	}
}

func (p *Proxy) serve(client net.Conn, target string, refuse bool) {
	if refuse {
		if c, ok := client.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
		_ = client.Close()
		return
	}
	server, err := net.DialTimeout("tcp4", target, 5*time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	if p.mu.closing {
		l.cut()
	}
	p.mu.open[l] = struct{}{}
	p.mu.Unlock()
	var directions sync.WaitGroup
	directions.Go(func() { p.forward(l, client, server, true) })
	directions.Go(func() { p.forward(l, server, client, false) })
	directions.Wait()
	l.cut()
	p.mu.Lock()
	delete(p.mu.open, l)
	p.mu.Unlock()
}

// forward copies one direction until an end closes; a half-closed connection is
// closed.
func (p *Proxy) forward(l *link, from io.Reader, to net.Conn, up bool) {
	defer l.server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if up && p.judge(l, buf[:n]) {
				return
			}
			if !up && l.deaf.Load() {
				p.cuts.Add(1)
				l.cut()
				return
			}
			p.wait()
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !up { // the server ended: so does the client's connection
				_ = l.client.Close()
			}
			return
		}
	}
}

// judge reports that the link was cut in front of chunk.
func (p *Proxy) judge(l *link, chunk []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.mu.rule
	if r == nil || r.left == 0 || !bytes.Contains(chunk, r.match) {
		return false
	}
	r.left--
	if r.side == AfterServer {
		l.deaf.Store(true)
		return false
	}
	if r.side == Halfway {
		_, _ = l.server.Write(chunk[:len(chunk)/2])
	}
	p.cuts.Add(1)
	l.cut()
	return true
}

func (p *Proxy) wait() {
	if d := p.delay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	p.mu.Lock()
	held := p.mu.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.Delay(0)
	p.Release()
	p.mu.Lock()
	p.mu.closing = true
	for l := range p.mu.open {
		l.cut()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
