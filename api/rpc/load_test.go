package rpc_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// holdVariable has the test program hold connections, for a test that has not the file
// descriptors for both of their ends: ADDRESS IDLE SLOW.
const holdVariable = "WALPROXY_TEST_HOLD"

// holdConnections opens connections that carry nothing behind one request, and others
// that ask for more than they take, says so, and waits for the end of its input.
func holdConnections(what string) error {
	words := strings.Fields(what)
	idle, err := strconv.Atoi(words[1])
	if err != nil {
		return err
	}
	slow, err := strconv.Atoi(words[2])
	if err != nil {
		return err
	}
	for i := range idle + slow {
		conn, err := net.Dial("tcp", words[0])
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		defer conn.Close()
		if i < idle {
			if _, err = io.WriteString(conn, "GET /v1/writes/1 HTTP/1.1\r\nHost: x\r\n\r\n"); err == nil {
				_, err = bufio.NewReader(conn).ReadString('\n')
			}
		} else {
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			_, err = io.WriteString(conn, strings.Repeat("GET /v1/large?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n", 4))
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// hold runs holdConnections in a process of its own.
func (r *rig) hold(idle, slow int) {
	r.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", holdVariable, strings.TrimPrefix(r.base, "http://"), idle, slow))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			r.t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		r.t.Fatalf("%q, %v", line, err)
	}
}

// latencies of some writes one behind the other: the median, and the worst.
func (r *rig) latencies(n int) (median, worst time.Duration) {
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		r.want(r.do("PUT", fmt.Sprintf("/v1/orders/%d", i), `{"n":1}`), 200)
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[n/2], took[n-1]
}

func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// TestConnectionsAtRest: connections that rest, and clients that do not take their
// answers, cost a bounded memory each, and the others no ack. With WALPROXY_LONG 10,000
// and 1,000 of them.
func TestConnectionsAtRest(t *testing.T) {
	idle, slow, writes := 200, 30, 50
	if os.Getenv("WALPROXY_LONG") != "" {
		idle, slow, writes = 10_000, 1000, 1000
	}
	r := newRig(t, listing, func(o *rigOptions) {
		o.connections = idle + slow + 100
		o.rest.BodyTimeout = 5 * time.Minute // else the slow ones are cut off
	})
	pad := strings.Repeat("x", 64<<10)
	for i := range 16 {
		r.want(r.do("PUT", fmt.Sprintf("/v1/large/%d?ack=applied", i), `{"pad":"`+pad+`"}`), 200)
	}
	alone, worstAlone := r.latencies(writes)
	before := memory()
	r.hold(idle, 0)
	atRest := memory() - before
	r.hold(0, slow)
	stalled := memory() - before - atRest
	median, worst := r.latencies(writes)
	t.Logf("%d at rest: %d bytes each; %d slow: %d bytes each; a write: %v (at most %v), before %v (%v)",
		idle, atRest/int64(idle), slow, stalled/int64(slow), median, worst, alone, worstAlone)
	// An HTTP/1.1 connection of Go's has two buffers of 4 KiB and a stack; what a slow
	// reader has beside that is its answer: about 1 MiB here, at most 4 MiB.
	if each := atRest / int64(idle); each > 64<<10 {
		t.Errorf("a connection at rest holds %d bytes", each)
	}
	if each := stalled / int64(slow); each > 8<<20 {
		t.Errorf("a slow reader holds %d bytes", each)
	}
	// Ten times, and what a busy machine adds: a queue behind the others would be more.
	if median > 10*alone+100*time.Millisecond {
		t.Errorf("a write takes %v; %v without the others", median, alone)
	}
}
