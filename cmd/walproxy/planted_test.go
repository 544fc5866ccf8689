package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/config"
)

// planted is in every secret of TestNoSecretLeaves, and nowhere else.
const planted = "pLaNtEd"

const secretive = `
data_dir: %[1]s/data
log: { min_free: -1 }
logging: { level: debug }
api: { listen: "127.0.0.1:0", tokens: [{ name: t, hash: "%[2]s", rights: [read, write, admin] }] }
admin: { listen: "127.0.0.1:0" }
pgwire:
  listen: "127.0.0.1:0"
  upstream: "postgres://127.0.0.1:1/?sslmode=disable"
  users: { app: "pLaNtEd-1", other: "file:%[1]s/secret" }
  auth_query: { user: walproxy, password: "${PGAUTH}" }
sinks:
  main: { type: pebble }
  url: { type: postgres, schema: u, dsn: "postgres://walproxy:pLaNtEd-2@127.0.0.1:1/shop?sslmode=disable" }
  pairs: { type: postgres, schema: p, dsn: "host=127.0.0.1 port=1 user=walproxy password='pLaNtEd 3' dbname=shop sslmode=disable" }
  filed: { type: postgres, schema: f, dsn: "file:%[1]s/dsn" }
  users: { type: aerospike, hosts: ["127.0.0.1:1"], namespace: test, cluster: { user: u, password: "${AEROSPIKE}" } }
routes: [{ collections: ["*"], sinks: [main, url, pairs, filed, users] }]
shutdown: { drain_timeout: 100ms }
`

// lockedBuffer is written by the logger's goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestNoSecretLeaves: passwords in URLs, pairs, variables and files, of logins, and a
// token, are in no log, answer or error, while the stores that they are for fail.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": "pLaNtEd-4\n", "dsn": "postgres://walproxy:pLaNtEd-5@127.0.0.1:1/shop?sslmode=disable\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{"PGAUTH=pLaNtEd-6", "AEROSPIKE=pLaNtEd-7"}
	token := planted + access.NewToken()
	text := fmt.Sprintf(secretive, dir, access.HashOf(token))
	c, err := config.Parse("w.yaml", []byte(text), environ)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	shown, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	said["config show"] = string(shown)
	for n, wrong := range []string{
		text + "sinkz: {}\n",
		strings.ReplaceAll(text, ":1/shop", ":x/shop"),
		strings.ReplaceAll(text, ":1/shop", ":1%zz/shop"),
		strings.ReplaceAll(text, "port=1 ", "port=x nonsense=1 "),
		strings.ReplaceAll(text, "type: postgres", "type: pebble"),
		strings.ReplaceAll(text, "namespace: test", "namespace: []"),
		strings.ReplaceAll(text, "dsn: \"postgres://walproxy:", "dsn: \"postgres//walproxy:"),
		strings.ReplaceAll(text, "user: u, password:", "password: [x], pasword:"),
	} {
		if _, err := config.Parse("w.yaml", []byte(wrong), environ); err != nil {
			said[fmt.Sprint("faults ", n)] = err.Error()
		}
	}
	log := &lockedBuffer{}
	i, err := start(t.Context(), c, loggerTo(log, zapcore.DebugLevel, false))
	if err != nil {
		t.Fatal(err)
	}
	stop := i.reloader.onHangup(func() (*config.Config, error) {
		return config.Parse("w.yaml", []byte(strings.ReplaceAll(text, "2@127", "2-other@127")), environ)
	})
	call := func(base, method, path, body, shown string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+shown)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.Header, "\n", string(out))
	}
	api, admin := urlOf(i.apiListener, false), urlOf(i.adminListener, false)
	said["a write"] = call(api, "PUT", "/v1/orders/1", `{"a":1}`, token)
	said["another token"] = call(api, "PUT", "/v1/orders/1", `{"a":1}`, token+"x")
	failing := func() (n int) {
		for _, s := range i.proxy.Status().Sinks {
			if s.Err != nil {
				n++
				said["error of "+s.Name] = s.Err.Error()
			}
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); failing() < 4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of four stores that are away %d fail: %+v", failing(), i.proxy.Status().Sinks)
		}
	}
	for _, path := range []string{"/metrics", "/readyz", "/healthz", "/recent", "/v1/status", "/v1/sinks", "/debug/pprof/cmdline", "/debug/pprof/heap?debug=1", "/debug/pprof/goroutine?debug=1", "/debug/pprof/goroutine?debug=2", "/log-level", "/"} {
		said[path] = call(admin, "GET", path, "", token)
	}
	said["reload"] = call(admin, "POST", "/reload", "{}", token)
	if !strings.Contains(said["reload"], "sinks.url.dsn") {
		t.Errorf("the reload found nothing: %s", said["reload"])
	}
	stop()
	if err := i.close(); err != nil {
		said["close"] = err.Error()
	}
	said["log"] = log.String()
	if !strings.Contains(said["log"], `"level":"debug"`) && !strings.Contains(said["log"], "does not answer") {
		t.Errorf("the log says nothing of stores that are away: %s", said["log"])
	}
	for where, text := range said {
		for n, line := range strings.Split(text, "\n") {
			if strings.Contains(line, planted) {
				t.Errorf("%s, line %d: %s", where, n+1, line)
			}
		}
	}
	files, err := os.ReadDir(c.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if content, err := os.ReadFile(filepath.Join(c.DataDir, f.Name())); err == nil && strings.Contains(string(content), planted) {
			t.Errorf("%s holds a secret", f.Name())
		}
	}
}
