package rpc_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walproxy/walproxy/internal/audit"
)

// TestAudit: what is given up over the API is noted, with who asked for it; what
// cannot be noted is refused.
func TestAudit(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(o *rigOptions) { o.rest.Audit = audit.New(dir, nil) })
	r.want(r.do("PUT", "/v1/orders/1", `{"total": "text"}`), 200)
	r.want(r.do("POST", "/v1/orders/1:increment?ack=applied", `{"total": 1}`), 202, "state", `"dead"`)
	r.want(r.do("DELETE", "/v1/dlq/main/7", "", "Walproxy-Actor", "alice"), 404)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	r.want(r.do("DELETE", "/v1/dlq/main/2", ""), 503, "code", `"audit_unwritable"`)
	r.want(r.do("GET", "/v1/dlq/main/2", ""), 200)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	r.want(r.do("DELETE", "/v1/dlq/main/2", "", "Walproxy-Actor", strings.Repeat("alice", 100)), 200)
	entries, err := audit.Read(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%+v, %v in %s", entries, err, filepath.Join(dir, audit.Name))
	}
	for i, want := range []string{audit.Begin, audit.Failed, audit.Begin, audit.Done} {
		e := entries[i]
		counted := uint64(1) // asked for, in the end given up
		if want == audit.Failed {
			counted = 0
		}
		if e.Phase != want || e.Action != "dlq discard" || e.Sink != "main" || !strings.HasPrefix(e.Who, "alice") || len(e.Who) > 256 ||
			!strings.HasPrefix(e.Via, "api from 127.0.0.1:") || e.Counts["dead_letters"] != counted || !strings.HasPrefix(e.Detail, "LSN ") {
			t.Errorf("line %d: %+v", i, e)
		}
	}
}
