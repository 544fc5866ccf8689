package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// TestReloadUnderLoad: clients whose token stays write, and read what they wrote, while
// the configuration changes at random, and is wrong now and then: tokens, limits, the log's
// level, lanes and batches, routes. Each write is acknowledged, and in each sink that it
// was routed to by the end: no sink that was taken out or pointed elsewhere took effect.
//
// What a reload finds is of changes: wrong as a whole, or refused in part.
func TestReloadUnderLoad(t *testing.T) {
	rounds := 5
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 200
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	token := access.NewToken()
	always := fmt.Sprintf("{ name: stays, hash: %q, rights: [read, write, admin] }", access.HashOf(token))
	two := "sinks: { main: {}, copy: {} }\n"
	toBoth := "routes: [{ collections: [\"*\"], sinks: [main, copy] }]\n"
	first := "api: { tokens: [" + always + "] }\n" + two + toBoth
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
				if status := call(http.MethodGet, fmt.Sprintf("/v1/orders/%d-%d", n, acked[n]), ""); acked[n]%4 == 0 && status != http.StatusOK {
					t.Errorf("writer %d reads write %d: %d", n, acked[n], status)
					return
				}
				acked[n]++
				written.Add(1)
			}
		})
	}
	for round := range rounds {
		at := written.Load()
		for deadline := time.Now().Add(time.Minute); written.Load() < at+20 && time.Now().Before(deadline) && !t.Failed(); {
			time.Sleep(time.Millisecond) // some writes between two reloads
		}
		other := access.HashOf(access.NewToken())
		change := changes[random.IntN(len(changes))]
		lanes, records := 1+random.IntN(8), 1+random.IntN(100)
		text = strings.NewReplacer("ALWAYS", always, "OTHER", other.String(), "ROUND", strconv.Itoa(round), "DIR", dir,
			"LANES", strconv.Itoa(lanes), "RECORDS", strconv.Itoa(records), "TWO", two, "BOTH", toBoth).Replace(change.text)
		was := i.reloader.now
		out, err := i.reloader.reload()
		if (err != nil) != change.wrong || !strings.Contains(fmt.Sprint(out.Refused), change.refused) || change.refused == "" && len(out.Refused) > 0 {
			t.Errorf("round %d, %s: %+v, %v", round, text, out, err)
		}
		if left := config.Changed(i.reloader.now, was); change.wrong && len(left) > 0 {
			t.Errorf("round %d: of a wrong configuration %v was applied", round, left)
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
	behind := func() (lag uint64) {
		for _, s := range i.proxy.Status().Sinks {
			lag += s.Lag
		}
		return lag
	}
	for deadline := time.Now().Add(time.Minute); behind() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	for n := range writers {
		for k := range acked[n] {
			if _, err := i.sinks["copy"].(sinks.Reader).Read(t.Context(), "orders", mutation.String(fmt.Sprintf("%d-%d", n, k))); err != nil {
				t.Fatalf("write %d of writer %d is not in the second sink: %v", k, n, err)
			}
		}
	}
	stopReloads()
	if err := i.close(); err != nil {
		t.Errorf("records stay behind: %v", err)
	}
	t.Logf("%d writes under %d reloads", written.Load(), rounds)
}

// changes are what TestReloadUnderLoad puts into the file.
var changes = []struct {
	text    string
	refused string // a part of why; empty: nothing is
	wrong   bool
}{
	{text: "api: { tokens: [ALWAYS, { name: other, hash: \"OTHER\", rights: [read] }] }\nTWOBOTH"},
	{text: "api: { tokens: [ALWAYS], hosts: [hROUND.example], max_connections: 5RECORDS }\nTWOBOTH"},
	{text: "api: { tokens: [ALWAYS], max_item_bytes: 2MiB, max_inflight_bytes: 9RECORDSMiB }\nlogging: { level: error }\nTWOBOTH", refused: ""},
	{text: "api: { tokens: [ALWAYS] }\nsinks: { main: { lanes: LANES, batch: { records: RECORDS } }, copy: {} }\nBOTH"},
	{text: "api: { tokens: [ALWAYS] }\nsinks: { main: {}, copy: { lanes: LANES, batch: { linger: RECORDSms }, retain: 1MiB } }\nBOTH"},
	{text: "api: { tokens: [ALWAYS] }\nsinks: { main: { collections: { o*: { own_lanes: LANES } } }, copy: { collections: { orders: { lane_group: g } } } }\nBOTH"},
	{text: "api: { tokens: [ALWAYS] }\nTWOroutes: [{ collections: [o*, x], sinks: [main, copy] }]\n"},
	{text: "api: { tokens: [ALWAYS] }\nTWOroutes: [{ collections: [\"*\"], sinks: [copy, main] }]\n", refused: "would go from sink main to copy"},
	{text: "api: { tokens: [ALWAYS] }\nsinks: { main: { path: DIR/elsewhere, lanes: LANES }, copy: {} }\nBOTH", refused: "pointing the sink"},
	{text: "api: { tokens: [ALWAYS] }\nsinks: { main: {} }\n", refused: "removing the sink"},
	{text: "api: { tokens: [ALWAYS], listen: \"127.0.0.1:1\" }\nTWOBOTHlog: { engine: tidwall }\n", refused: "log.engine needs a restart"},
	{text: "api: { tokens: [{ name: other, hash: nonsense, rights: [read] }] }\nTWOBOTH", wrong: true},
	{text: "api: { tokens: [ALWAYS] }\nsinks: { main: { lanes: 1000 }, copy: { lanes: LANES } }\nBOTH", wrong: true},
	{text: "api: { tokens: [ALWAYS", wrong: true},
}

// TestReloadRemembersRoutes: a collection that was taken out of the routes, by a reload of
// its own, comes back to the sink that has its records, or not at all; and that is known of
// as many routes as are remembered.
func TestReloadRemembersRoutes(t *testing.T) {
	dir := t.TempDir()
	load := func(routes string) (*config.Config, error) {
		return config.Parse("w.yaml", []byte("log: { min_free: -1 }\nsinks: { main: {}, copy: {} }\nroutes: ["+routes+"]\n"),
			[]string{"WALPROXY_DATA_DIR=" + filepath.Join(dir, "data"), "WALPROXY_API__LISTEN=127.0.0.1:0", "WALPROXY_ADMIN__LISTEN=127.0.0.1:0"})
	}
	const things = "{ collections: [things], sinks: [main] }"
	to := func(sinks string) string { return "{ collections: [orders], sinks: [" + sinks + "] }, " + things }
	c, err := load(to("main"))
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := i.close(); err != nil {
			t.Error(err)
		}
	}()
	reload := func(routes, refused string) {
		t.Helper()
		i.reloader.load = func() (*config.Config, error) { return load(routes) }
		out, err := i.reloader.reload()
		if err != nil || (len(out.Refused) > 0) != (refused != "") || !strings.Contains(fmt.Sprint(out.Refused), refused) {
			t.Errorf("%s: %+v, %v; want it refused for %q", routes, out, err, refused)
		}
	}
	for range 2 { // what was refused is not remembered
		reload(things, "")
		reload(to("copy"), "reads of orders would go from sink main to copy")
		reload(to("copy, main"), "reads of orders would go from sink main to copy")
		reload(to("main, copy"), "")
	}
	for n := len(i.reloader.were); n < routesMax; n++ {
		reload(fmt.Sprintf("%s, { collections: [c%d], sinks: [main] }", to("main"), n), "")
	}
	reload(to("main")+", { collections: [more], sinks: [main] }", "")
	reload(to("main"), "no more of them are remembered: needs a restart")
}
