package httpserve

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o Options) (s *Server, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Name, o.Listener = "test", l
	s = Start(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx) // safe twice
	})
	return s, l.Addr().String()
}

func dial(t *testing.T, address, text string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(conn)
}

const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// TestConnections: one beyond the bound waits until another has closed.
func TestConnections(t *testing.T) {
	running := make(chan struct{}, 2)
	hold := make(chan struct{})
	_, address := start(t, Options{MaxConnections: 1, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		running <- struct{}{}
		<-hold
	})})
	first, second := dial(t, address, request), dial(t, address, request)
	<-running
	select {
	case <-running:
		t.Fatal("the second connection is served beside the first")
	case <-time.After(200 * time.Millisecond): // long enough to see it go wrong
	}
	close(hold)
	for _, line := range []string{firstLine(first), firstLine(second)} {
		if !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Errorf("got %q", line)
		}
	}
}

func firstLine(r *bufio.Reader) string {
	line, _ := r.ReadString('\n')
	return line
}

// TestIdleMakesRoom: connections that carry no request keep nobody out, and those that
// carry one are kept.
func TestIdleMakesRoom(t *testing.T) {
	hold, running := make(chan struct{}), make(chan struct{})
	_, address := start(t, Options{MaxConnections: 4, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			close(running)
			<-hold
		}
	})})
	held := dial(t, address, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
	<-running
	for range 20 { // each rests behind its answer, and stays open
		if line := firstLine(dial(t, address, request)); !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Fatalf("got %q", line)
		}
	}
	close(hold)
	if line := firstLine(held); !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Errorf("the one that was held: %q", line)
	}
}

func TestSlowHeader(t *testing.T) {
	_, address := start(t, Options{HeaderTimeout: 50 * time.Millisecond, Handler: http.NotFoundHandler()})
	r := dial(t, address, "GET / HTTP/1.1\r\nHost:")
	if text, err := io.ReadAll(r); err != nil || strings.Contains(string(text), "200") {
		t.Errorf("got %q, %v; want the connection closed", text, err)
	}
}

func TestLargeHeader(t *testing.T) {
	_, address := start(t, Options{Handler: http.NotFoundHandler()})
	r := dial(t, address, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 80<<10)+"\r\n\r\n")
	if line := firstLine(r); !strings.Contains(line, "431") {
		t.Errorf("got %q", line)
	}
}

// TestClose cuts off a handler that does not end by the deadline.
func TestClose(t *testing.T) {
	running, ended := make(chan struct{}), make(chan struct{})
	s, address := start(t, Options{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(running)
		<-r.Context().Done()
		close(ended)
	})})
	_ = dial(t, address, request)
	<-running
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("a client that stalls is no failure: %v", err)
	}
	<-ended
	if _, err := net.Dial("tcp", address); err == nil {
		t.Error("still listening")
	}
	select {
	case err := <-s.Failed():
		t.Errorf("a close is no failure: %v", err)
	default:
	}
}

type brokenListener struct{ net.Listener }

var errBroken = errors.New("accept is broken")

func (brokenListener) Accept() (net.Conn, error) { return nil, errBroken }

func TestFailed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Start(Options{Name: "api", Listener: brokenListener{l}, Handler: http.NotFoundHandler()})
	if err := <-s.Failed(); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "api") {
		t.Errorf("got %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCloseUnused: a connection that was opened in advance does not delay the
// stop.
func TestCloseUnused(t *testing.T) {
	served := make(chan struct{})
	s, address := start(t, Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(served) })})
	unused := dial(t, address, "")
	dial(t, address, request) // behind the unused one: that is accepted, too
	<-served
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("Close: %v, %v", err, ctx.Err())
	}
	if _, err := unused.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the unused connection: %v, want EOF", err)
	}
}
