package main

import (
	"os"
	"runtime/debug"

	"github.com/walproxy/walproxy/internal/config"
)

// workingBytes is what the server needs beside the ring under load: segment and
// group buffers, queues of the loops, requests, and the garbage of all that.
// With 64 MiB of ring and a growing backlog it peaks at about 255 MiB of RSS,
// against 290 without a limit, and acks no slower.
const workingBytes = 160 << 20

// limitMemory makes the garbage collector work harder before it lets the
// process grow beyond what it needs: by default it would keep as much garbage
// as there is live data, and the ring is live. It is a soft limit; GOMEMLIMIT in
// the environment takes its place.
func limitMemory(c *config.Config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(c.Log.RingBytes) + workingBytes)
	}
}
