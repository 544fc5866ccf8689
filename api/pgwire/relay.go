package pgwire

import (
	"io"
	"net"
	"sync"
	"time"
)

// bufferBytes of each direction of a relay.
const bufferBytes = 16 << 10

// relay carries a session with a goroutine for each direction.
type relay struct {
	carried
	up flow // guarded by mu
}

func newRelay(s *session) *relay {
	x := &relay{up: flow{limit: s.s.o.MaxMessageBytes}}
	x.begin(s)
	return x
}

func (x *relay) run(fromClient, fromServer []byte) error {
	var up sync.WaitGroup
	up.Go(func() { x.unheard(pump(x.client, fromClient, x.passUp)) })
	x.down(fromServer, x.passDown)
	_ = x.upstream.Close() // all of it was read, or nobody is there to tell
	_ = x.client.Close()
	up.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.why
}

// passUp passes on what the client sent.
func (x *relay) passUp(b []byte) (int, error) {
	n, err := x.scanUp(b)
	if n > 0 {
		if _, err := x.upstream.Write(b[:n]); err != nil {
			return n, errUnreachable
		}
		x.s.metrics.up.Add(float64(n))
	}
	return n, err
}

func (x *relay) scanUp(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return 0, net.ErrClosed
	}
	x.mu.moves++
	n, err := x.up.scan(b, func(kind byte, _ []byte) error {
		if kind == cTerminate {
			x.mu.gone = true
		}
		return x.mu.turn.client(kind)
	})
	if err != nil {
		err = refuseFrame(err)
	}
	return n, err
}

// passDown passes on what PostgreSQL sent.
func (x *relay) passDown(b []byte) (int, error) {
	n, err := x.scanDown(b)
	if n > 0 {
		if err := x.deliver(b[:n]); err != nil {
			return n, err
		}
	}
	return n, err
}

func (x *relay) scanDown(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return 0, net.ErrClosed
	}
	x.mu.moves++
	n, err := x.mu.down.scan(b, func(kind byte, body []byte) error {
		x.mu.last = kind
		if kind == sReady {
			x.s.metrics.requests.Inc()
		}
		x.mu.turn.server(kind, body)
		return nil
	})
	return n, err
}

// linger takes what a client still sends before its connection is closed: else it
// would see a reset instead of what it was told.
func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lastWord)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c)
}

// pump reads from one connection and shows pass what came, again with what it
// did not take. It returns io.EOF at the end of the stream.
func pump(from net.Conn, first []byte, pass func([]byte) (int, error)) error {
	buf := make([]byte, max(bufferBytes, len(first)+headBytes+1))
	have := copy(buf, first)
	for read := have > 0; ; read = true {
		if read {
			n, err := pass(buf[:have])
			if err != nil {
				return err
			}
			have = copy(buf, buf[n:have])
		}
		n, err := from.Read(buf[have:])
		have += n
		if err != nil && n == 0 {
			return err
		}
	}
}
