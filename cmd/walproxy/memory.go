package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/walproxy/walproxy/internal/config"
)

// workingBytes is what the server needs beside the ring under load: segment and
// group buffers, queues of the loops, requests, and the garbage of all that.
// With 64 MiB of ring and a growing backlog it peaks at about 255 MiB of RSS,
// against 290 without a limit, and acks no slower.
const workingBytes = 160 << 20

// memoryLook is how often the limit is looked at.
const memoryLook = time.Second

// limitMemory makes the garbage collector work harder before it lets the
// process grow beyond what it needs: by default it would keep as much garbage
// as there is live data, and the ring is live. It is a soft limit; GOMEMLIMIT in
// the environment takes its place.
//
// What is live is bounded elsewhere, and may be more: each of thousands of connections
// has its buffers. A limit below that would have the collector run without a pause, so
// it rises with what is live. stop ends that.
func limitMemory(c *config.Config) (stop func()) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	least := int64(c.Log.RingBytes) + workingBytes
	debug.SetMemoryLimit(least)
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
				debug.SetMemoryLimit(memoryLimit(least, liveMemory()))
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
