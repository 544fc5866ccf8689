package pgdrivers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Recorder stands between a driver and PostgreSQL and writes down what passes.
type Recorder struct {
	listener net.Listener
	server   string
	joined   sync.WaitGroup

	mu struct {
		sync.Mutex
		connections []*recording
		err         error
	}
}

type recording struct {
	exchanges []Exchange
	answered  bool // something came since the client spoke
}

// NewRecorder listens on a port of its own, for a server at an address.
func NewRecorder(server string) (*Recorder, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Recorder{listener: l, server: server}
	r.joined.Go(r.accept)
	return r, nil
}

// Addr is where drivers go.
func (r *Recorder) Addr() string { return r.listener.Addr().String() }

// Close ends when all connections have, and returns what they said.
func (r *Recorder) Close() ([][]Exchange, error) {
	err := r.listener.Close()
	r.joined.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out [][]Exchange
	for _, c := range r.mu.connections {
		if merged := merge(c.exchanges); len(merged) > 0 {
			out = append(out, merged)
		}
	}
	return out, errors.Join(err, r.mu.err)
}

func (r *Recorder) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		rec := &recording{}
		r.mu.Lock()
		r.mu.connections = append(r.mu.connections, rec)
		r.mu.Unlock()
		r.joined.Go(func() {
			if err := r.carry(c, rec); err != nil {
				r.mu.Lock()
				r.mu.err = errors.Join(r.mu.err, err)
				r.mu.Unlock()
			}
		})
	}
}

func (r *Recorder) carry(client net.Conn, rec *recording) error {
	defer client.Close()
	server, err := net.Dial("tcp", r.server)
	if err != nil {
		return err
	}
	down := make(chan error, 1)
	from := bufio.NewReader(client)
	first, err := readMessage(from, false)
	if err == nil && (startupCode(first) == codeTLS || startupCode(first) == codeGSS || startupCode(first) == codeCancel) {
		err = fmt.Errorf("pgdrivers: the driver asks for encryption, or to cancel: %x", first)
	}
	if err == nil {
		r.note(rec, true, first)
		_, err = server.Write(first)
	}
	go func() { down <- r.pass(rec, false, bufio.NewReader(server), client) }()
	if err == nil {
		err = r.pass(rec, true, from, server)
	}
	_ = server.Close() // which ends the other way
	return errors.Join(err, <-down)
}

// pass hands messages on until one side is done.
func (r *Recorder) pass(rec *recording, up bool, from io.Reader, to io.Writer) error {
	for {
		m, err := readMessage(from, true)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		r.note(rec, up, m)
		if _, err := to.Write(m); err != nil {
			return nil // the other side says why, if there is a reason
		}
	}
}

func (r *Recorder) note(rec *recording, up bool, m []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !up && len(rec.exchanges) > 0:
		e := &rec.exchanges[len(rec.exchanges)-1]
		e.Answer = kinds(e.Answer, m[0])
		rec.answered = true
	case up && (rec.answered || len(rec.exchanges) == 0):
		rec.exchanges = append(rec.exchanges, Exchange{Sent: [][]byte{m}})
		rec.answered = false
	case up:
		e := &rec.exchanges[len(rec.exchanges)-1]
		e.Sent = append(e.Sent, m)
	}
}

// merge joins exchanges whose answer came in pieces: a client that goes on sending
// does so whether or not something has come already.
func merge(list []Exchange) []Exchange {
	var out []Exchange
	for _, e := range list {
		if n := len(out); n > 0 && !out[n-1].waits() {
			last := &out[n-1]
			last.Sent = append(last.Sent, e.Sent...)
			for _, kind := range []byte(e.Answer) {
				last.Answer = kinds(last.Answer, kind)
			}
			continue
		}
		out = append(out, e)
	}
	return out
}

// waits reports whether the client waits for this answer, of which all has come: that
// of a Flush, one that ends with ReadyForQuery, or with CopyInResponse.
func (e *Exchange) waits() bool {
	last := e.Sent[len(e.Sent)-1][0]
	if last == 'H' {
		return true
	}
	if e.Answer == "" {
		return false
	}
	end := e.Answer[len(e.Answer)-1]
	return end == 'G' || end == 'Z' && e.syncs() == e.readies()
}

// syncs is how many ReadyForQuery are owed for what was sent. The end of a COPY that
// began before is owed one, by the Query or, in the extended protocol, by the Sync that
// follows it: one that came before was ignored.
func (e *Exchange) syncs() (n int) {
	for _, m := range e.Sent {
		switch m[0] {
		case 'S', 'Q', 'F', 0: // a startup packet's length begins with 0
			n++
		}
	}
	if first := e.Sent[0][0]; first == 'd' || first == 'c' || first == 'f' {
		n = max(n, 1)
	}
	return n
}

func (e *Exchange) readies() (n int) {
	for _, kind := range []byte(e.Answer) {
		if kind == 'Z' {
			n++
		}
	}
	return n
}
