package aerowire_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestNodeClient runs the Aerospike client for Node.js, which is the one in C,
// against the endpoint: testdata/client.js. make install-deps installs it.
func TestNodeClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	modules := os.Getenv("WALPROXY_NODE_MODULES")
	if modules == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skipf("NOT TESTED: %v", err)
		}
		modules = filepath.Join(cache, "walproxy", "node", "node_modules")
	}
	if _, err := os.Stat(filepath.Join(modules, "aerospike")); err != nil {
		t.Skipf("NOT TESTED: no npm package aerospike (make install-deps, or WALPROXY_NODE_MODULES): %v", err)
	}
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/client.js", r.addr)
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
