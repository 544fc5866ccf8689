package main

import (
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/replay"
)

// Every key of a sink reaches the loop.
func TestSinkOptions(t *testing.T) {
	c, err := config.Parse("w.yaml", []byte(`
sinks:
  main:
    paused: true
    lanes: 3
    batch: { records: 7, bytes: 2KiB, linger: 6ms, latency: 70ms }
    apply_timeout: 9s
    max_lag_bytes: 5MiB
    retain: 3MiB
    collections:
      "order*": { lane_group: shop, on_reject: halt }
      orders: { lane_group: money, own_lanes: 2 }
      "user*": { own_lanes: 1 }
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	o := sinkOptions("main", c.Sinks["main"], nil)
	l := o.Loop
	if !o.Paused || o.MaxLagBytes != 5<<20 || o.Retain != 3<<20 || l.Lanes != 3 || l.ApplyTimeout != 9*time.Second ||
		l.Batch.Records != 7 || l.Batch.Bytes != 2<<10 || l.Batch.Linger != 6*time.Millisecond || l.Batch.Latency != 70*time.Millisecond {
		t.Errorf("got %+v", o)
	}
	for collection, want := range map[string]string{"orders": "money", "order_lines": "shop", "users": ""} {
		if got := l.LaneKey(collection); got != want {
			t.Errorf("LaneKey(%s) = %q, want %q", collection, got, want)
		}
	}
	if want := []replay.Class{{Name: "money", Lanes: 2}, {Name: "user*", Lanes: 1}}; !slices.Equal(l.Classes, want) {
		t.Errorf("classes %v, want %v", l.Classes, want)
	}
	for collection, want := range map[string]string{"orders": "money", "order_lines": "", "users": "user*"} {
		if got := l.OwnLanes(collection); got != want {
			t.Errorf("OwnLanes(%s) = %q, want %q", collection, got, want)
		}
	}
	if l.OnReject("orders") != replay.Halt || l.OnReject("users") != replay.ParkKey {
		t.Error("OnReject does not follow the collections")
	}
	var none config.Sink
	if bare := sinkOptions("main", none, nil).Loop; bare.LaneKey != nil || bare.OwnLanes != nil {
		t.Error("a LaneKey without groups, or OwnLanes without classes, costs every record a look")
	}
}
