package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
)

var updateMetrics = flag.Bool("update-metrics", false, "write docs/metrics.md anew")

// everything has every endpoint and sort of sink; no store has to be there.
const everything = `
data_dir: %s
log: { min_free: -1 }
api: { listen: "127.0.0.1:0" }
admin: { listen: "127.0.0.1:0" }
aerowire: { listen: "127.0.0.1:0", namespaces: [test], sink: main }
pgwire: { listen: "127.0.0.1:0", upstream: "postgres://127.0.0.1:1/?sslmode=disable", pool: { mode: transaction }, sink: orders, write_behind: { public.items: {} } }
sinks:
  main: { type: pebble }
  orders: { type: postgres, dsn: "postgres://walproxy@127.0.0.1:1/shop?sslmode=disable", collections: { items: { table: public.items, key: [id], key_type: int64 } } }
  users: { type: aerospike, hosts: ["127.0.0.1:1"], namespace: test }
routes: [{ collections: ["*"], sinks: [main, orders, users] }]
shutdown: { drain_timeout: 100ms }
tracing: { endpoint: "http://127.0.0.1:1", sample_one_in: -1 }
`

// TestMetricsReference: docs/metrics.md is what /metrics has. Made with
//
//	go test ./cmd/walproxy -run TestMetricsReference -update-metrics
func TestMetricsReference(t *testing.T) {
	c, err := config.Parse("w.yaml", fmt.Appendf(nil, everything, filepath.Join(t.TempDir(), "data")), nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	closed := sync.OnceFunc(func() { _ = i.close() }) // the stores are away
	defer closed()
	answer, err := http.Get(urlOf(i.apiListener, false) + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	got := metricsReference(t, i.registry)
	closed()
	for desc := range describe(i.registry) {
		if strings.Contains(desc.String(), `"walproxy_`) {
			t.Errorf("registered behind the close: %s", desc)
		}
	}
	const name = "../../docs/metrics.md"
	if *updateMetrics {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/metrics.md is not current (%v): see this test's comment. It should say:\n%s", err, got)
	}
}

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*)", unit: "[^"]*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

var labelName = regexp.MustCompile(`([a-z_]+)=`)

// metricsReference describes what is registered.
func metricsReference(t *testing.T, registry *prometheus.Registry) []byte {
	t.Helper()
	kinds := map[string]string{}
	// A request is counted behind its answer, and a sink has lanes once it was reached.
	late := func() bool {
		return kinds["walproxy_http_request_seconds"] == "" || kinds["walproxy_sink_lane_checkpoint_lsn"] == ""
	}
	for deadline := time.Now().Add(30 * time.Second); late() && time.Now().Before(deadline); {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			kinds[f.GetName()] = strings.ToLower(f.GetType().String())
		}
	}
	rows := map[string]string{}
	for desc := range describe(registry) {
		part := descText.FindStringSubmatch(desc.String())
		if part == nil {
			t.Fatalf("not understood: %s", desc)
		}
		name, help := part[1], strings.ReplaceAll(part[2], `\"`, `"`)
		if !strings.HasPrefix(name, "walproxy_") {
			continue
		}
		kind := kinds[name]
		if kind == "" && strings.HasSuffix(name, "_total") { // without a series so far
			kind = "counter"
		}
		if kind == "" {
			t.Errorf("%s: of no kind that is known", name)
		}
		var labels []string
		for _, m := range labelName.FindAllStringSubmatch(part[3], -1) {
			labels = append(labels, m[1])
		}
		if part[4] != "" {
			labels = append(labels, strings.Split(part[4], ",")...)
		}
		slices.Sort(labels)
		rows[name] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, kind, strings.Join(labels, ", "), strings.ReplaceAll(help, "|", `\|`))
	}
	var out bytes.Buffer
	out.WriteString(metricsIntro)
	for _, group := range metricGroups {
		fmt.Fprintf(&out, "\n## %s\n\n| Name | Kind | Labels | Is |\n|---|---|---|---|\n", group.title)
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			if strings.HasPrefix(name, group.prefix) {
				out.WriteString(rows[name])
				delete(rows, name)
			}
		}
	}
	if len(rows) > 0 {
		t.Errorf("in no group: %v", rows)
	}
	return out.Bytes()
}

const metricsIntro = `# Metrics

What ` + "`/metrics`" + ` on the admin port has, made from the code (TestMetricsReference in ` + "`cmd/walproxy`" + ` keeps it current). Names, labels
and meanings are stable: one that has to go is named in the changelog a version before. Times are seconds, sizes bytes; a
name that ends in ` + "`_total`" + ` counts from the start of the process. Beside them are those of the Go runtime (` + "`go_`" + `) and the
process (` + "`process_`" + `). What is worth an alert is in [operations.md](operations.md#watching).
`

// metricGroups are the sections, the first prefix that fits decides.
var metricGroups = []struct{ title, prefix string }{
	{"Log", "walproxy_log_"}, {"Sinks", "walproxy_sink_"}, {"API", "walproxy_http_"}, {"PostgreSQL endpoint", "walproxy_pgwire_"}, {"Aerospike endpoint", "walproxy_aerowire_"},
	{"PostgreSQL sinks", "walproxy_postgres_"}, {"Aerospike sinks", "walproxy_aerospike_"}, {"The proxy", "walproxy_"},
}

func describe(registry *prometheus.Registry) func(func(*prometheus.Desc) bool) {
	all := make(chan *prometheus.Desc)
	go func() { defer close(all); registry.Describe(all) }()
	return func(yield func(*prometheus.Desc) bool) {
		going := true
		for desc := range all { // to its end, or the sender stays
			going = going && yield(desc)
		}
	}
}
