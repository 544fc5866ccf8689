package walproxy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/wal"
)

// refusedRig is a data directory and a store that can be copied, damaged and put
// back between runs.
type refusedRig struct {
	t         *testing.T
	dir       string
	o         walproxy.Options
	store     *pebble.Sink
	p         *walproxy.Proxy
	storePath string
}

func newRefusedRig(t *testing.T) *refusedRig {
	dir := t.TempDir()
	r := &refusedRig{t: t, dir: dir, storePath: filepath.Join(dir, "store")}
	r.o = options(filepath.Join(dir, "data"), nil)
	r.o.Log.SegmentBytes, r.o.Log.GroupBytes = 64<<10, 16<<10
	r.o.Sinks[0].Loop.Lanes = 2
	return r
}

func (r *refusedRig) open() {
	r.t.Helper()
	var err error
	if r.store, err = pebble.Open(r.storePath, pebble.Options{}); err != nil {
		r.t.Fatal(err)
	}
	r.o.Sinks[0].Sink = r.store
}

func (r *refusedRig) start() {
	r.t.Helper()
	r.open()
	r.p = open(r.t, r.o)
}

// stop closes everything; records may stay.
func (r *refusedRig) stop() {
	r.t.Helper()
	if r.p != nil {
		if err := r.p.Close(context.Background()); err != nil && !errors.As(err, new(*walproxy.RemainingError)) {
			r.t.Fatal(err)
		}
	}
	r.p = nil
	if err := r.store.Close(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

// bump writes n increments of each of four keys, which share two lanes.
func (r *refusedRig) bump(n int) (last walproxy.LSN) {
	r.t.Helper()
	for range n {
		for _, key := range []string{"a", "b", "c", "d"} {
			last = appendOne(r.t, r.p, increment(key))
		}
	}
	return last
}

func (r *refusedRig) refused(want error) {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.t.Logf("%+v", r.p.Status())
		}
	}()
	until(r.t, "the sink is refused: "+want.Error(), func() bool { return errors.Is(sinkStatus(r.t, r.p, "main").Err, want) })
	if text := sinkStatus(r.t, r.p, "main").Err.Error(); !strings.Contains(text, "`walproxy sink accept main") {
		r.t.Errorf("the error does not name the command: %s", text)
	}
}

// counts checks what the store has of every key.
func (r *refusedRig) counts(want int64) {
	r.t.Helper()
	for _, key := range []string{"a", "b", "c", "d"} {
		if got := counter(r.t, r.store, "things", key); got != want {
			r.t.Errorf("%s is %d, want %d", key, got, want)
		}
	}
}

func (r *refusedRig) put(from, to string) {
	r.t.Helper()
	to = filepath.Join(r.dir, to)
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(filepath.Join(r.dir, from)))); err != nil {
		r.t.Fatal(err)
	}
}

// edit changes what the store keeps about itself; value nil: it is deleted.
func (r *refusedRig) edit(meta string, value []byte) {
	r.t.Helper()
	db, err := cockroach.Open(r.storePath, &cockroach.Options{Logger: quiet{}})
	if err != nil {
		r.t.Fatal(err)
	}
	key := append([]byte{1}, meta...)
	if value == nil {
		err = db.Delete(key, cockroach.Sync)
	} else {
		err = db.Set(key, value, cockroach.Sync)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		r.t.Fatal(err)
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}

// Every way in which a sink can be refused, made for real, is accepted as it was
// shown: over an open proxy, and without one; then the store has what the plan
// said, and the next start finds nothing to accept.
func TestAccept(t *testing.T) {
	at := func(lsn walproxy.LSN) *walproxy.LSN { return &lsn }
	for i, c := range []struct {
		name string
		// make leaves the directory refused; what is written then comes on top.
		make         func(r *refusedRig)
		refused      error
		after        *walproxy.LSN // nil: it is known
		want         int64         // of each counter, with 2 more each written meanwhile
		never, again []replay.LSNRange
	}{
		{name: "an older copy of the log and the state store", refused: replay.ErrDiverged, after: at(20), want: 5 + 4 + 2,
			again: []replay.LSNRange{{First: 21, Last: 28}},
			make: func(r *refusedRig) {
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				r.put("data", "older")
				r.start()
				applied(r.t, r.p, "main", r.bump(4))
				r.stop()
				r.put("older", "data")
			}},
		{name: "a copy taken while it ran", refused: replay.ErrDiverged, want: 5 + 4 + 2,
			again: []replay.LSNRange{{First: 21, Last: 28}},
			make: func(r *refusedRig) {
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.put("data", "older") // quiet: what is on the disk is all there is
				applied(r.t, r.p, "main", r.bump(4))
				r.stop()
				r.put("older", "data")
			}},
		{name: "the checkpoint deleted", refused: replay.ErrCheckpointMissing, after: at(20), want: 5 + 2,
			make: func(r *refusedRig) {
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				r.edit("claim", nil)
			}},
		{name: "the checkpoint deleted, and too low an LSN named", refused: replay.ErrCheckpointMissing, after: at(12), want: 5 + 2 + 2,
			again: []replay.LSNRange{{First: 13, Last: 20}},
			make: func(r *refusedRig) {
				r.o.Sinks[0].Retain = 1 << 30
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				r.edit("claim", nil)
			}},
		{name: "a copy of the store from before what is kept", refused: replay.ErrBelowFirst, want: 5 + 2,
			make: func(r *refusedRig) {
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				r.put("store", "backup")
				r.start()
				r.bump(3) // lost with the store
				last := fill(r.t, r.p, "padding", 60)
				applied(r.t, r.p, "main", last)
				until(r.t, "space is freed, on disk", func() bool { st := r.p.Status().Log; return st.First > 40 && st.Bytes < 128<<10 })
				r.stop()
				r.put("backup", "store")
			}},
		{name: "the store of another log", refused: replay.ErrForeignStream, want: 5 + 2,
			make: func(r *refusedRig) {
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				if err := os.RemoveAll(r.o.Dir); err != nil {
					r.t.Fatal(err)
				}
			}},
		{name: "another store with the same checkpoint", refused: replay.ErrWrongStore, want: 5 + 2,
			make: func(r *refusedRig) {
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				id := uuid.New()
				r.edit("identity", id[:])
			}},
		{name: "an empty store", refused: replay.ErrWrongStore, after: at(0), want: 5 + 2,
			again: []replay.LSNRange{{First: 1, Last: 20}},
			make: func(r *refusedRig) {
				r.o.Sinks[0].Retain = 1 << 30
				r.start()
				applied(r.t, r.p, "main", r.bump(5))
				r.stop()
				if err := os.RemoveAll(r.storePath); err != nil {
					r.t.Fatal(err)
				}
			}},
	} {
		for _, running := range []bool{true, false} {
			if os.Getenv("WALPROXY_LONG") == "" && running == (i%2 == 0) {
				continue // the other way is another case's
			}
			name := c.name + ", offline"
			if running {
				name = c.name + ", running"
			}
			t.Run(name, func(t *testing.T) {
				r := newRefusedRig(t)
				c.make(r)
				r.start()
				r.refused(c.refused)
				last := r.bump(2)
				var plan *replay.Plan
				if running {
					plan = r.acceptRunning(c.after)
				} else {
					r.stop()
					plan = r.acceptOffline(c.after)
					r.start()
				}
				if plan == nil {
					return
				}
				applied(t, r.p, "main", last)
				r.counts(c.want)
				never := slices.Clone(plan.Never)
				if c.refused == replay.ErrBelowFirst {
					if len(never) == 0 || never[0].Last != plan.First-1 {
						t.Errorf("never applied: %v; the log begins at %d", never, plan.First)
					}
					never = nil
				}
				if !slices.Equal(never, c.never) || !slices.Equal(plan.Again, c.again) || len(plan.Effects) == 0 {
					t.Errorf("never %v, again %v, %q; want %v, %v", never, plan.Again, plan.Effects, c.never, c.again)
				}
				if _, err := r.p.PlanAccept(t.Context(), "main", nil); !errors.Is(err, replay.ErrNothingToAccept) {
					t.Errorf("once more: %v", err)
				}
				r.stop()
				r.start()
				applied(t, r.p, "main", r.bump(1))
				r.counts(c.want + 1)
				r.stop()
			})
		}
	}
}

func (r *refusedRig) acceptRunning(after *walproxy.LSN) *replay.Plan {
	r.t.Helper()
	if after != nil {
		if _, err := r.p.PlanAccept(r.t.Context(), "main", nil); !errors.Is(err, replay.ErrAfterNeeded) {
			r.t.Fatalf("without after: %v", err)
		}
	}
	plan, err := r.p.PlanAccept(r.t.Context(), "main", after)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.p.AcceptSink(r.t.Context(), "main", after, "another"); !errors.Is(err, walproxy.ErrPlanChanged) {
		r.t.Errorf("another token: %v", err)
	}
	if _, err := r.p.AcceptSink(r.t.Context(), "main", after, plan.Token()); err != nil {
		r.t.Fatal(err)
	}
	return plan
}

func (r *refusedRig) acceptOffline(after *walproxy.LSN) (plan *replay.Plan) {
	r.t.Helper()
	r.open()
	defer r.stop()
	refusal := errors.New("no")
	if err := walproxy.Accept(r.t.Context(), r.o, "main", after, func(*replay.Plan) error { return refusal }); !errors.Is(err, refusal) {
		r.t.Fatalf("decided against: %v", err)
	}
	if after != nil {
		err := walproxy.Accept(r.t.Context(), r.o, "main", nil, func(p *replay.Plan) error {
			if p.Complete() {
				r.t.Errorf("a plan without after: %+v", p)
			}
			return nil
		})
		if !errors.Is(err, replay.ErrAfterNeeded) {
			r.t.Fatalf("without after: %v", err)
		}
	}
	if err := walproxy.Accept(r.t.Context(), r.o, "main", after, func(p *replay.Plan) error { plan = p; return nil }); err != nil {
		r.t.Fatal(err)
	}
	err := walproxy.Accept(r.t.Context(), r.o, "main", after, func(*replay.Plan) error { return nil })
	if !errors.Is(err, replay.ErrNothingToAccept) {
		r.t.Errorf("accepted twice: %v", err)
	}
	return plan
}

func offlineState(t *testing.T, dir string) *state.Store {
	t.Helper()
	st, err := state.Open(filepath.Join(dir, "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// What cannot be is refused, and nothing is changed.
func TestAcceptRefuses(t *testing.T) {
	r := newRefusedRig(t)
	r.start()
	applied(t, r.p, "main", r.bump(5))
	if _, err := r.p.PlanAccept(t.Context(), "nobody", nil); !errors.Is(err, walproxy.ErrNoSink) {
		t.Errorf("no such sink: %v", err)
	}
	r.stop()
	r.edit("claim", nil)
	r.start()
	r.refused(replay.ErrCheckpointMissing)
	for _, lsn := range []walproxy.LSN{21, 1000} {
		if _, err := r.p.PlanAccept(t.Context(), "main", &lsn); !errors.Is(err, replay.ErrAfterUnfit) {
			t.Errorf("after %d: %v", lsn, err)
		}
	}
	// What was accepted holds for the store as it was shown.
	lsn := walproxy.LSN(20)
	plan, err := r.p.PlanAccept(t.Context(), "main", &lsn)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.open()
	st := offlineState(t, r.o.Dir)
	log, err := wal.Open(filepath.Join(r.o.Dir, "log"), wal.Options{MinFree: -1, Attach: st.Bind})
	if err != nil {
		t.Fatal(err)
	}
	loop, err := replay.New(log, st, r.store, replay.Options{Name: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(loop.Accept(plan), log.Close(), st.Close()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	id := uuid.New()
	r.edit("identity", id[:])
	r.start()
	r.refused(replay.ErrAccepted)
	r.counts(5)
	r.stop()
}

// A crash behind the store's change and before the state store knows of it leaves
// it to be found done.
func TestAcceptIsFoundDone(t *testing.T) {
	r := newRefusedRig(t)
	r.start()
	applied(t, r.p, "main", r.bump(5))
	r.stop()
	r.edit("claim", nil)
	r.open()
	st := offlineState(t, r.o.Dir)
	log, err := wal.Open(filepath.Join(r.o.Dir, "log"), wal.Options{MinFree: -1, Attach: st.Bind})
	if err != nil {
		t.Fatal(err)
	}
	loop, err := replay.New(log, st, r.store, replay.Options{Name: "main", Lanes: 2})
	if err != nil {
		t.Fatal(err)
	}
	lsn := walproxy.LSN(20)
	plan, err := loop.PlanAccept(t.Context(), &lsn)
	if err == nil {
		err = loop.Accept(plan)
	}
	if err == nil { // as CarryOut does, and then the power goes
		err = r.store.Rebase(t.Context(), "me", plan.Found, plan.Target)
	}
	if err := errors.Join(err, log.Close(), st.Close()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start()
	applied(t, r.p, "main", r.bump(1))
	r.counts(6)
	r.stop()
}
