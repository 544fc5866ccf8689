package crashtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/internal/ledger"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// binaries is where the programs under test are built, once per run.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "walproxy-crashtest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	pgtest.Main(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

var (
	buildServe  = sync.OnceValues(func() (string, error) { return build("./cmd/walproxy") })
	buildWriter = sync.OnceValues(func() (string, error) { return build("./internal/crashtest/writer") })
)

func build(pkg string) (string, error) {
	binary := filepath.Join(binaries, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-o", binary, pkg)
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0") // as in packages
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}

// long reports that the long form was asked for.
func long() bool { return os.Getenv("WALPROXY_LONG") != "" }

// times returns the number for the form that runs.
func times(short, inLong int) int {
	if long() {
		return inLong
	}
	return short
}

// rng returns a source of choices; its seed is logged for a rerun with
// WALPROXY_SEED.
func rng(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WALPROXY_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("WALPROXY_SEED: %v", err)
		}
	}
	t.Logf("rerun with WALPROXY_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// timeout bounds a test: ctx ends then, or with the test. The build of the server is
// not on its clock.
func timeout(t *testing.T, short, inLong time.Duration) context.Context {
	_, _ = buildServe() // who starts it gets the error
	d := short
	if long() {
		d = inLong
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// server is the real program with its clients and their ledger.
type server struct {
	*testing.T
	dir     string
	env     []string
	wrapper []string // before the command: a tracer
	client  *ledger.Client
	ledger  *ledger.Ledger
	process *child.Process
	output  *bytes.Buffer // the process's stdout; read it when it is gone
	runs    int
	writers int    // of load
	batch   int    // of its requests, at most
	pad     int    // bytes of a set or event
	keys    string // in front of its keys
}

const (
	readyTimeout = 2 * time.Minute // a machine that builds something else at the same time
	clients      = 16
)

// newServer prepares a server on dir; every environment variable makes rolls,
// frees and batches frequent.
func newServer(t *testing.T, dir string, env ...string) *server {
	t.Helper()
	s := &server{T: t, dir: dir, client: ledger.NewClient(clients), ledger: ledger.New(), writers: clients, batch: 20, pad: 200}
	s.env = append([]string{
		"WALPROXY_LOG__SEGMENT_BYTES=64KiB", "WALPROXY_LOG__MIN_FREE=1MiB",
	}, env...)
	if engine := os.Getenv("WALPROXY_TEST_ENGINE"); engine != "" {
		s.env = append(s.env, "WALPROXY_LOG__ENGINE="+engine)
	}
	t.Cleanup(func() {
		if s.process != nil {
			s.process.Kill()
			if t.Failed() {
				t.Logf("the server's last words:\n%s", s.process.Tail())
			}
		}
		s.client.Close()
	})
	return s
}

// tryStart starts the server.
func (s *server) tryStart(ctx context.Context, env ...string) error {
	binary, err := buildServe()
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	command := append(append([]string{}, s.wrapper...), binary, "serve",
		"--data-dir", s.dir, "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	s.output = &bytes.Buffer{}
	process, err := child.Start(ctx, child.Options{
		Command: command, Env: append(append([]string{}, s.env...), env...), Stdout: s.output,
	})
	if err != nil {
		return err
	}
	s.process = process
	s.client.SetAddr(process.Addr("api"))
	return nil
}

func (s *server) start(ctx context.Context, env ...string) {
	s.Helper()
	if err := s.tryStart(ctx, env...); err != nil {
		s.Fatal(err)
	}
}

// load writes in the background until the returned stop is called; stop reports
// how many writes were acked meanwhile. Writes of unknown outcome are sent again
// first, under their old ids.
func (s *server) load(ctx context.Context) (stop func() int) {
	s.Helper()
	before := s.ledger.Acked()
	ctx, cancel := context.WithCancel(ctx)
	s.runs++
	load := ledger.Load{Client: s.client, Ledger: s.ledger, Clients: s.writers, Keys: 10, Batch: s.batch, Pad: s.pad,
		Prefix: s.keys, Name: fmt.Sprintf("r%d", s.runs), Again: true}
	done := make(chan error, 1)
	go func() { done <- load.Run(ctx) }()
	stopped := false
	stop = func() int {
		if stopped {
			return 0
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
		return s.ledger.Acked() - before
	}
	s.Cleanup(func() { stop() })
	return stop
}

// waitAcked waits until n more writes are acked than now.
func (s *server) waitAcked(ctx context.Context, n int) {
	s.Helper()
	want := s.ledger.Acked() + n
	for s.ledger.Acked() < want {
		select {
		case <-ctx.Done():
			s.Fatalf("%d of %d writes are acked: %v", s.ledger.Acked(), want, context.Cause(ctx))
		case <-s.process.Ended():
			s.Fatalf("the server ended with exit code %d\n%s", s.process.ExitCode(), s.process.Tail())
		case <-time.After(time.Millisecond):
		}
	}
}

// waitEnded waits until the server is gone and returns its exit code.
func (s *server) waitEnded(ctx context.Context) int {
	s.Helper()
	select {
	case <-s.process.Ended():
	case <-ctx.Done():
		s.Fatalf("the server did not end: %v\n%s", context.Cause(ctx), s.process.Tail())
	}
	return s.process.ExitCode()
}

// report drains and compares. What may be tried again, as a read of a store that goes
// back, is.
func (s *server) report(ctx context.Context) (ledger.Report, error) {
	for {
		if err := s.client.WaitDrained(ctx); err != nil {
			return ledger.Report{}, err
		}
		report, err := s.ledger.Check(ctx, s.client)
		if answered, ok := errors.AsType[*ledger.APIError](err); !ok || !answered.Retryable {
			return report, err
		}
		select {
		case <-ctx.Done():
			return report, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// check fails the test unless the store holds what was acked.
func (s *server) check(ctx context.Context) {
	s.Helper()
	report, err := s.report(ctx)
	if err != nil {
		s.Fatalf("%v\n%s", err, s.process.Tail())
	}
	if !report.OK() {
		s.Fatalf("after a restart: %s", report)
	}
}

// stop ends the server by SIGTERM, with an empty log.
func (s *server) stop() {
	s.Helper()
	if code, err := s.process.Terminate(readyTimeout); err != nil || code != 0 {
		s.Fatalf("SIGTERM: exit code %d, %v\n%s", code, err, s.process.Tail())
	}
}

// needsRoot skips a test that mounts something.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOT TESTED: mounting needs root, this is uid %d", os.Geteuid())
	}
}

// needs skips a test without a program.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("NOT TESTED: %v (make install-deps)", err)
		}
	}
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
}

// must fails the test for any of the errors.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
