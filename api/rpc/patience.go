package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var errStopping = errors.New("rpc: stopping")

// patientReader gives the client some time for every read of its body, and ends
// with errStopping when the server stops.
type patientReader struct {
	body     io.Reader
	conn     *http.ResponseController
	timeout  time.Duration
	stopping context.Context
	undo     func() bool
	late     prometheus.Counter // clients that paused for too long
	mu       struct {
		sync.Mutex
		woken bool // no read waits any more
		ended bool // the connection's deadline is no longer the body's
	}
}

// patient returns a reader of body. Its end must be called behind the last read.
func (s *Server) patient(w http.ResponseWriter, body io.Reader) *patientReader {
	p := &patientReader{
		body: body, conn: http.NewResponseController(w),
		timeout: s.options.BodyTimeout, stopping: s.stopping,
		late: s.metrics.cut.WithLabelValues(cutRequest),
	}
	p.undo = context.AfterFunc(s.stopping, p.wake)
	return p
}

func (p *patientReader) Read(buf []byte) (int, error) {
	var until time.Time // none, for a stream that rests
	if p.timeout > 0 {
		until = time.Now().Add(p.timeout)
	}
	p.setDeadline(until)
	n, err := p.body.Read(buf)
	if err != nil {
		p.end()
		var timeout net.Error
		if !errors.Is(err, io.EOF) && p.stopping.Err() != nil {
			err = errStopping
		} else if errors.As(err, &timeout) && timeout.Timeout() && !p.isWoken() {
			p.late.Inc()
		}
	}
	return n, err
}

func (p *patientReader) setDeadline(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.woken {
		at = time.Unix(1, 0)
	}
	if !p.mu.ended {
		_ = p.conn.SetReadDeadline(at) // not a connection: no bound needed
	}
}

// wake ends the read that is under way, and those to come.
func (p *patientReader) wake() {
	p.mu.Lock()
	p.mu.woken = true
	p.mu.Unlock()
	p.setDeadline(time.Time{})
}

func (p *patientReader) isWoken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.woken
}

// end gives the deadline back: behind a body net/http reads ahead for the end of
// the connection, and a stop that woke that read would end the request, whose
// write may still wait for its ack. It may be called twice.
func (p *patientReader) end() {
	p.undo()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.ended = true
}
