package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/sinks"
)

// processEnv holds a JSON of processOptions for a child process: this test binary
// as the owner of a stream.
const processEnv = "PGSINK_PROCESS"

type processOptions struct {
	DSN    string
	Stream uuid.UUID
	Name   string
	Lanes  int
	// Hold makes it stop in the middle of its third transaction until its stdin
	// says to go on.
	Hold bool
	// Statements: its records are statements, of a table as statementLedger has it.
	Statements bool
}

// runProcess claims the stream, waiting for its turn, and applies until it is
// fenced (exit code 3) or killed. It prints one event per line.
func runProcess(config string) int {
	var o processOptions
	if err := json.Unmarshal([]byte(config), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p := &ledgerPlanner{halves: true}
	batches := 0
	in := bufio.NewReader(os.Stdin)
	p.before = func() {
		if batches++; o.Hold && batches == 3 {
			fmt.Println("holding")
			_, _ = in.ReadString('\n')
		}
	}
	options := Options{DSN: o.DSN, Timeouts: hasty()}
	if !o.Statements {
		options.planner = p
	}
	s, err := Open(options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "listening")
	claim := sinks.Claim{Stream: o.Stream, Owner: o.Name, Lanes: o.Lanes, Fresh: true}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		cp, err := s.Resume(ctx, claim)
		cancel()
		if owned, ok := errors.AsType[*OwnedError](err); ok {
			fmt.Println("waits", owned.Owner)
			continue
		}
		if err != nil {
			fmt.Println("again", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		fmt.Println("owns", cp.Epoch)
		l := newLedger(s, cp)
		l.statements = o.Statements
		var wg sync.WaitGroup
		errs := make(chan error, len(cp.Lanes))
		for lane := range cp.Lanes {
			wg.Go(func() { errs <- l.lane(context.Background(), lane) })
		}
		for range 3 {
			go l.tell()
		}
		wg.Wait()
		if err := <-errs; errors.Is(err, sinks.ErrFenced) {
			fmt.Println("fenced", l.total())
			return 3
		}
		return 1
	}
}

// tell prints what was reported applied.
func (l *ledger) tell() {
	for range time.Tick(20 * time.Millisecond) {
		fmt.Println("applied", l.total())
	}
}

// process is a child that claims a stream.
type process struct {
	*child.Process
	stdin *os.File

	mu     sync.Mutex
	events []string
}

// Write implements io.Writer for the child's stdout.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(string(b)) { // the child writes whole lines
		p.events = append(p.events, strings.TrimSpace(line))
	}
	return len(b), nil
}

// saw reports whether the child printed an event that begins so, and the last one
// that did.
func (p *process) saw(prefix string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.events) - 1; i >= 0; i-- {
		if strings.HasPrefix(p.events[i], prefix) {
			return p.events[i], true
		}
	}
	return "", false
}

func startProcess(t *testing.T, o processOptions) *process {
	t.Helper()
	config, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{}
	stdin, writer, err := os.Pipe() // a file: nobody has to copy, and Wait not to wait for that
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	p.stdin = writer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p.Process, err = child.Start(ctx, child.Options{
		Command: []string{os.Args[0]}, Env: []string{processEnv + "=" + string(config)}, Stdout: p, Stdin: stdin,
		Prefix: "listening",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = writer.Close()
		p.Kill()
	})
	return p
}
