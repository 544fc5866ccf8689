package main

import (
	"os"
	"runtime"
	"testing"
)

// serveProcessors is how many serve gives itself in a process of its own.
var serveProcessors = func() int {
	n := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") == "" && n == runtime.NumCPU() {
		n++
	}
	return n
}()

func TestSpareProcessor(t *testing.T) {
	n := runtime.NumCPU()
	was := runtime.GOMAXPROCS(n)
	defer runtime.GOMAXPROCS(was)
	for name, c := range map[string]struct {
		env       string
		had, want int
	}{
		"as many as there are":    {"", n, n + 1},
		"called before":           {"", n + 1, n + 1},
		"limited":                 {"", n + 2, n + 2}, // any other number: less than one cannot be
		"said by the environment": {"4", n, n},
	} {
		t.Setenv("GOMAXPROCS", c.env)
		runtime.GOMAXPROCS(c.had)
		spareProcessor()
		if got := runtime.GOMAXPROCS(0); got != c.want {
			t.Errorf("%s: %d of %d, want %d", name, got, n, c.want)
		}
	}
}
