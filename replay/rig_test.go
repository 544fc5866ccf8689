package replay

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

func TestMain(m *testing.M) {
	// Rapid's default of 100 checks is too long beside other tests; the command
	// line, parsed later, still decides.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test.
const patience = 30 * time.Second

// fataler is what *testing.T and *rapid.T share.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// rig is a real log and state store with the model of what was written.
type rig struct {
	t     fataler
	dir   string
	log   *wal.Log
	state *state.Store
	model map[string]*modelRow // by key; what a correct store holds
	dead  map[wal.LSN]modelLetter
	wrote map[wal.LSN][]*walproxyv1.Mutation // what dead letters are retried with
	skip  bool                               // the policy is Skip
	clock int64                              // accepted time of the next write
	seg   int64                              // wal.Options.SegmentBytes
	limit int64                              // wal.Options.MaxBytes
}

type modelRow struct {
	document *mutation.Document
	events   []wal.LSN // LSN of each event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), model: map[string]*modelRow{}}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	r.log, err = wal.Open(filepath.Join(r.dir, "log"), wal.Options{
		MinFree: -1, SegmentBytes: r.seg, MaxBytes: r.limit,
		Attach: func(stream uuid.UUID, empty bool, newest uint64) (uint64, error) {
			if r.state, err = state.Open(filepath.Join(r.dir, "state"), state.Options{}); err != nil {
				return 0, err
			}
			return r.state.Bind(stream, empty, newest)
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) close() {
	if r.log == nil {
		return
	}
	if err := errors.Join(r.state.Close(), r.log.Close()); err != nil {
		r.t.Errorf("close: %v", err)
	}
	r.log, r.state = nil, nil
}

// crash goes on with copies of the files as they are while log and state store
// are open: what kill -9 leaves. A new incarnation begins.
func (r *rig) crash() {
	r.t.Helper()
	next := r.dir + "+"
	for attempt := 0; ; attempt++ {
		err := os.CopyFS(next, os.DirFS(r.dir))
		if err == nil {
			break
		}
		// Files come and go while the log frees space and Pebble compacts.
		if rerr := os.RemoveAll(next); !errors.Is(err, os.ErrNotExist) || attempt == 100 || rerr != nil {
			r.t.Fatal(err, rerr)
		}
	}
	r.close()
	if err := errors.Join(os.RemoveAll(r.dir), os.Rename(next, r.dir)); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// bump is a write whose double application shows: a counter and an event.
func bump(key string) *walproxyv1.Mutation {
	one := map[string]*walproxyv1.Value{"n": mutation.Int64Value(1)}
	return mutation.New("c", mutation.String(key), []*walproxyv1.Op{
		mutation.IncrementOp(one), mutation.AppendEventOp(&walproxyv1.Event{Fields: one}),
	})
}

// write logs one record per group of mutations, routed to the sink "main", and
// returns when all are durable.
func (r *rig) write(records ...[]*walproxyv1.Mutation) (last wal.LSN) {
	r.t.Helper()
	return r.writeTo([]string{"main"}, records...)
}

func (r *rig) writeTo(routes []string, records ...[]*walproxyv1.Mutation) (last wal.LSN) {
	r.t.Helper()
	return r.writeFrom(0, routes, records...)
}

// retry logs the dead letter of origin again, as a retry of it does.
func (r *rig) retry(origin wal.LSN, ms []*walproxyv1.Mutation) wal.LSN {
	r.t.Helper()
	return r.writeFrom(origin, []string{"main"}, ms)
}

func (r *rig) writeFrom(origin wal.LSN, routes []string, records ...[]*walproxyv1.Mutation) (last wal.LSN) {
	r.t.Helper()
	last = r.queueFrom(origin, routes, records...)
	r.awaitDurable()
	return last
}

func (r *rig) awaitDurable() {
	r.t.Helper()
	if err := r.log.WaitDurable(context.Background(), r.log.Appended()); err != nil {
		r.t.Fatal(err)
	}
}

// queueFrom does not wait until the records are durable.
func (r *rig) queueFrom(origin wal.LSN, routes []string, records ...[]*walproxyv1.Mutation) (last wal.LSN) {
	r.t.Helper()
	for _, ms := range records {
		r.clock++
		body := &walproxyv1.Record{Format: 1, AcceptedUnixNanos: r.clock, Routes: routes}
		if origin != 0 {
			body.Origin = &walproxyv1.Origin{Lsn: uint64(origin), Sink: "main"}
		}
		if len(ms) == 1 {
			body.Body = &walproxyv1.Record_Mutation{Mutation: ms[0]}
		} else {
			group := &walproxyv1.Group{}
			for _, m := range ms {
				group.Members = append(group.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
			}
			body.Body = &walproxyv1.Record_Group{Group: group}
		}
		payload, err := mutation.Encode(nil, body)
		if err != nil {
			r.t.Fatal(err)
		}
		last = r.append(payload)
		if slices.Contains(routes, "main") {
			r.apply(ms, last, origin)
		}
	}
	return last
}

// append queues a payload.
func (r *rig) append(payload []byte) wal.LSN {
	r.t.Helper()
	ticket, err := r.log.Enqueue(context.Background(), payload)
	if err != nil {
		r.t.Fatal(err)
	}
	return ticket.LSN
}

// modelLetter is a dead letter of the serial model.
type modelLetter struct {
	lsn, position wal.LSN
	kind          state.Kind
	parks         bool
	attempts      uint64
	keys          []string
}

// apply does to the model what applying the log one record after the other has
// to do.
func (r *rig) apply(ms []*walproxyv1.Mutation, lsn, origin wal.LSN) {
	letter := modelLetter{lsn: lsn, position: lsn}
	for _, m := range ms {
		if key := m.GetKey().GetString_(); !slices.Contains(letter.keys, key) {
			letter.keys = append(letter.keys, key)
		}
	}
	if origin != 0 {
		named, ok := r.dead[origin]
		if !ok {
			return // retried before
		}
		letter.position, letter.attempts = named.position, named.attempts
		delete(r.dead, origin)
	}
	for _, d := range r.dead {
		if d.parks && d.position < letter.position && slices.ContainsFunc(d.keys, func(k string) bool { return slices.Contains(letter.keys, k) }) {
			letter.kind, letter.parks = state.Parked, true
		}
	}
	if letter.kind == 0 && r.stage(ms, lsn) != nil {
		letter.kind, letter.parks = state.Rejected, !r.skip
		letter.attempts++
	}
	if letter.kind != 0 {
		if r.dead == nil {
			r.dead, r.wrote = map[wal.LSN]modelLetter{}, map[wal.LSN][]*walproxyv1.Mutation{}
		}
		r.dead[lsn] = letter
		r.wrote[lsn] = ms
	}
}

// stage applies all of ms or, with an error, none.
func (r *rig) stage(ms []*walproxyv1.Mutation, lsn wal.LSN) error {
	staged := map[string]*modelRow{}
	for _, m := range ms {
		key := m.GetKey().GetString_()
		row := modelRow{}
		if old := cmp.Or(staged[key], r.model[key]); old != nil {
			row = modelRow{old.document, slices.Clip(old.events)}
		}
		effect, err := mutation.Apply(row.document, m, lsn, time.Unix(0, r.clock))
		if err != nil {
			return err
		}
		if !effect.Unchanged {
			if effect.DropEvents {
				row.events = nil
			}
			for range effect.Events {
				row.events = append(row.events, lsn)
			}
			row.document = effect.Document
		}
		staged[key] = &row
	}
	maps.Copy(r.model, staged)
	return nil
}

// queue is the model's dead letters of a key in the order of their queue.
func (r *rig) queue(key string) (queue []modelLetter) {
	for _, d := range r.dead {
		if slices.Contains(d.keys, key) {
			queue = append(queue, d)
		}
	}
	slices.SortFunc(queue, func(a, b modelLetter) int { return cmp.Compare(a.position, b.position) })
	return queue
}

// checkLetters compares the dead letters, and the queue of every key.
func (r *rig) checkLetters(l *Loop) {
	r.t.Helper()
	stored, err := l.Letters().List(0, 1<<30)
	if err != nil {
		r.t.Fatal(err)
	}
	var got, want []modelLetter
	for _, d := range stored {
		got = append(got, r.modelOf(d))
		if d.Sink != "main" || d.Reason == "" || d.When.IsZero() {
			r.t.Errorf("dead letter %+v: not self-contained", d)
		}
	}
	for _, lsn := range slices.Sorted(maps.Keys(r.dead)) {
		want = append(want, r.dead[lsn])
	}
	if !reflect.DeepEqual(got, want) {
		r.t.Fatalf("dead letters\n%+v, want\n%+v", got, want)
	}
	parked := 0
	for _, key := range slices.Sorted(maps.Keys(r.keys())) {
		want := r.queue(key)
		letters, err := l.Letters().Of(mutation.AppendKey(nil, "c", mutation.String(key)), 1<<30)
		if err != nil {
			r.t.Fatal(err)
		}
		var got []modelLetter
		for _, d := range letters {
			got = append(got, r.modelOf(d))
		}
		if !reflect.DeepEqual(got, want) {
			r.t.Fatalf("queue of %s:\n%+v, want\n%+v", key, got, want)
		}
		first := slices.IndexFunc(want, func(d modelLetter) bool { return d.parks })
		lsn, ok, err := l.Parked("c", mutation.String(key))
		if err != nil || ok != (first >= 0) || ok && lsn != want[first].lsn {
			r.t.Fatalf("Parked(%s): %d, %v, %v; want %+v", key, lsn, ok, err, want)
		}
		if ok {
			parked++
		}
	}
	if s := l.Status(); s.DeadLetters != uint64(len(want)) || s.ParkedKeys != parked || (s.DeadLetterBytes > 0) != (len(want) > 0) {
		r.t.Errorf("%+v, want %d dead letters that park %d keys", s, len(want), parked)
	}
}

func (r *rig) keys() map[string]bool {
	keys := map[string]bool{}
	for key := range r.model {
		keys[key] = true
	}
	for _, d := range r.dead {
		for _, key := range d.keys {
			keys[key] = true
		}
	}
	return keys
}

// modelOf is d as the model has it. Its payload must be the record's.
func (r *rig) modelOf(d state.DeadLetter) modelLetter {
	r.t.Helper()
	body, err := d.Record()
	if err != nil {
		r.t.Fatal(err)
	}
	m := modelLetter{lsn: d.LSN, position: d.Position, kind: d.Kind, parks: d.Parks, attempts: d.Attempts}
	mutation.Keys(body, func(_ string, key *walproxyv1.Key) {
		if !slices.Contains(m.keys, key.GetString_()) {
			m.keys = append(m.keys, key.GetString_())
		}
	})
	return m
}

// bumps makes n records over keys keys.
func bumps(n, keys int) (records [][]*walproxyv1.Mutation) {
	for i := range n {
		records = append(records, []*walproxyv1.Mutation{bump(fmt.Sprint("k", i%keys))})
	}
	return records
}

// check compares the store with the model: every write once, in order.
func (r *rig) check(store sinks.Reader) {
	r.t.Helper()
	for _, key := range slices.Sorted(maps.Keys(r.model)) {
		want := r.model[key]
		got, err := store.Read(context.Background(), "c", mutation.String(key))
		if want.document == nil {
			if !errors.Is(err, mutation.ErrNotFound) {
				r.t.Errorf("key %s: %v, %v; want not found", key, got, err)
			}
			continue
		}
		if err != nil {
			r.t.Errorf("key %s: %v", key, err)
			continue
		}
		if got.Version != want.document.Version || got.EventCount != want.document.EventCount ||
			!maps.EqualFunc(got.Fields, want.document.Fields, func(a, b *walproxyv1.Value) bool { return proto.Equal(a, b) }) {
			r.t.Errorf("key %s: %+v, want %+v", key, got, want.document)
		}
		events, err := store.ReadEvents(context.Background(), "c", mutation.String(key), 1, 1<<30)
		if err != nil {
			r.t.Errorf("key %s: events: %v", key, err)
		}
		var lsns []wal.LSN
		for i, e := range events {
			if e.Number != uint64(i+1) {
				r.t.Errorf("key %s: event %d has number %d", key, i+1, e.Number)
			}
			lsns = append(lsns, e.LSN)
		}
		if !slices.Equal(lsns, want.events) {
			r.t.Errorf("key %s: events of LSNs %v, want %v", key, lsns, want.events)
		}
	}
}

// fast are options that make a test quick.
func fast() Options {
	o := Options{Name: "main", Owner: "test"}
	o.RetryMin, o.RetryMax = time.Millisecond, 5*time.Millisecond
	o.Batch.Linger, o.Batch.Rest = time.Millisecond, -1
	o.OnReject = func(string) Policy { return ParkKey }
	return o
}

func (r *rig) loop(sink sinks.Sink, o Options) *Loop {
	r.t.Helper()
	l, err := New(r.log, r.state, sink, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// running is a loop whose Run is under way.
type running struct {
	*Loop
	t      fataler
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run; read after done
}

func (r *rig) start(sink sinks.Sink, o Options) *running {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{Loop: r.loop(sink, o), t: r.t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.err = run.Run(ctx)
	}()
	if t, ok := r.t.(*testing.T); ok {
		t.Cleanup(func() { cancel(); <-run.done })
	}
	return run
}

// ended returns Run's error.
func (run *running) ended() error {
	run.t.Helper()
	select {
	case <-run.done:
	case <-time.After(patience):
		run.t.Fatalf("Run did not end: %+v", run.Status())
	}
	run.cancel()
	return run.err
}

// stop cancels Run and returns its error.
func (run *running) stop() error {
	run.t.Helper()
	run.cancel()
	return run.ended()
}

// await waits until lsn is applied.
func (run *running) await(lsn wal.LSN) {
	run.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run.Wait(ctx, lsn); err != nil {
		run.t.Fatalf("Wait(%d): %v; %+v", lsn, err, run.Status())
	}
}

// eventually polls cond, an observable, until it holds.
func eventually(t fataler, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// awaitCall waits until a call of f satisfies cond.
func awaitCall(t fataler, f *sinktest.Faulty, what string, cond func(sinktest.Call) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.Await(ctx, func() bool { return slices.ContainsFunc(f.Calls(), cond) }); err != nil {
		t.Fatalf("never happened: %s: %v", what, err)
	}
}

// copyDir copies the files of a directory that may be in use.
func copyDir(t fataler, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
