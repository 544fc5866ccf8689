package aerowire_test

import (
	"context"
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// panicking is a Core whose changes panic, when armed, as a defect in an operation
// would: under the key's lock.
type panicking struct {
	api.Core
	armed atomic.Bool
}

func (p *panicking) Modify(ctx context.Context, collection string, key *walproxyv1.Key, f walproxy.Change) (api.Pending, error) {
	return p.Core.Modify(ctx, collection, key, func(doc *mutation.Document, now time.Time) (*walproxyv1.Mutation, error) {
		if p.armed.Swap(false) {
			_ = []int{}[len(key.GetBytes())]
		}
		return f(doc, now)
	})
}

// A request that panics under its key's lock takes down its connection and nothing
// else: not the process, the key, the budgets, or other connections.
func TestPanicEndsOneConnection(t *testing.T) {
	core := &panicking{}
	logs, seen := observer.New(zap.WarnLevel)
	r := newRig(t, func(o *aerowire.Options) {
		core.Core = o.Core
		o.Core, o.Logger = core, zap.New(logs)
	})
	other := r.wire()
	other.send(put(1, 1))
	if m := other.message(); m.Result != codec.OK {
		t.Fatalf("before: %v", m.Result)
	}
	// A list that needs room of the budget, and a message that needs some of the
	// other: both are held when it panics.
	large := putMessage(1, 2)
	large.Ops = []codec.Op{{Type: codec.OpWrite, Particle: value.ParticleList, Name: []byte("l"),
		Value: value.Append(nil, value.OfList(make([]value.Value, 20_000), 0))}}
	victim := r.wire()
	victim.send(framed(codec.TypeMessage, codec.AppendMessage(nil, large)))
	if m := victim.message(); m.Result != codec.OK {
		t.Fatalf("a large list: %v", m.Result)
	}
	core.armed.Store(true)
	victim.send(framed(codec.TypeMessage, codec.AppendMessage(nil, large)))
	victim.ended("a request that panicked")

	other.send(put(1, 3))
	m := other.message()
	if m.Result != codec.OK || len(m.Ops) != 1 || binary.BigEndian.Uint64(m.Ops[0].Value) != 2 {
		t.Fatalf("the key afterwards: %+v", m)
	}
	if release, ok := r.server.TakeRoom(); !ok {
		t.Error("room was not given back")
	} else {
		release()
	}
	if release, ok := r.server.TakeInFlight(); !ok {
		t.Error("the message's bytes were not given back")
	} else {
		release()
	}
	entries := seen.FilterMessageSnippet("panicked").All()
	if len(entries) != 1 {
		t.Fatalf("%d entries in the log: %v", len(entries), seen.All())
	}
	if stack, ok := entries[0].ContextMap()["stack"].(string); !ok || !strings.Contains(stack, "panic_test.go") {
		t.Errorf("the stack names no place: %v", entries[0].ContextMap())
	}
}

// A client's next request is done, on another connection of its pool.
func TestClientAfterPanic(t *testing.T) {
	core := &panicking{}
	r := newRig(t, func(o *aerowire.Options) { core.Core, o.Core = o.Core, core })
	c := r.client()
	k := key(t, "panic", 1)
	want(t, "put", c.Put(nil, k, as.BinMap{"n": 1}), types.OK)
	core.armed.Store(true)
	policy := as.NewWritePolicy(0, 0)
	policy.MaxRetries, policy.TotalTimeout, policy.SocketTimeout = 0, time.Minute, time.Minute
	if err := c.Add(policy, k, as.BinMap{"n": 1}); err == nil || !err.IsInDoubt() {
		t.Fatalf("a request that panicked: %v; want an error in doubt", err)
	}
	want(t, "add", c.Add(policy, k, as.BinMap{"n": 1}), types.OK)
	if rec, err := c.Get(nil, k); err != nil || rec.Bins["n"] != 2 {
		t.Errorf("%v, %v", rec, err)
	}
}
