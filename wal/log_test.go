package wal

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !longTest() && !flagSet("rapid.checks") {
		if err := flag.Set("rapid.checks", "30"); err != nil {
			panic(err)
		}
	}
	if engine := os.Getenv("WALPROXY_TEST_ENGINE"); engine != "" {
		defaultEngine = engine
	}
	goleak.VerifyTestMain(m)
}

// testLayout is that of the engine that the tests run on.
func testLayout() layout {
	if defaultEngine == EngineNative {
		return nativeLayout{}
	}
	return tidwallLayout{}
}

func flagSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// testOptions are small, so that a short test sees segments roll, and ask for no free
// space.
func testOptions() Options {
	return Options{SegmentBytes: 16 << 10, MinFree: -1, GroupBytes: 4 << 10, MaxRecordBytes: 1 << 20}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustOpen(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustClose(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// payloadOf is what every test appends as record lsn.
func payloadOf(lsn LSN, size int) []byte {
	b := fmt.Appendf(nil, "record %d ", lsn)
	rnd := rand.New(rand.NewPCG(uint64(lsn), 7))
	for len(b) < size {
		b = append(b, byte(rnd.Uint32()))
	}
	return b
}

// appendN appends n records of about size bytes, from several tickets at once.
func appendN(t testing.TB, l *Log, n, size int) {
	t.Helper()
	ctx := testContext(t)
	var last Ticket
	for range n {
		lsn := l.Appended() + 1
		ticket, err := l.Enqueue(ctx, payloadOf(lsn, size))
		if err != nil {
			t.Fatalf("Enqueue: %v", err)
		}
		if ticket.LSN != lsn {
			t.Fatalf("LSN %d, want %d", ticket.LSN, lsn)
		}
		last = ticket
	}
	if err := last.Wait(ctx); err != nil {
		t.Fatalf("Wait: %v", err)
	}
}

// readAll reads [from, Durable] and returns the payloads.
func readAll(l *Log, from LSN) (payloads [][]byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	durable := l.Durable()
	r, err := l.NewReader(from)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for next := from; next <= durable; next++ {
		rec, err := r.Next(ctx)
		if err != nil {
			return payloads, err
		}
		if rec.LSN != next {
			return payloads, fmt.Errorf("read LSN %d, want %d", rec.LSN, next)
		}
		payloads = append(payloads, bytes.Clone(rec.Payload))
	}
	return payloads, nil
}

// checkRecords reads [from, last] and compares with payloadOf.
func checkRecords(t testing.TB, l *Log, from, last LSN, size int) {
	t.Helper()
	if l.Durable() != last {
		t.Fatalf("durable %d, want %d", l.Durable(), last)
	}
	payloads, err := readAll(l, from)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	for i, p := range payloads {
		if lsn := from + LSN(i); !bytes.Equal(p, payloadOf(lsn, size)) {
			t.Fatalf("LSN %d: %d bytes that are not those appended", lsn, len(p))
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 100, 5000, 40_000} {
		t.Run(fmt.Sprintf("size=%d", size), func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, testOptions())
			appendN(t, l, 50, size)
			checkRecords(t, l, 1, 50, size)
			mustClose(t, l)

			l = mustOpen(t, dir, testOptions())
			checkRecords(t, l, 1, 50, size)
			appendN(t, l, 50, size)
			checkRecords(t, l, 30, 100, size)
			mustClose(t, l)
			mustClose(t, l)
		})
	}
}
