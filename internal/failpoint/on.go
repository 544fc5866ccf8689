//go:build failpoint

// Package failpoint lets crash tests stop the process at a named place. It is
// compiled away unless built with -tags failpoint: nothing in the environment
// can switch a release binary to faults.
//
// The environment variable WALPROXY_FAILPOINTS lists what is on, comma
// separated: "name" or "name=N". Hit(name) kills the process with SIGKILL at
// the N-th hit (1 if absent). Enabled(name) reports that the name is listed.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// On reports whether the binary was built with failpoints.
const On = true

var points = parse(os.Getenv("WALPROXY_FAILPOINTS"))

func parse(list string) map[string]*atomic.Int64 {
	m := map[string]*atomic.Int64{}
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, count, found := strings.Cut(item, "=")
		n := int64(1)
		if found {
			v, err := strconv.ParseInt(count, 10, 64)
			if err != nil || v < 1 {
				panic("WALPROXY_FAILPOINTS: " + item + ": want name=N with N >= 1")
			}
			n = v
		}
		left := &atomic.Int64{}
		left.Store(n)
		m[name] = left
	}
	return m
}

// Hit kills the process with SIGKILL when name's count runs out.
func Hit(name string) {
	left, ok := points[name]
	if !ok || left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way: go no further
}

// Enabled reports whether name is listed, whatever its count.
func Enabled(name string) bool { return points[name] != nil }
