package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// workingBytes is what the server needs under load: segment and group buffers, queues
// of the loops, requests, and the garbage of all that.
const workingBytes = 160 << 20

// garbagePercent is how much garbage there may be for what is live. That is some tens of
// MiB: with Go's 100 percent the collector would run several times as often.
const garbagePercent = 400

// memoryLook is how often the limit is looked at.
const memoryLook = time.Second

// limitMemory lets the garbage collector rest until the process has grown to what it
// needs, and makes it work harder before it grows beyond. It is a soft limit; GOMEMLIMIT
// and GOGC in the environment take the places of both.
//
// What is live is bounded elsewhere, and may be more: each of thousands of connections
// has its buffers. A limit below that would have the collector run without a pause, so
// it rises with what is live. stop ends that.
func limitMemory() (stop func()) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	debug.SetMemoryLimit(workingBytes)
	ended := make(chan struct{})
	var follow sync.WaitGroup
	follow.Go(func() {
		look := time.NewTicker(memoryLook)
		defer look.Stop()
		for {
			select {
			case <-ended:
				return
			case <-look.C:
				debug.SetMemoryLimit(memoryLimit(workingBytes, liveMemory()))
			}
		}
	})
	return func() {
		close(ended)
		follow.Wait()
	}
}

// memoryLimit leaves the collector half as much again as is live.
func memoryLimit(least, live int64) int64 { return max(least, live+live/2) }

// liveMemory is what the last collection found, and the stacks.
func liveMemory() int64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
}
