package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/config"
)

// TestReloadUnderLoad: clients whose token stays write while the configuration changes
// at random, and is wrong now and then. Each write is acknowledged, and applied by the
// end: no sink that was taken out or pointed elsewhere took effect.
func TestReloadUnderLoad(t *testing.T) {
	rounds := 20
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 200
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	token := access.NewToken()
	always := fmt.Sprintf("{ name: stays, hash: %q, rights: [read, write, admin] }", access.HashOf(token))
	first := "api: { tokens: [" + always + "] }\n"
	dir := t.TempDir()
	file := filepath.Join(dir, "walproxy.yaml")
	load := func(text string) (*config.Config, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return config.Load(file, []string{"WALPROXY_DATA_DIR=" + filepath.Join(dir, "data"), "WALPROXY_LOG__MIN_FREE=-1",
			"WALPROXY_API__LISTEN=127.0.0.1:0", "WALPROXY_ADMIN__LISTEN=127.0.0.1:0"})
	}
	c, err := load(first)
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	var text string // of the round
	stopReloads := i.reloader.onHangup(func() (*config.Config, error) { return load(text) })

	const writers = 8
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	base := urlOf(i.apiListener, false)
	call := func(method, path, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	var acked [writers]int
	var written atomic.Int64
	var stopped atomic.Bool
	var joined sync.WaitGroup
	for n := range writers {
		joined.Go(func() {
			for !stopped.Load() {
				if status := call(http.MethodPut, fmt.Sprintf("/v1/orders/%d-%d", n, acked[n]), `{"a":1}`); status != http.StatusOK {
					t.Errorf("writer %d, write %d: %d", n, acked[n], status)
					return
				}
				acked[n]++
				written.Add(1)
			}
		})
	}
	for round := range rounds {
		at := written.Load()
		for deadline := time.Now().Add(time.Minute); written.Load() < at+2 && time.Now().Before(deadline) && !t.Failed(); {
			time.Sleep(time.Millisecond) // some writes between two reloads
		}
		other := access.HashOf(access.NewToken())
		kind := random.IntN(6)
		text = [...]string{
			"api: { tokens: [" + always + ", { name: other, hash: \"" + other.String() + "\", rights: [read] }] }\n",
			fmt.Sprintf("api: { tokens: [%s], hosts: [h%d.example] }\n", always, round),
			first + "sinks: { main: { path: " + filepath.Join(dir, "elsewhere") + " } }\n",
			first + "sinks: { other: {} }\n",
			"api: { tokens: [{ name: other, hash: nonsense, rights: [read] }] }\n",
			"api: { tokens: [" + always,
		}[kind]
		out, err := i.reloader.reload()
		refusedKeys := fmt.Sprint(out.Refused)
		switch {
		case kind >= 4 && err == nil, kind < 4 && err != nil:
			t.Errorf("round %d, %s: %+v, %v", round, text, out, err)
		case kind == 0 && !slices.Contains(out.Applied, "api.tokens"), kind == 1 && !slices.Contains(out.Applied, "api.hosts"),
			kind == 2 && !strings.Contains(refusedKeys, "sinks.main.path"), kind == 3 && !strings.Contains(refusedKeys, "removing the sink"):
			t.Errorf("round %d, %s: %+v", round, text, out)
		}
	}
	stopped.Store(true)
	joined.Wait()
	for n := range writers {
		for k := range acked[n] {
			if status := call(http.MethodGet, fmt.Sprintf("/v1/orders/%d-%d", n, k), ""); status != http.StatusOK {
				t.Fatalf("write %d of writer %d: %d", k, n, status)
			}
		}
	}
	stopReloads()
	if err := i.close(); err != nil {
		t.Errorf("records stay behind: %v", err)
	}
	t.Logf("%d writes under %d reloads", written.Load(), rounds)
}
