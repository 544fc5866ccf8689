package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
)

// TestReloadStores: lanes and batches of sinks whose stores are servers change under load,
// while connections to the store are lost. No call fails, each session reads what it has
// written, and every counter is in the store what was added to it, once.
func TestReloadStores(t *testing.T) {
	t.Parallel()
	rounds := 6
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 200
	}
	for name, store := range map[string]func(*testing.T) (sink string, disturb func()){
		"postgres": func(t *testing.T) (string, func()) {
			c, admin := hosted(t)
			return `type: postgres, dsn: "` + c.DSN("postgres") + `", auto_create: true, pools: { apply: 9 }`, func() {
				if _, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walproxy'"); err != nil {
					t.Error(err)
				}
			}
		},
		"aerospike": func(t *testing.T) (string, func()) {
			store, _, _, _ := running(t, `aerowire: { listen: "127.0.0.1:0", namespaces: [test], sink: main }`)
			w := newWire(t, store.aerowireListener.Addr().String())
			return `type: aerospike, hosts: ["` + w.addr + `"], namespace: test, cluster: { settle: 300ms, seed_only: true }`, func() {
				w.cut()
				w.mend(t)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink, disturb := store(t)
			reloadStore(t, sink, disturb, rounds)
		})
	}
}

// errAway: the store does not answer, or a read would have to wait for it.
var errAway = errors.New("503")

func reloadStore(t *testing.T, sink string, disturb func(), rounds int) {
	dir := filepath.Join(t.TempDir(), "data")
	lanes := 4
	load := func() (*config.Config, error) {
		return config.Parse("w.yaml", fmt.Appendf(nil, "log: { min_free: -1 }\napi: { listen: \"127.0.0.1:0\" }\nadmin: { listen: \"127.0.0.1:0\" }\n"+
			"sinks: { main: { %s, lanes: %d, batch: { records: %d, linger: %dms } } }\n", sink, lanes, 1+rand.IntN(50), 1+rand.IntN(5)),
			[]string{"WALPROXY_DATA_DIR=" + dir})
	}
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	base := urlOf(i.apiListener, false)
	defer func() {
		if err := i.close(); err != nil {
			t.Error(err)
		}
	}()
	i.reloader.load = load

	const writers = 4
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	once := func(n int, consistency string) (int64, error) {
		answer, err := client.Get(fmt.Sprintf("%s/v1/counters/%d?consistency=%s", base, n, consistency))
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		var doc struct{ Fields struct{ N int64 } }
		text, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode == http.StatusServiceUnavailable {
			return 0, errAway
		}
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%d: %s", answer.StatusCode, text)
		}
		if err == nil {
			err = json.Unmarshal(text, &doc)
		}
		return doc.Fields.N, err
	}
	read := func(n int, consistency string) (got int64, err error) {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			if got, err = once(n, consistency); !errors.Is(err, errAway) {
				break
			}
		}
		return got, err
	}
	var counts [writers]int64
	var written atomic.Int64
	var stopped atomic.Bool
	var joined sync.WaitGroup
	stop := func() { stopped.Store(true); joined.Wait() }
	defer stop()
	for w := range writers {
		joined.Go(func() {
			for !stopped.Load() {
				answer, err := client.Post(fmt.Sprintf("%s/v1/counters/%d:increment", base, w), "application/json", strings.NewReader(`{"N":1}`))
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				_ = answer.Body.Close()
				if answer.StatusCode != http.StatusOK {
					t.Errorf("writer %d: %s", w, answer.Status)
					return
				}
				counts[w]++
				written.Add(1)
				if counts[w]%10 == 0 {
					if n, err := read(w, "latest"); err != nil || n != counts[w] {
						t.Errorf("writer %d reads %d, %v; want %d", w, n, err, counts[w])
						return
					}
				}
			}
		})
	}
	for round := range rounds {
		at := written.Load()
		for written.Load() < at+50 && !t.Failed() {
			time.Sleep(time.Millisecond) // some writes between two reloads
		}
		if round%3 == 1 {
			disturb()
		}
		lanes = 1 + (lanes+rand.IntN(6))%7 // another one
		out, err := i.reloader.reload()
		if err != nil || len(out.Refused) > 0 {
			t.Fatalf("round %d: %+v, %v", round, out, err)
		}
	}
	stop()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s := i.proxy.Status().Sinks[0]
		if s.Lag == 0 && len(s.Lanes) == lanes {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("lag %d, %d lanes, %s: %v; want %d lanes", s.Lag, len(s.Lanes), s.State, s.Err, lanes)
		}
	}
	for w := range writers {
		if n, err := read(w, "applied"); err != nil || n != counts[w] {
			t.Errorf("counter %d is %d, %v; want %d", w, n, err, counts[w])
		}
	}
	t.Logf("%d writes under %d reloads", written.Load(), rounds)
}
