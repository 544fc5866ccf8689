package config

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("walproxy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("walproxy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judge validates YAML as an editor does.
func judge(t *testing.T, s *jsonschema.Schema, content []byte) error {
	t.Helper()
	text, err := yaml.YAMLToJSON(content)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(value)
}

// TestSchemaTakesSamples: every sample, and the configurations of deploy/, are good by
// the schema, as they are by the loader.
func TestSchemaTakesSamples(t *testing.T) {
	s := compiled(t)
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d samples: %v", len(files), err)
	}
	contents := deployed(t, "../../deploy/kubernetes/walproxy.yaml")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		contents[file] = content
	}
	for file, content := range contents {
		if err := judge(t, s, content); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := Parse(file, content, []string{"TOKEN_HASH=sha256:80678dd7982de860618fc6fb082e3f75a502a21f72341ffe2701bff264071dfa"}); err != nil {
			t.Error(err)
		}
	}
}

// deployed are the configurations in the ConfigMaps of a manifest.
func deployed(t *testing.T, name string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var manifest struct {
			Kind string
			Data map[string]string
		}
		if err := decoder.Decode(&manifest); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for file, content := range manifest.Data {
			if manifest.Kind == "ConfigMap" {
				found[name+": "+file] = []byte(content)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s holds no configuration", name)
	}
	return found
}

// TestSchemaRefuses: a mistake in form is one for schema and loader alike, and what the
// schema refuses the loader does, too.
func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	for _, text := range []string{
		"data_dri: x",
		"log: { max_byte: 1GiB }",
		"log: { engine: rocks }",
		"log: { max_bytes: 1.5GiB }",
		"log: { max_bytes: 64XB }",
		"log: { max_bytes: [1] }",
		"log: text",
		"api: { tokens: {} }",
		"api: { tokens: [{ nam: x }] }",
		"api: { tokens: [{ name: x, rights: [all] }] }",
		"api: { max_connections: many }",
		"api: { max_connections: 1.5 }",
		"api: { allow_insecure: maybe }",
		"api: { http: { idle_timeout: 5 } }",
		"api: { http: { idle_timeout: 5 minutes } }",
		"sinks: [main]",
		"sinks: { main: { type: mysql } }",
		"sinks: { main: { lanes: four } }",
		"sinks: { main: { batch: 1000 } }",
		"sinks: { main: { collections: { orders: { on_reject: drop } } } }",
		"sinks: { main: { collections: { orders: { key_type: uuid } } } }",
		"routes: main",
		"routes: [main]",
		"routes: [{ collections: orders, sinks: [main] }]",
		"pgwire: { upstream: \"postgres://db\", transactions: maybe }",
		"aerowire: { namespaces: test }",
		"logging: { level: loud }",
		"shutdown: { drain_timeout: soon }",
		"sinks: { main: { halt_retry: 30 } }",
	} {
		if err := judge(t, s, []byte(text)); err == nil {
			t.Errorf("%s: the schema takes it", text)
		}
		if _, err := Parse("w.yaml", []byte(text), nil); err == nil {
			t.Errorf("%s: the loader takes it", text)
		}
	}
}
