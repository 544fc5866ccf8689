package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// nodeCmd starts a walproxy of its own that is an Aerospike node on the embedded
// store, in node/, until the script ends; $NODE is its process.
func nodeCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: node FILE")
	}
	c := &child{}
	exe, err := os.Executable() // testscript runs the commands of its own binary
	ts.Check(err)
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		if candidate := dir + "/walproxy"; fileExists(candidate) {
			exe = candidate
		}
	}
	c.cmd = exec.Command(exe, "serve", "--data-dir", ts.MkAbs("node"), "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	c.cmd.Env = append(os.Environ(), "WALPROXY_LOG__MIN_FREE=-1", "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	errOut, err := os.Create(ts.MkAbs("node.err"))
	ts.Check(err)
	defer errOut.Close()
	c.cmd.Stderr = errOut
	ts.Check(c.cmd.Start())
	ts.Defer(c.kill)
	addr := ""
	await(ts, "node.err", func(text string) bool {
		for line := range strings.Lines(text) {
			if _, rest, ok := strings.Cut(line, " aerowire="); ok && strings.HasPrefix(line, "listening ") {
				addr = strings.Fields(rest)[0]
			}
		}
		return addr != ""
	})
	config := fmt.Sprintf(`sinks:
  main:
    type: aerospike
    hosts: [%q]
    namespace: test
    cluster: { seed_only: true, settle: 200ms }
`, addr)
	ts.Setenv("NODE", strconv.Itoa(c.cmd.Process.Pid))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(config), 0o644))
}
