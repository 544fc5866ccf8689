package aerospike

import (
	"context"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/mutation"
)

// TestCommandDeadLetter: a command that can never apply becomes a dead letter, with
// its key's later ones behind it; discarded, those are retried in their order.
func TestCommandDeadLetter(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	o := walproxy.Options{Dir: t.TempDir(), Sinks: []walproxy.SinkOptions{{Name: "main", Sink: s}}, DrainTimeout: 20 * time.Second,
		KeyTypes: []walproxy.KeyType{{Collection: rawCollection, Type: mutation.KeyBytes}}}
	o.Log.MinFree = -1
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	p, err := walproxy.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	put := func(m *codec.Message) walproxy.LSN {
		t.Helper()
		pending, err := p.AppendRecord(ctx, recordOf(m))
		if err == nil {
			_, err = pending.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pending.LSN()
	}
	put(rawAdd(t, s, "k", 1))
	bad := put(raw(t, s, "k", codec.Op{Type: codec.OpAppend, Particle: value.ParticleString, Name: []byte("n"), Value: []byte("x")}))
	put(rawAppend(t, s, "k", 5))
	behind := put(rawAdd(t, s, "k", 10))
	letters := func(n int) []walproxy.DeadLetter {
		t.Helper()
		var found []walproxy.DeadLetter
		soon(t, "the dead letters are there", func() bool {
			var err error
			if found, err = p.DeadLetters("main", 0, 10); err != nil {
				t.Fatal(err)
			}
			return len(found) == n
		})
		return found
	}
	l := letters(3)
	rec, err := l[0].Record()
	if err != nil || l[0].LSN != bad || l[0].Details["result_code"] != "12" || rec.GetCommand() == nil {
		t.Fatalf("the first dead letter is %+v (%v), want the command of LSN %v with result 12", l[0], err, bad)
	}
	d := &direct{T: t, s: s}
	d.holds("k", "map[n:1]")
	if _, err := p.DiscardDeadLetters("main", []walproxy.LSN{bad}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RetryDeadLetters(ctx, "main", []walproxy.LSN{behind - 1, behind}); err != nil {
		t.Fatal(err)
	}
	letters(0)
	soon(t, "the others are applied", func() bool { return len(d.bins("k")) == 2 && d.bins("k")["n"] == 11 })
	d.holds("k", "map[l:[5] n:11]")
}
