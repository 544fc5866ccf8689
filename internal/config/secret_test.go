package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSecrets: where a value comes from, and that no fault and nothing shown tells it.
func TestSecrets(t *testing.T) {
	const planted = "planted-secret"
	dir := t.TempDir()
	file := filepath.Join(dir, "dsn")
	if err := os.WriteFile(file, []byte("postgres://app:"+planted+"@db/x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"SECRET=" + planted, "HOST=db1"}
	for text, want := range map[string]string{
		`file:` + file:                       "postgres://app:" + planted + "@db/x",
		`postgres://app:${SECRET}@${HOST}/x`: "postgres://app:" + planted + "@db1/x",
		`postgres://$${HOST}/x`:              "postgres://${HOST}/x",
		`postgres://$HOST/x`:                 "postgres://$HOST/x",
	} {
		c, err := Parse("w.yaml", []byte("sinks: { main: { type: postgres, dsn: \""+text+"\" } }\n"), environ)
		if err != nil || c.Sinks["main"].DSN != want {
			t.Errorf("%s: %q, %v", text, c.Sinks["main"].DSN, err)
			continue
		}
		if shown, err := c.Show(); err != nil || strings.Contains(string(shown), planted) {
			t.Errorf("%s: it is shown: %v", text, err)
		}
	}
	headers, err := Parse("w.yaml", []byte("tracing: { endpoint: 'http://c', headers: { authorization: '${SECRET}', x: 'file:"+file+"' } }"), environ)
	if err != nil || headers.Tracing.Headers["authorization"] != planted || !strings.Contains(headers.Tracing.Headers["x"], planted) {
		t.Errorf("headers: %v, %v", headers.Tracing.Headers, err)
	}
	if shown, err := headers.Show(); err != nil || strings.Contains(string(shown), planted) || !strings.Contains(string(shown), "authorization") {
		t.Errorf("headers are shown: %v: %s", err, shown)
	}
	c, err := Parse("", nil, []string{"WALPROXY_SINKS__MAIN__TYPE=postgres", "WALPROXY_SINKS__MAIN__DSN=file:" + file})
	if err != nil || !strings.Contains(c.Sinks["main"].DSN, planted) {
		t.Errorf("a variable that names a file: %v", err)
	}
	for text, want := range map[string]string{
		"sinks: { main: { type: postgres, dsn: 'file:" + dir + "/absent' } }":  "w.yaml:1:39: sinks.main.dsn: stat " + dir + "/absent: no such file",
		"sinks: { main: { type: postgres, dsn: 'file:" + dir + "' } }":         "is no file",
		"sinks: { main: { type: postgres, dsn: 'file:" + empty + "' } }":       "is empty",
		"sinks: { main: { type: postgres, dsn: '${ABSENT}' } }":                "there is no environment variable ABSENT",
		"sinks: { main: { lanes: '${SECRET}' } }":                              "w.yaml:1:25: sinks.main.lanes: what ${SECRET} stands for is not a whole number",
		"log: { max_bytes: '${SECRET}' }":                                      "what ${SECRET} stands for is not a size",
		"api: { tokens: [{ name: a, hash: '${SECRET}', rights: [read] }] }":    "api.tokens[0].hash: want sha256:",
		"sinks: { main: { type: aerospike, cluster: { password: ${SECRET} } }": "w.yaml",
	} {
		_, err := Parse("w.yaml", []byte(text), environ)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"listen", "tokens", "max_item_bytes", "max_body_bytes"}
	for name, want := range map[string]string{
		"tokns": "tokens", "listne": "listen", "max_itembytes": "max_item_bytes", "max_bodi_byte": "max_body_bytes", "colour": "", "x": "",
		strings.Repeat("x", 1000): "",
	} {
		if got := nearest(keys, name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestChanged: what differs is named by its key, and nothing else.
func TestChanged(t *testing.T) {
	parse := func(text string) *Config {
		c, err := Parse("w.yaml", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const sinks = "sinks: { main: { lanes: 2 }, copy: {} }\nroutes: [{ collections: ['*'], sinks: [main] }]\n"
	for text, want := range map[string][]string{
		sinks: nil,
		"api: { http: { idle_timeout: 1m }, tls: { cert: a, key: b } }\n" + sinks:                                                       {"api.http.idle_timeout", "api.tls"},
		"aerowire: { sink: main }\n" + sinks:                                                                                            {"aerowire"},
		"sinks: { main: { lanes: 3 }, other: {} }\nroutes: [{ collections: ['*'], sinks: [main] }]":                                     {"sinks.copy", "sinks.main.lanes", "sinks.other"},
		"sinks: { main: { lanes: 2, collections: { a: { key_type: int64 } } }, copy: {} }\nroutes: [{collections: [a], sinks: [main]}]": {"routes", "sinks.main.collections.a.key_type"},
	} {
		if got := Changed(parse(sinks), parse(text)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
