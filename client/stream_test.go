package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/mutation"
)

// increments sends n increments of one over some keys by a stream and counts the
// acknowledged ones by key.
func increments(t *testing.T, s *client.Stream, n, atOnce int) map[string]int64 {
	t.Helper()
	acked := map[string]int64{}
	var sent []*client.Pending
	var keys []string
	for i := range n {
		key := fmt.Sprintf("k%d", i%7)
		m, err := mutation.Increment("counters", mutation.String(key), map[string]any{"n": 1})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Send(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		sent, keys = append(sent, p), append(keys, key)
		if atOnce > 0 && i%atOnce == atOnce-1 {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := uint64(0)
	for i, p := range sent {
		outcomes, err := p.Wait(t.Context())
		if err != nil || len(outcomes) != 1 || outcomes[0].Err != nil {
			t.Fatalf("write %d: %+v, %v", i, outcomes, err)
		}
		if outcomes[0].LSN <= last {
			t.Fatalf("write %d has LSN %d, that before it %d", i, outcomes[0].LSN, last)
		}
		last = outcomes[0].LSN
		acked[keys[i]]++
	}
	return acked
}

// same fails unless every counter is what was acknowledged: nothing lost, nothing twice.
func same(t *testing.T, c *client.Client, acked map[string]int64) {
	t.Helper()
	for key, want := range acked {
		r, err := c.Get(t.Context(), "counters", mutation.String(key))
		if err != nil || r.Fields["n"] != want {
			t.Errorf("%s: %v, %v; %d are acknowledged", key, r.Fields["n"], err, want)
		}
	}
}

func TestStream(t *testing.T) {
	for name, o := range map[string]client.Options{"connect": {}, "grpc": {GRPC: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.client(o)
			s := c.Stream(client.StreamOptions{})
			acked := increments(t, s, 1000, 300)
			same(t, c, acked)
			bad, err := s.Send(t.Context(), mutation.Delete("", mutation.String("x")), mutation.Delete("c", mutation.String("x")))
			if err != nil {
				t.Fatal(err)
			}
			outcomes, err := bad.Wait(t.Context())
			if err != nil || !errors.Is(outcomes[0].Err, client.ErrInvalid) || outcomes[1].Err != nil {
				t.Errorf("%+v, %v; want the first alone refused", outcomes, err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := s.Send(t.Context(), mutation.Delete("c", mutation.String("x"))); !errors.Is(err, client.ErrClosed) {
				t.Errorf("behind Close: %v", err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Errorf("a second Close: %v", err)
			}
		})
	}
}

// TestStreamTooLarge: a write that the proxy does not take is refused by itself.
func TestStreamTooLarge(t *testing.T) {
	r := newRig(t)
	s := r.client(client.Options{}).Stream(client.StreamOptions{MessageBytes: 8 << 20})
	defer s.Close(t.Context())
	var sent []*client.Pending
	for i, size := range []int{10, 2 << 20, 600 << 10, 600 << 10, 10} {
		m, err := mutation.Set("c", mutation.String(fmt.Sprint(i)), map[string]any{"pad": strings.Repeat("x", size)})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Send(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, p)
	}
	for i, p := range sent {
		outcomes, err := p.Wait(t.Context())
		if err != nil || errors.Is(outcomes[0].Err, client.ErrTooLarge) != (i == 1) || i != 1 && outcomes[0].Err != nil {
			t.Errorf("write %d: %+v, %v", i, outcomes, err)
		}
	}
}

// TestStreamBackPressure: Send waits while InFlight writes have no answer, no longer than
// its context.
func TestStreamBackPressure(t *testing.T) {
	r := newRig(t)
	away := r.cut()
	s := r.clientVia(away.address(), client.Options{RetryFor: time.Minute}).Stream(client.StreamOptions{InFlight: 10})
	away.stop()
	for i := range 10 {
		if _, err := s.Send(t.Context(), mutation.Delete("c", mutation.String(fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Send(ctx, mutation.Delete("c", mutation.String("more"))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beyond the bound: %v", err)
	}
	if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush: %v", err)
	}
	closed, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(closed); err == nil {
		t.Error("Close says that all is well")
	}
	if n := r.logged(); n != 0 {
		t.Errorf("%d writes came through", n)
	}
}

// TestStreamGivesUp: when the proxy stays away the writes that were never sent are
// refused, not of unknown outcome, and the stream says why.
func TestStreamGivesUp(t *testing.T) {
	r := newRig(t)
	away := r.cut()
	away.stop()
	s := r.clientVia(away.address(), client.Options{RetryFor: 50 * time.Millisecond}).Stream(client.StreamOptions{})
	p, err := s.Send(t.Context(), mutation.Delete("c", mutation.String("1")))
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := p.Wait(t.Context())
	if err != nil || !errors.Is(outcomes[0].Err, client.ErrUnavailable) || errors.Is(outcomes[0].Err, client.ErrUnknownOutcome) {
		t.Errorf("%+v, %v; want unavailable", outcomes, err)
	}
	if err := s.Close(t.Context()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Close: %v", err)
	}
}

// TestStreamLogFull: while the log has no room the stream waits, in order.
func TestStreamLogFull(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.fullTimes = 1 })
	c := r.client(client.Options{})
	s := c.Stream(client.StreamOptions{})
	defer s.Close(t.Context())
	same(t, c, increments(t, s, 200, 0))
}

// cutter is a proxy of connections that cuts them.
type cutter struct {
	listener net.Listener
	to       string
	serving  sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
	cuts     int
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &cutter{listener: l, to: to, open: map[net.Conn]bool{}}
	p.serving.Go(p.accept)
	t.Cleanup(p.stop)
	return p
}

func (p *cutter) address() string { return "http://" + p.listener.Addr().String() }

func (p *cutter) accept() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = from.Close()
			continue
		}
		p.mu.Lock()
		p.open[from] = true
		p.mu.Unlock()
		var both sync.WaitGroup
		for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
			both.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				_, _ = way[0].Close(), way[1].Close()
			})
		}
		p.serving.Go(func() {
			both.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.open, from)
		})
	}
}

// cut cuts every connection, in the middle of whatever it carries.
func (p *cutter) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(rand.IntN(2) - 1) // at once, or in order
		}
		_ = c.Close()
		p.cuts++
	}
}

func (p *cutter) stop() {
	_ = p.listener.Close()
	p.cut()
	p.serving.Wait()
}

// TestStreamCut: while connections are cut everything is written once, in order.
func TestStreamCut(t *testing.T) {
	r := newRig(t)
	p := r.cut()
	c := r.clientVia(p.address(), client.Options{RetryFor: time.Minute})
	s := c.Stream(client.StreamOptions{InFlight: 200})
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for range 12 {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+rand.IntN(30)) * time.Millisecond):
				p.cut()
			}
		}
	})
	acked := increments(t, s, 1500, 0)
	for i := range 20 { // and one by one
		if _, err := c.Increment(t.Context(), "counters", mutation.String("single"), map[string]any{"n": 1}); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	acked["single"] = 20
	close(stop)
	cutting.Wait()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	p.mu.Lock()
	cuts := p.cuts
	p.mu.Unlock()
	if cuts == 0 {
		t.Error("nothing was cut")
	}
	same(t, c, acked)
	t.Logf("%d cuts", cuts)
}
