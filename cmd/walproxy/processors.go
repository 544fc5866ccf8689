package main

import (
	"os"
	"runtime"
)

// spareProcessor gives Go one processor more than there are. A goroutine in a system
// call keeps its own, for as long as a fsync of the log takes if that is less than the
// ten milliseconds after which Go surely looks, and the log is nearly always in one: of
// two processors one stood still for half of the time. GOMAXPROCS in the environment, or
// a limit on the processor's time that Go found, stands: beyond it the process would be
// stopped for the rest of each period.
func spareProcessor() {
	if n := runtime.NumCPU(); os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) == n {
		runtime.GOMAXPROCS(n + 1)
	}
}
