package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metrics are the labels of each metric that docs/metrics.md lists.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(walproxy_[a-z_]+)` \\| (\\w+) \\| ([a-z_, ]*) \\|")
	known := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		labels := append(strings.Split(m[3], ", "), "instance", "job")
		known[m[1]] = labels
		if m[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				known[m[1]+suffix] = append(slices.Clone(labels), "le")
			}
		}
	}
	if len(known) < 50 {
		t.Fatalf("only %d metrics found: the pattern does not fit docs/metrics.md any more", len(known))
	}
	return known
}

type target struct{ Expr string }

type dashboard struct {
	Panels []struct {
		ID          int
		Type, Title string
		Targets     []target
		GridPos     struct{ H, W, X, Y int }
	}
	Templating struct {
		List []struct{ Type, Name, Definition string }
	}
}

var (
	selector = regexp.MustCompile(`\b(walproxy_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping = regexp.MustCompile(`by \(([^)]*)\)`)
	variable = regexp.MustCompile(`label_values\((walproxy_[a-z_]+), ([a-z]+)\)`)
)

// unknown lists what of a query is no metric, or no label of its metrics.
func unknown(query string, known map[string][]string) (faults []string) {
	var all []string
	for _, m := range selector.FindAllStringSubmatch(query, -1) {
		labels, ok := known[m[1]]
		if !ok {
			faults = append(faults, m[1])
			continue
		}
		all = append(all, labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				faults = append(faults, m[1]+" by "+l[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ", ") {
			if !slices.Contains(all, l) {
				faults = append(faults, "by "+l)
			}
		}
	}
	return faults
}

// TestDashboard: every query is of metrics and labels that docs/metrics.md lists, and one
// that Prometheus can read, where its promtool is installed.
func TestDashboard(t *testing.T) {
	known := metrics(t)
	text, err := os.ReadFile("grafana/walproxy.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	queries := 0
	for n, p := range d.Panels {
		if p.ID != n+1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: id %d, want %d; it ends at %d of 24", p.Title, p.ID, n+1, p.GridPos.X+p.GridPos.W)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries++
			for _, fault := range unknown(target.Expr, known) {
				t.Errorf("%s: docs/metrics.md does not list %s: %s", p.Title, fault, target.Expr)
			}
			plain := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$sink", ".*").Replace(target.Expr)
			quoted, err := json.Marshal(plain)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&rules, "  - { record: 'panel:%d', expr: %s }\n", queries, quoted)
		}
	}
	for _, v := range d.Templating.List {
		if m := variable.FindStringSubmatch(v.Definition); v.Type == "query" && (m == nil || !slices.Contains(known[m[1]], m[2])) {
			t.Errorf("the variable %s is of nothing that docs/metrics.md lists: %s", v.Name, v.Definition)
		}
	}
	if queries < 20 {
		t.Errorf("%d queries found", queries)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not installed (Debian: prometheus): the queries are not parsed")
		return
	}
	name := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(name, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUnknown: the check itself sees what it is for.
func TestUnknown(t *testing.T) {
	known := metrics(t)
	for query, want := range map[string]int{
		`sum by (sink) (rate(walproxy_sink_records_total{instance="a"}[5m]))`: 0,
		`histogram_quantile(0.5, sum by (le) (walproxy_ack_seconds_bucket))`:  0,
		`walproxy_sink_record_total`:                                          1,
		`walproxy_log_bytes{sink="main"}`:                                     1,
		`sum by (sink) (walproxy_log_bytes)`:                                  1,
		`walproxy_log_bytes_bucket`:                                           1,
	} {
		if got := unknown(query, known); len(got) != want {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
}

// TestPackageFiles: what the packages take from the tree is there.
func TestPackageFiles(t *testing.T) {
	text, err := os.ReadFile("packages/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`(?m)^  (?:- src|\w+install|\w+remove): ([a-zA-Z][^\s]*)$`).FindAllStringSubmatch(string(text), -1)
	if len(files) < 8 {
		t.Errorf("only %d found: %q", len(files), files)
	}
	for _, m := range files {
		if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
			t.Error(err)
		}
		if strings.HasPrefix(m[1], "deploy/packages/") {
			if out, err := exec.CommandContext(t.Context(), "sh", "-n", filepath.Join("..", m[1])).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", m[1], err, out)
			}
		}
	}
}
