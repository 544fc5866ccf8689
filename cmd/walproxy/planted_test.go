package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap/zapcore"

	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/internal/tlstest"
)

// planted is in every secret of TestNoSecretLeaves, and nowhere else.
const planted = "pLaNtEd"

const secretive = `
data_dir: %[1]s/data
log: { min_free: -1 }
logging: { level: debug }
api: { listen: "127.0.0.1:0", tls: { cert: "%[1]s/cert", key: "%[1]s/key" }, tokens: [{ name: t, hash: "%[2]s", rights: [read, write, admin] }] }
admin: { listen: "127.0.0.1:0", tls: { cert: "%[1]s/cert", key: "%[1]s/key" } }
pgwire:
  listen: "127.0.0.1:0"
  upstream: "postgres://%[3]s/?sslmode=disable"
  users: { app: "pLaNtEd-1", other: "file:%[1]s/secret" }
  auth_query: { user: walproxy, password: "${PGAUTH}" }
sinks:
  main: { type: pebble }
  url: { type: postgres, schema: u, dsn: "postgres://walproxy:pLaNtEd-2@127.0.0.1:1/shop?sslmode=disable" }
  pairs: { type: postgres, schema: p, dsn: "host=127.0.0.1 port=1 user=walproxy password='pLaNtEd 3' dbname=shop sslmode=disable" }
  filed: { type: postgres, schema: f, dsn: "file:%[1]s/dsn" }
  rejected: { type: postgres, schema: r, dsn: "postgres://app:pLaNtEd-8@%[3]s/postgres?sslmode=disable" }
  users: { type: aerospike, hosts: ["127.0.0.1:1"], namespace: test, cluster: { user: u, password: "${AEROSPIKE}" } }
routes: [{ collections: ["*"], sinks: [main, url, pairs, filed, rejected, users] }]
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

// TestNoSecretLeaves: passwords in URLs, pairs, variables and files, of logins, the keys of
// certificates, and a token, are in no log, answer, error or file, while the stores that
// they are for fail, or refuse them.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": "pLaNtEd-4\n", "dsn": "postgres://walproxy:pLaNtEd-5@127.0.0.1:1/shop?sslmode=disable\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, roots := tlstest.Files(t, filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
	secrets := append(linesOf(t, filepath.Join(dir, "key")), planted)
	upstream := pgtest.New(t, pgtest.Options{HBA: "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"})
	if _, err := upstream.Connect(t, "postgres").Exec(t.Context(), "CREATE ROLE app LOGIN PASSWORD 'pLaNtEd-9'; CREATE ROLE walproxy LOGIN PASSWORD 'other'"); err != nil {
		t.Fatal(err)
	}
	environ := []string{"PGAUTH=pLaNtEd-6", "AEROSPIKE=pLaNtEd-7"}
	token := planted + access.NewToken()
	text := fmt.Sprintf(secretive, dir, access.HashOf(token), upstream.Addr())
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
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "walproxy"}}
	defer transport.CloseIdleConnections()
	call := func(base, method, path, body, shown string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+shown)
		req.Header.Set("Content-Type", "application/json")
		resp, err := transport.RoundTrip(req)
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
	api, admin := urlOf(i.apiListener, true), urlOf(i.adminListener, true)
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
	for deadline := time.Now().Add(time.Minute); failing() < 5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of five stores that are away or refuse %d fail: %+v", failing(), i.proxy.Status().Sinks)
		}
	}
	for _, path := range []string{"/metrics", "/readyz", "/healthz", "/recent", "/v1/status", "/v1/sinks", "/debug/pprof/cmdline", "/debug/pprof/heap?debug=1", "/debug/pprof/goroutine?debug=1", "/debug/pprof/goroutine?debug=2", "/log-level", "/"} {
		said[path] = call(admin, "GET", path, "", token)
	}
	for _, path := range []string{"/v1/status", "/v1/sinks", "/v1/dlq/main", "/v1/dlq/rejected"} {
		said["api "+path] = call(api, "GET", path, "", token)
	}
	if said := said["error of rejected"]; !strings.Contains(said, "password authentication failed") {
		t.Errorf("the store that refuses a password says %q", said)
	}
	g := &guests{t: t, dsn: pgtest.DSN(i.pgwireListener.Addr().String(), "app", "postgres")}
	in, err := g.connect("pLaNtEd-9")
	if err != nil {
		t.Fatal(err)
	}
	g.must(in, "SELECT 1", "SELECT 'pLaNtEd'")
	_, err = g.connect("pLaNtEd-10")
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		t.Fatalf("another password: %v", err)
	}
	said["another password"] = fmt.Sprintf("%+v", *refusal)
	g.leave(in)
	said["reload"] = call(admin, "POST", "/reload", "{}", token)
	other, _ := tlstest.Certificate(t) // which the key does not fit
	writePEM(t, filepath.Join(dir, "cert"), "CERTIFICATE", other.Certificate[0])
	said["reload of a key that does not fit"] = call(admin, "POST", "/reload", "{}", token)
	writePEM(t, filepath.Join(dir, "cert"), "CERTIFICATE", certificate.Certificate[0])
	writePEM(t, filepath.Join(dir, "key"), "PRIVATE KEY", []byte(planted))
	said["reload of a key that is none"] = call(admin, "POST", "/reload", "{}", token)
	for _, name := range []string{"reload of a key that does not fit", "reload of a key that is none"} {
		if !strings.Contains(said[name], "those from before are served on") {
			t.Errorf("%s: %s", name, said[name])
		}
	}
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
			for _, secret := range secrets {
				if strings.Contains(line, secret) {
					t.Errorf("%s, line %d: %s", where, n+1, line)
				}
			}
		}
	}
	files := 0
	err = filepath.WalkDir(c.DataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		for _, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s holds a secret", path)
			}
		}
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
}

// linesOf are the lines of a file in PEM that tell something.
func linesOf(t *testing.T, name string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); len(line) > 20 && !strings.HasPrefix(line, "-----") {
			lines = append(lines, line)
		}
	}
	if len(lines) < 2 {
		t.Fatalf("%s has %d lines", name, len(lines))
	}
	return lines
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
