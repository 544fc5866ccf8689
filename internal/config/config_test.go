package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/walproxy/walproxy/configs"
	"github.com/walproxy/walproxy/mutation"
)

// TestFaults holds every message, with its line and column. Lines of the
// input that begin with WALPROXY_ are environment variables. -rewrite writes
// the answers anew.
func TestFaults(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var file, environ []string
			for line := range strings.Lines(d.Input) {
				if strings.HasPrefix(line, prefix) {
					environ = append(environ, strings.TrimSpace(line))
				} else {
					file = append(file, line)
				}
			}
			c, err := Parse("w.yaml", []byte(strings.Join(file, "")), environ)
			switch d.Cmd {
			case "faults":
				if err == nil {
					return "ok"
				}
				return err.Error()
			case "show":
				if err != nil {
					return err.Error()
				}
				out, err := c.Show()
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			t.Fatalf("unknown command %q", d.Cmd)
			return ""
		})
	})
}

// TestSamples: every file in configs/ is a valid configuration.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d samples: %v", len(files), err)
	}
	for _, file := range files {
		if _, err := Load(file, nil); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// TestDefaultSample: configs/walproxy.yaml says what the code does without it.
func TestDefaultSample(t *testing.T) {
	said, err := Parse("walproxy.yaml", configs.Default, nil)
	if err != nil {
		t.Fatal(err)
	}
	unsaid, err := Parse("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, errA := said.Show()
	b, errB := unsaid.Show()
	if errA != nil || errB != nil || string(a) != string(b) {
		t.Errorf("configs/walproxy.yaml differs from the defaults (%v, %v):\n%s\nwithout it:\n%s", errA, errB, a, b)
	}
}

// TestShowLoads: what `config show` prints is the same configuration again.
func TestShowLoads(t *testing.T) {
	for _, file := range []string{"walproxy.yaml", "keys.yaml", "container.yaml", "two-stores.yaml", "paused.yaml", "pgwire.yaml"} {
		c, err := Load("../../configs/"+file, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, err := c.Show()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("shown", first, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", file, err, first)
		}
		second, err := again.Show()
		if err != nil || string(first) != string(second) {
			t.Errorf("%s: shown and loaded it is another (%v):\n%s\n%s", file, err, first, second)
		}
		changed, err := c.ShowChanges()
		if err != nil {
			t.Fatal(err)
		}
		if again, err = Parse("changes", changed, nil); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, changed)
		}
		if second, err = again.Show(); err != nil || string(first) != string(second) {
			t.Errorf("%s: its changes loaded it is another (%v):\n%s\nof\n%s\nwant\n%s", file, err, second, changed, first)
		}
		if len(changed) >= len(first) || file == "walproxy.yaml" && len(changed) > 0 {
			t.Errorf("%s: shown as what differs from the defaults:\n%s", file, changed)
		}
	}
}

func TestOverridesWin(t *testing.T) {
	c, err := Parse("w.yaml", []byte("api: {listen: 127.0.0.1:1}\ndata_dir: file\n"),
		[]string{"WALPROXY_API__LISTEN=127.0.0.1:2", "WALPROXY_DATA_DIR=environment"},
		Override{Flag: "--api", Key: []string{"api", "listen"}, Value: "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if c.API.Listen != "127.0.0.1:3" || c.DataDir != "environment" {
		t.Errorf("flag over environment over file: got %s, %s", c.API.Listen, c.DataDir)
	}
	_, err = Parse("", nil, nil, Override{Flag: "--api", Key: []string{"api", "listen"}, Value: "nowhere"})
	if err == nil || !strings.HasPrefix(err.Error(), "--api: api.listen: ") {
		t.Errorf("a fault in a flag names the flag; got %v", err)
	}
}

func TestEnvironmentTypes(t *testing.T) {
	c, err := Parse("", nil, []string{
		"WALPROXY_SINKS__MAIN__PAUSED=true",
		"WALPROXY_SINKS__MAIN__LANES=7",
		"WALPROXY_SINKS__MAIN__BATCH__LINGER=2s",
		"WALPROXY_LOG__MAX_BYTES=1GiB",
		`WALPROXY_ROUTES=[{collections: ["a*"], sinks: [main]}]`,
		"WALPROXY_SINKS__MAIN__COLLECTIONS__ORDERS__KEY_TYPE=int64",
		"WALPROXY_PORT=tcp://10.0.0.1:7070", // Kubernetes' service link: not ours
	})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Sinks["main"]
	if !s.Paused || s.Lanes != 7 || s.Batch.Linger != Duration(2*time.Second) || c.Log.MaxBytes != gib ||
		c.Routes[0].Collections[0] != "a*" || s.Collections["orders"].KeyType != "int64" || s.Type != TypePebble {
		t.Errorf("got %+v", c)
	}
}

// TestEnvironmentMeetsFile: a variable reaches into what the file said, and
// keeps what it does not name.
func TestEnvironmentMeetsFile(t *testing.T) {
	c, err := Parse("w.yaml", []byte("sinks:\n  Main:\n    lanes: 9\n    path: /x\n"),
		[]string{"WALPROXY_SINKS__MAIN__LANES=3"})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Sinks) != 1 || c.Sinks["Main"].Lanes != 3 || c.Sinks["Main"].Path != "/x" {
		t.Errorf("got %+v", c.Sinks)
	}
}

func TestKeyTypeOrder(t *testing.T) {
	c, err := Parse("", []byte(`
sinks:
  main:
    collections:
      "*": { key_type: bytes }
      "user_*": { key_type: composite }
      user_a: { key_type: int64 }
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []KeyTypeRule{
		{"user_a", mutation.KeyInt64}, {"user_*", mutation.KeyComposite}, {"*", mutation.KeyBytes}}
	if got := c.KeyTypes(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hunter2"
	c := &Config{
		PGWire: &PGWire{Upstream: "postgres://u:" + secret + "@h/db", Users: map[string]string{"app": secret},
			AuthQuery: &PGAuthQuery{User: "walproxy", Password: secret}},
		Sinks: map[string]Sink{
			"url":    {DSN: "postgres://app:" + secret + "@db:5432/x?sslmode=require"},
			"pairs":  {DSN: "host=db user=app password=" + secret + " dbname=x"},
			"quoted": {DSN: "host=db password = '" + secret + " and more' dbname=x"},
			"query":  {DSN: "postgres://db/x?user=app&password=" + secret},
			"broken": {DSN: "postgres://app:" + secret + "@%zz"},
		},
	}
	out, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), secret) {
		t.Errorf("a secret is shown:\n%s", out)
	}
	if !strings.Contains(string(out), "app:"+redacted+"@db:5432/x") || !strings.Contains(string(out), "host=db") {
		t.Errorf("more than the secret is hidden:\n%s", out)
	}
	if c.Sinks["url"].DSN == "" || !strings.Contains(c.Sinks["url"].DSN, secret) {
		t.Error("Show changed the configuration")
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "64GiB": 64 * gib, "10 MiB": 10 * mib, "1kB": 1000, "3TB": 3e12, "512B": 512, "-1": -1,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%q prints as %q, which is %d, %v", text, got, back, err)
		}
	}
	for _, text := range []string{"", "GiB", "1.5GiB", "9223372036854775807KiB", "1XB", "0x10"} {
		if s, err := ParseSize(text); err == nil {
			t.Errorf("%q: parsed as %d", text, s)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "absent.yaml"), nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "absent.yaml") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(configs.Default), "WALPROXY_LOG__MAX_BYTES=1GiB")
	f.Add([]byte("sinks: {a: {batch: {records: 1}}, b: }"), "WALPROXY_SINKS__A__X=1")
	f.Add([]byte("a: &x 1\nb: *x"), "WALPROXY_ROUTES=[")
	f.Add([]byte("? [a]\n: 1"), "WALPROXY_SINKS=3")
	f.Fuzz(func(t *testing.T, content []byte, variable string) {
		c, err := Parse("f", content, []string{variable})
		if err != nil {
			var faults *Error
			if !errors.As(err, &faults) || len(faults.Faults) == 0 {
				t.Errorf("not a list of faults: %v", err)
			}
			return
		}
		if _, err := c.Show(); err != nil {
			t.Errorf("valid, but cannot be shown: %v", err)
		}
	})
}
