package walproxy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/walproxy/walproxy/"

// TestImports holds the import rules of docs/architecture.md: who embeds the
// log gets no driver and no server, the log does not know sinks, a sink does
// not know the log, and one package imports each driver.
func TestImports(t *testing.T) {
	rules := []struct {
		pkg    string
		forbid []string // import paths, or prefixes ending in /
	}{
		{".", []string{
			"github.com/jackc/pgx/", "github.com/aerospike/", "connectrpc.com/", "github.com/spf13/cobra",
			"google.golang.org/grpc/", "go.opentelemetry.io/otel/sdk/", "go.opentelemetry.io/otel/exporters/", "github.com/hanwen/", "github.com/goccy/go-yaml",
			module + "api/rpc", module + "api/admin", module + "cmd/", module + "internal/config",
			module + "sinks/pebble", module + "sinks/postgres", module + "sinks/aerospike",
		}},
		{"./wal", []string{module + "sinks", module + "mutation", module + "replay", module + "internal/state",
			module + "api/", "github.com/cockroachdb/", "google.golang.org/protobuf/"}},
		{"./sinks/...", []string{module + "wal", module + "replay", module + "internal/accept", module + "internal/state"}},
		{"./mutation", []string{module + "wal", module + "sinks", module + "replay", "github.com/cockroachdb/pebble/"}},
		{"./replay", []string{"github.com/jackc/", module + "sinks/postgres", module + "sinks/pebble", module + "api/rpc", module + "internal/accept"}},
		{"./sinks/pebble", []string{"github.com/jackc/", "github.com/aerospike/"}},
		{"./sinks/postgres", []string{"github.com/aerospike/"}},
		{"./sinks/aerospike", []string{"github.com/jackc/"}},
		{"./internal/config", []string{"github.com/jackc/", "github.com/aerospike/", module + "sinks/postgres", module + "sinks/pebble"}},
		{"./api/...", []string{"github.com/jackc/", module + "sinks/postgres"}},
		{"./api/aerowire", []string{"github.com/aerospike/", module + "sinks/pebble", module + "internal/config", "github.com/spf13/cobra"}},
		// The codec and what computes with its values know no connection and no log.
		{"./api/aerowire/codec", []string{"net", module + "wal"}},
		{"./api/aerowire/expression", []string{"net", module + "wal", module + "mutation"}},
		{"./api/pgwire", []string{module + "sinks/pebble", module + "sinks/aerospike", module + "internal/config", "github.com/spf13/cobra"}},
		{"./api/pgwire/statement", []string{"net", module + "wal", module + "mutation"}},
		{"./api/pgwire/catalogue", []string{module + "wal", module + "sinks"}},
		{"./api/pgwire/behind", []string{module + "wal", module + "sinks"}},
		{"./api/pgwire/value", []string{module + "wal", module + "sinks"}},
		{"./api/rpc", []string{module + "sinks/pebble", module + "internal/config", "github.com/spf13/cobra"}},
	}
	for _, rule := range rules {
		t.Run(rule.pkg, func(t *testing.T) {
			for _, dep := range deps(t, rule.pkg) {
				for _, bad := range rule.forbid {
					if dep == bad || strings.HasPrefix(dep, strings.TrimSuffix(bad, "/")+"/") {
						t.Errorf("%s imports %s", rule.pkg, dep)
					}
				}
			}
		})
	}
}

// deps lists everything that pkg imports, directly or not, without its tests.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}

// TestPackageComments: every package says what it is for.
func TestPackageComments(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}}\t{{.Doc}}", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		path, doc, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if doc == "" && !strings.Contains(path, "/api/proto/") {
			t.Errorf("%s has no package comment", path)
		}
	}
}

// TestGuaranteesName: every test that docs/guarantees.md names exists in the
// package it is named with.
func TestGuaranteesName(t *testing.T) {
	doc, err := os.ReadFile("docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	token := regexp.MustCompile("`([a-z/]+)`|\\b((?:Test|Benchmark|Fuzz)[A-Z][A-Za-z0-9]+)")
	named := 0
	for line := range strings.Lines(string(doc)) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		for entry := range strings.SplitSeq(line, ";") {
			pkg := "."
			for _, m := range token.FindAllStringSubmatch(entry, -1) {
				if m[1] != "" {
					pkg = m[1]
					continue
				}
				named++
				if !hasFunc(t, pkg, m[2]) {
					t.Errorf("%s is not in package %s", m[2], pkg)
				}
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d names found: the pattern does not fit the page any more", named)
	}
}

// hasFunc reports whether a test file of pkg declares the function.
func hasFunc(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(src), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
