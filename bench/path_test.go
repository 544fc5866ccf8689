package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

// BenchmarkPath writes 512-byte records from concurrent writers, each waiting
// for its acknowledgement:
//
//   - target=walproxy: embedded mode; acknowledged when fsync'd in the log, the
//     Pebble sink drains behind it on the same disk and processors
//   - target=walproxy-paused: the same without the drain: the ack path alone
//   - target=pebble: synced commits into Pebble without a proxy
func BenchmarkPath(b *testing.B) {
	targets := []struct {
		name string
		open func(b *testing.B) (write func(key string) error, done func() uint64)
	}{
		{"walproxy", func(b *testing.B) (func(string) error, func() uint64) { return openProxy(b, false) }},
		{"walproxy-paused", func(b *testing.B) (func(string) error, func() uint64) { return openProxy(b, true) }},
		{"pebble", openPebble},
	}
	for _, writers := range []int{1, 16, 64, 256} {
		for _, target := range targets {
			b.Run(fmt.Sprintf("target=%s/writers=%d", target.name, writers), func(b *testing.B) {
				write, done := target.open(b)
				b.ResetTimer()
				spread(b, writers, write)
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
				if syncs := done(); syncs > 0 {
					b.ReportMetric(float64(syncs)/float64(b.N), "fsyncs/ack")
				}
			})
		}
	}
}

var payload = strings.Repeat("p", 480)

// spread divides b.N writes among the writers.
func spread(b *testing.B, writers int, write func(key string) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				if err := write(fmt.Sprintf("%08d", n%100_000)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func openProxy(b *testing.B, paused bool) (write func(string) error, done func() uint64) {
	ctx := context.Background()
	store, err := pebble.Open(b.TempDir(), pebble.Options{})
	if err != nil {
		b.Fatal(err)
	}
	o := walproxy.Options{Dir: b.TempDir(), Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store, Paused: paused}}}
	o.Log.MinFree = -1
	proxy, err := walproxy.Open(ctx, o)
	if err != nil {
		b.Fatal(err)
	}
	write = func(key string) error {
		m, err := mutation.Set("bench", mutation.String(key), map[string]any{"p": payload})
		if err != nil {
			return err
		}
		_, err = proxy.Append(ctx, m)
		return err
	}
	return write, func() uint64 {
		syncs := proxy.Status().Log.Syncs
		err := proxy.Close(ctx)
		if err != nil && !paused { // a paused sink leaves its records, as it should
			b.Error(err)
		}
		if err := store.Close(ctx); err != nil {
			b.Error(err)
		}
		return syncs
	}
}

func openPebble(b *testing.B) (write func(string) error, done func() uint64) {
	db, err := pebbledb.Open(b.TempDir(), &pebbledb.Options{FormatMajorVersion: pebbledb.FormatNewest, Logger: silent{}})
	if err != nil {
		b.Fatal(err)
	}
	value := []byte(payload)
	write = func(key string) error { return db.Set([]byte(key), value, pebbledb.Sync) }
	return write, func() uint64 {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
		return 0
	}
}

// silent keeps Pebble's log out of the benchmark's rows.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}

func (silent) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
