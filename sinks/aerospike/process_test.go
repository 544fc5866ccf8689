package aerospike

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// processEnv holds a JSON of processOptions for a child process: this test binary as
// the owner of a stream.
const processEnv = "AEROSINK_PROCESS"

type processOptions struct {
	Hosts       []string
	State, Data Place
	Stream      uuid.UUID
	Settle      time.Duration
}

func (o processOptions) options() Options {
	return Options{
		Hosts: o.Hosts, Namespace: namespace, State: o.State, Settle: o.Settle,
		Collections: []Collection{{Pattern: collection, Set: o.Data.Set}},
		Services:    Services{SeedOnly: true},
		Timeouts:    Timeouts{Connect: 30 * time.Second, Socket: 30 * time.Second, Total: 30 * time.Second},
	}
}

// zombieKeys are few, so that what is on its way meets what comes later.
const zombieKeys = 5

func zombieKey(lsn sinks.LSN) string { return fmt.Sprint("z", lsn%zombieKeys) }

// runProcess claims the stream and raises counters until it is fenced (exit code 3)
// or killed. It prints what was applied.
func runProcess(config string) int {
	var o processOptions
	if err := json.Unmarshal([]byte(config), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s, err := Open(o.options())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "listening")
	own, err := owns(&testing.T{}, s, o.Stream, "child", true)
	for err == nil {
		lsn := own.cp.Lanes[0].LSN + 1
		fmt.Println("tries", uint64(lsn)) // before it is sent
		err = own.apply(bump(zombieKey(lsn)))
	}
	fmt.Println("ended", err)
	if errors.Is(err, sinks.ErrFenced) {
		return 3
	}
	return 1
}

// tries reads what the child prints.
type tries struct {
	mu   sync.Mutex
	last uint64
	rest strings.Builder
}

// Write implements io.Writer.
func (p *tries) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := bufio.NewScanner(strings.NewReader(string(b)))
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "tries "); ok {
			if n, err := strconv.ParseUint(text, 10, 64); err == nil {
				p.last = n
			}
			continue
		}
		p.rest.WriteString(lines.Text() + "\n")
	}
	return len(b), nil
}

func (p *tries) now() sinks.LSN {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sinks.LSN(p.last)
}

// TestZombie: an owner is stopped in the middle of its writes; another one takes over,
// applies again what may be lost, deletes all of it, and all of that is settled. When
// the first wakes it is fenced, and nothing of it is there.
func TestZombie(t *testing.T) {
	t.Parallel()
	base := quick(t)
	o := processOptions{Hosts: base.Hosts, State: base.State, Data: Place{namespace, base.Collections[1].Set}, Stream: uuid.New(), Settle: base.Settle}
	config, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	said := &tries{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	zombie, err := child.Start(ctx, child.Options{
		Command: []string{os.Args[0]}, Env: []string{processEnv + "=" + string(config)}, Stdout: said, Prefix: "listening",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(zombie.Kill)
	soon(t, "the first owner is at it", func() bool { return said.now() > 50 })
	if err := syscall.Kill(zombie.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	own := mustOwn(t, open(t, o.options()), o.Stream, false)
	var last sinks.LSN
	for ; own.cp.Lanes[0].LSN < said.now()+1; last = own.cp.Lanes[0].LSN { // one may be on its way
		own.must(bump(zombieKey(own.cp.Lanes[0].LSN + 1)))
	}
	for i := range zombieKeys {
		key := zombieKey(sinks.LSN(i))
		want := int64(0)
		for lsn := sinks.LSN(1); lsn <= last; lsn++ {
			if zombieKey(lsn) == key {
				want++
			}
		}
		if n := own.count(key); n != want {
			t.Errorf("%s is %d, want %d", key, n, want)
		}
		own.must(mutation.Delete(collection, mutation.String(key)))
	}
	soon(t, "all is settled", func() bool { return own.s.Settled() == own.cp.Lanes[0].LSN })
	if err := syscall.Kill(zombie.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-zombie.Ended():
	case <-ctx.Done():
		t.Fatal("who was shut out goes on")
	}
	if code := zombie.ExitCode(); code != 3 {
		t.Errorf("who was shut out ended with %d: %s", code, said.rest.String())
	}
	for i := range zombieKeys {
		if n := own.count(zombieKey(sinks.LSN(i))); n != -1 {
			t.Errorf("%s was deleted and is %d", zombieKey(sinks.LSN(i)), n)
		}
	}
}
