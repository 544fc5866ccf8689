package transcript

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// Recorder stands between clients and a server and notes what they say. What
// clients ask about the cluster in the background is passed on and not noted.
type Recorder struct {
	server   string
	listener net.Listener
	joined   sync.WaitGroup

	mu struct {
		sync.Mutex
		name      string
		exchanges []*noted // in the order of their requests
		underWay  int
		conns     map[net.Conn]struct{}
		closed    bool
		err       error
	}
}

// noted is an exchange whose answer may be still to come.
type noted struct {
	Exchange
	done bool
}

// Record starts a recorder in front of a server.
func Record(server string) (*Recorder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Recorder{server: server, listener: l}
	r.mu.conns = map[net.Conn]struct{}{}
	r.joined.Go(r.accept)
	return r, nil
}

// Addr is where clients connect.
func (r *Recorder) Addr() string { return r.listener.Addr().String() }

// Case names what is noted from now on.
func (r *Recorder) Case(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.name = name
}

// Take returns what was noted and forgets it. What has no answer is left out.
func (r *Recorder) Take() ([]Exchange, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Exchange
	for _, n := range r.mu.exchanges {
		if n.done {
			out = append(out, n.Exchange)
		}
	}
	r.mu.exchanges = nil
	return out, r.mu.err
}

// Close ends all connections and joins every goroutine.
func (r *Recorder) Close() error {
	r.mu.Lock()
	r.mu.closed = true
	for c := range r.mu.conns {
		_ = c.Close() // which ends its goroutine
	}
	r.mu.Unlock()
	err := r.listener.Close()
	r.joined.Wait()
	return err
}

func (r *Recorder) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.joined.Go(func() {
			if err := r.serve(c); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				r.mu.Lock()
				r.mu.err = errors.Join(r.mu.err, err)
				r.mu.Unlock()
			}
		})
	}
}

// keep remembers a connection, or closes it if the recorder is closed.
func (r *Recorder) keep(c net.Conn) (forget func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.conns[c] = struct{}{}
	if r.mu.closed {
		_ = c.Close() // its use says so
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.mu.conns, c)
		_ = c.Close() // nothing is left to send
	}
}

func (r *Recorder) serve(client net.Conn) error {
	defer r.keep(client)()
	server, err := net.Dial("tcp", r.server)
	if err != nil {
		return err
	}
	defer r.keep(server)()
	in := bufio.NewReader(server)
	for {
		b, err := readProto(client)
		if err != nil {
			return err
		}
		req, err := parse(b)
		if err != nil {
			return err
		}
		n := r.begin(req, b)
		if _, err := server.Write(b); err != nil {
			return err
		}
		answer, err := readAnswer(in, req, func(b []byte) error {
			_, err := client.Write(b)
			return err
		})
		r.end(n, answer, err)
		if err != nil {
			return err
		}
	}
}

// begin notes a request; nil: it is not of interest.
func (r *Recorder) begin(req *request, b []byte) *noted {
	if req.isChatter() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &noted{Exchange: Exchange{Case: r.mu.name, At: time.Now(), Request: b, Together: r.mu.underWay > 0}}
	if n.Together {
		for _, other := range r.mu.exchanges {
			other.Together = other.Together || !other.done
		}
	}
	r.mu.underWay++
	r.mu.exchanges = append(r.mu.exchanges, n)
	return n
}

func (r *Recorder) end(n *noted, answer []byte, err error) {
	if n == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.underWay--
	n.Answer, n.done = answer, err == nil
}

// isChatter: what clients ask all the time.
func (r *request) isChatter() bool {
	if r.kind != codec.TypeInfo {
		return false
	}
	return !slices.ContainsFunc(r.names, func(name string) bool {
		for _, often := range []string{"node", "build", "features", "peers-", "service-", "partition-generation", "rebalance-generation",
			"replicas", "cluster-name", "rack-ids", "edition", "user-agent"} {
			if strings.HasPrefix(name, often) {
				return false
			}
		}
		return true
	})
}
