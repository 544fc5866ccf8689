package aerospike

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	dto "github.com/prometheus/client_model/go"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
)

// book is a proxy with an Aerospike sink, and what was written to it.
type book struct {
	*testing.T
	o      Options
	dir    string
	p      *walproxy.Proxy
	sink   *Sink
	wants  []*want
	random *rand.Rand
}

// want is what a key has to hold.
type want struct {
	n    int64
	text strings.Builder
}

// bookOptions are for a sink in sets of its own.
func bookOptions(addrs []string) Options {
	name := uuid.NewString()[:8]
	return Options{
		Hosts: addrs, Namespace: namespace, State: Place{namespace, "state-" + name},
		Collections: []Collection{{Pattern: collection, Set: "things-" + name}},
		Services:    Services{SeedOnly: true}, Settle: 3 * time.Second,
		Timeouts: Timeouts{Connect: 10 * time.Second, Socket: 10 * time.Second, Total: 10 * time.Second},
	}
}

func newBook(t *testing.T, o Options) *book {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := &book{T: t, o: o, dir: t.TempDir(), random: rand.New(rand.NewPCG(1, seed))}
	for range 40 {
		b.wants = append(b.wants, &want{})
	}
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *book) open() {
	b.Helper()
	b.sink, b.p = openProxy(b.T, b.o, b.dir)
}

func (b *book) close() {
	b.Helper()
	closeProxy(b.T, b.p, b.sink)
}

// rewinds counts those since it was opened.
func (b *book) rewinds() float64 {
	b.Helper()
	var m dto.Metric
	if err := b.sink.metrics.rewinds.Write(&m); err != nil {
		b.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// write appends records to keys at random.
func (b *book) write(writes int) (last walproxy.LSN) {
	b.Helper()
	for range writes {
		last = b.append(b.random.IntN(len(b.wants)))
	}
	return last
}

// wait waits until a record is applied.
func (b *book) wait(lsn walproxy.LSN) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for {
		err := b.p.Wait(ctx, lsn, walproxy.Applied)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			b.Fatalf("LSN %d is not applied: %v", lsn, err)
		}
		if s := b.p.Status().Sinks[0]; s.State == replay.Halted {
			b.Fatalf("the sink has halted: %v", s.Err)
		}
	}
}

// append appends one record.
func (b *book) append(i int) walproxy.LSN {
	b.Helper()
	w, k := b.wants[i], mutation.String(fmt.Sprint("k", i))
	letter := string(rune('a' + b.random.IntN(26)))
	var err error
	m := mutation.Delete(collection, k)
	switch b.random.IntN(8) {
	case 0:
		w.n = 0
		w.text.Reset()
	case 1, 2, 3:
		m, err = mutation.Increment(collection, k, map[string]any{"n": int64(1)})
		w.n++
	default:
		m, err = mutation.Append(collection, k, map[string]any{"text": letter})
		w.text.WriteString(letter)
	}
	if err != nil {
		b.Fatal(err)
	}
	r, err := b.p.Append(b.Context(), m)
	if err != nil {
		b.Fatal(err)
	}
	return r.LSN
}

// read compares. A read may fail while the store goes back, unless it must not.
func (b *book) read(must bool) {
	b.Helper()
	for i := range b.wants {
		b.readKey(i, must)
	}
}

func (b *book) readKey(i int, must bool) {
	b.Helper()
	key, w := fmt.Sprint("k", i), b.wants[i]
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for {
		d, err := b.p.Read(ctx, collection, mutation.String(key))
		if errors.Is(err, mutation.ErrNotFound) {
			d, err = &mutation.Document{}, nil
		}
		if err != nil && must && ctx.Err() == nil {
			continue
		}
		if err != nil && (must || errors.Is(err, context.DeadlineExceeded)) {
			b.Fatalf("%s: %v", key, err)
		}
		if err != nil {
			return
		}
		n, text := d.Fields["n"].GetInt64(), d.Fields["text"].GetString_()
		if n != w.n || text != w.text.String() {
			b.Errorf("%s is %d, %q; want %d, %q", key, n, text, w.n, w.text.String())
		}
		return
	}
}
