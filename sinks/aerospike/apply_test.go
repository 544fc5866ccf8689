package aerospike

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"
	dto "github.com/prometheus/client_model/go"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

const collection = "things"

// noWindow knows nothing of what was applied.
type noWindow struct{}

func (noWindow) floor(Place, [20]byte) sinks.LSN                  { return 0 }
func (noWindow) note(Place, [20]byte, sinks.LSN, bool, time.Time) {}
func (noWindow) wrote(sinks.LSN)                                  {}
func (noWindow) lost(context.Context) error                       { return nil }

// direct applies records to a store as Apply does, without owner and checkpoints.
type direct struct {
	*testing.T
	s      *Sink
	guard  string
	window window
	lsn    sinks.LSN
}

func newDirect(t *testing.T, o Options) *direct {
	t.Helper()
	return &direct{T: t, s: open(t, o), guard: guardName(uuid.New()), window: noWindow{}}
}

// batch makes a record of each mutation.
func (d *direct) batch(ms ...*walproxyv1.Mutation) *sinks.Batch {
	b := &sinks.Batch{}
	for _, m := range ms {
		d.lsn++
		if err := mutation.Validate(m); err != nil {
			d.Fatal(err)
		}
		b.Records = append(b.Records, sinks.Record{LSN: d.lsn, Accepted: time.Now(),
			Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: m}}})
	}
	return b
}

func (d *direct) apply(b *sinks.Batch) []sinks.Result {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	return d.applyCtx(ctx, b)
}

func (d *direct) applyCtx(ctx context.Context, b *sinks.Batch) []sinks.Result {
	d.Helper()
	ctx, leave, err := d.s.calls.Enter(ctx)
	if err != nil {
		d.Fatal(err)
	}
	defer leave()
	phases, err := d.s.phases(b)
	if err != nil {
		d.Fatal(err)
	}
	client, err := d.s.client(ctx)
	if err != nil {
		return sinks.Results(len(b.Records), sinks.OutcomeOf(err), err)
	}
	a := &applier{sink: d.s, client: client, guard: d.guard, window: d.window, results: make([]sinks.Result, len(b.Records))}
	a.run(ctx, phases)
	return a.results
}

// read is how many keys were read before they were written.
func (d *direct) read() float64 {
	d.Helper()
	var m dto.Metric
	if err := d.s.metrics.careful.Write(&m); err != nil {
		d.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// want applies and compares the outcomes.
func (d *direct) want(b *sinks.Batch, outcomes ...sinks.Outcome) []sinks.Result {
	d.Helper()
	results := d.apply(b)
	for i, r := range results {
		if r.Outcome != outcomes[min(i, len(outcomes)-1)] {
			d.Fatalf("LSN %v is %v (%v), want %v", b.Records[i].LSN, r.Outcome, r.Err, outcomes)
		}
	}
	return results
}

// record reads a record as it is.
func (d *direct) record(name string) *as.Record {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	r, err := d.tryRecord(ctx, name)
	if err != nil {
		d.Fatal(err)
	}
	return r
}

func (d *direct) tryRecord(ctx context.Context, name string) (*as.Record, error) {
	client, err := d.s.client(ctx)
	if err != nil {
		return nil, err
	}
	key, _, err := d.s.o.keyOf(collection, mutation.String(name))
	if err != nil {
		return nil, err
	}
	return d.s.get(ctx, client, key, nil)
}

// document reads a record as a reader sees it; nil: it is absent.
func (d *direct) document(name string) *mutation.Document {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	r, err := d.tryRecord(ctx, name)
	if codeOf(err) == 2 {
		return nil
	}
	if err != nil {
		d.Fatal(err)
	}
	doc, err := documentOf(r, d.guard, time.Now())
	if errors.Is(err, mutation.ErrNotFound) {
		return nil
	}
	if err != nil {
		d.Fatal(err)
	}
	return doc
}

// fields wants exactly these of a record; nil: that it is absent.
func (d *direct) fields(name string, want map[string]any) {
	d.Helper()
	doc := d.document(name)
	if doc == nil || want == nil {
		if (doc == nil) != (want == nil) {
			d.Fatalf("%s is %v, want %v", name, doc, want)
		}
		return
	}
	if got := mutation.FieldsToAny(doc.Fields); fmt.Sprint(got) != fmt.Sprint(want) {
		d.Fatalf("%s holds %v, want %v", name, got, want)
	}
}

func key(name string) *walproxyv1.Key { return mutation.String(name) }

func must(m *walproxyv1.Mutation, err error) *walproxyv1.Mutation {
	if err != nil {
		panic(err)
	}
	return m
}

type fields = map[string]any

func set(name string, f fields, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Set(collection, key(name), f, o...))
}

func merge(name string, f fields, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Merge(collection, key(name), f, o...))
}

func add(name string, n int64, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Increment(collection, key(name), fields{"n": n}, o...))
}

func write(name, text string) *walproxyv1.Mutation {
	return must(mutation.Append(collection, key(name), fields{"text": text}))
}

func remove(name string) *walproxyv1.Mutation { return mutation.Delete(collection, key(name)) }

func event(name string, n int64) *walproxyv1.Mutation {
	return must(mutation.AppendEvents(collection, key(name), []map[string]any{{"n": n}}))
}

// TestBlind: what a server can do by itself is one message, and nothing is read;
// what it cannot is read. Both lead to the same.
func TestBlind(t *testing.T) {
	t.Parallel()
	list := func(items ...any) []any { return items }
	for _, c := range []struct {
		name    string
		before  []*walproxyv1.Mutation
		batch   []*walproxyv1.Mutation
		careful float64 // keys that are read
		want    fields
	}{
		{"set", nil, []*walproxyv1.Mutation{set("k", fields{"a": int64(1), "b": "x"})}, 0, fields{"a": int64(1), "b": "x"}},
		{"set over another", []*walproxyv1.Mutation{set("k", fields{"a": int64(1), "old": true})},
			[]*walproxyv1.Mutation{set("k", fields{"a": int64(2)})}, 0, fields{"a": int64(2)}},
		{"set and alter", nil, []*walproxyv1.Mutation{set("k", fields{"n": int64(1)}), add("k", 2), write("k", "x"), merge("k", fields{"b": nil})},
			0, fields{"n": int64(3), "text": "x"}},
		{"nothing in it", nil, []*walproxyv1.Mutation{set("k", fields{})}, 0, fields{}},
		{"sums", []*walproxyv1.Mutation{add("k", 1)}, []*walproxyv1.Mutation{add("k", 10), add("k", 100), add("k", -1)}, 0, fields{"n": int64(110)}},
		{"texts", []*walproxyv1.Mutation{write("k", "b")}, []*walproxyv1.Mutation{write("k", "c"), write("k", "d"),
			must(mutation.Prepend(collection, key("k"), fields{"text": "a"}))}, 0, fields{"text": "abcd"}},
		{"bytes", nil, []*walproxyv1.Mutation{must(mutation.Append(collection, key("k"), fields{"b": []byte{2}})),
			must(mutation.Prepend(collection, key("k"), fields{"b": []byte{1}}))}, 0, fields{"b": []byte{1, 2}}},
		{"lists", nil, []*walproxyv1.Mutation{must(mutation.Append(collection, key("k"), fields{"l": list(int64(2))})),
			must(mutation.Append(collection, key("k"), fields{"l": list(int64(3), nil)})),
			must(mutation.Prepend(collection, key("k"), fields{"l": list(int64(0), int64(1))}))}, 0,
			fields{"l": list(int64(0), int64(1), int64(2), int64(3), nil)}},
		{"unset", []*walproxyv1.Mutation{set("k", fields{"a": int64(1), "b": int64(2)})},
			[]*walproxyv1.Mutation{mutation.Unset(collection, key("k"), []string{"a", "never"})}, 0, fields{"b": int64(2)}},
		{"unset of nothing", nil, []*walproxyv1.Mutation{mutation.Unset(collection, key("k"), []string{"a"})}, 0, nil},
		{"touch", []*walproxyv1.Mutation{set("k", fields{"a": int64(1)})}, []*walproxyv1.Mutation{mutation.Touch(collection, key("k"))}, 0, fields{"a": int64(1)}},
		{"touch of nothing", nil, []*walproxyv1.Mutation{mutation.Touch(collection, key("k"))}, 0, nil},
		{"delete", []*walproxyv1.Mutation{set("k", fields{"a": int64(1)})}, []*walproxyv1.Mutation{remove("k")}, 0, nil},
		{"delete and set", []*walproxyv1.Mutation{event("k", 1), add("k", 1)}, []*walproxyv1.Mutation{remove("k"), set("k", fields{"a": int64(1)})}, 0, fields{"a": int64(1)}},

		{"set keeps events", []*walproxyv1.Mutation{event("k", 1)}, []*walproxyv1.Mutation{set("k", fields{"a": int64(1)})}, 1, fields{"a": int64(1)}},
		{"after a delete", []*walproxyv1.Mutation{set("k", fields{"a": int64(1)}), remove("k")}, []*walproxyv1.Mutation{add("k", 1)}, 1, fields{"n": int64(1)}},
		{"a sum of doubles", nil, []*walproxyv1.Mutation{must(mutation.Increment(collection, key("k"), fields{"n": 0.5}))}, 1, fields{"n": 0.5}},
		{"a number to a double", []*walproxyv1.Mutation{set("k", fields{"n": 0.5})}, []*walproxyv1.Mutation{add("k", 1)}, 1, fields{"n": 1.5}},
		{"decimals", []*walproxyv1.Mutation{set("k", fields{"n": mutation.Decimal("0.10")})}, []*walproxyv1.Mutation{add("k", 1)}, 1, fields{"n": mutation.Decimal("1.10")}},
		{"a sum after a value", nil, []*walproxyv1.Mutation{merge("k", fields{"n": int64(1)}), add("k", 1)}, 1, fields{"n": int64(2)}},
		{"empty text", nil, []*walproxyv1.Mutation{write("k", "")}, 1, fields{"text": ""}},
		{"if absent", nil, []*walproxyv1.Mutation{add("k", 1, mutation.IfAbsent())}, 1, fields{"n": int64(1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDirect(t, options(t))
			for _, m := range c.before {
				d.want(d.batch(m), sinks.Applied)
			}
			before := d.read()
			b := d.batch(c.batch...)
			d.want(b, sinks.Applied)
			if read := d.read() - before; read != c.careful {
				t.Errorf("%v keys were read before they were written, want %v", read, c.careful)
			}
			d.fields("k", c.want)
			for range 2 { // sent again
				d.want(b, sinks.Applied)
				d.fields("k", c.want)
			}
			if doc := d.document("k"); doc != nil && doc.Version != d.lsn {
				t.Errorf("version %v, want %v", doc.Version, d.lsn)
			}
		})
	}
}

// TestRejected: what can never apply is said of the record that is to blame; what
// stands before it is applied, what follows waits.
func TestRejected(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxBin+1)
	for _, c := range []struct {
		name string
		bad  *walproxyv1.Mutation
		why  string
	}{
		{"overflow", add("k", math.MaxInt64), "overflows int64"},
		{"a number to a text", must(mutation.Increment(collection, key("k"), fields{"text": int64(1)})), "cannot be added"},
		{"a text to a number", must(mutation.Append(collection, key("k"), fields{"n": "x"})), "cannot be joined"},
		{"a list to a number", must(mutation.Append(collection, key("k"), fields{"n": []any{int64(1)}})), "cannot be joined"},
		{"a precondition", add("k", 1, mutation.IfAbsent()), "exists with version"},
		{"a long name", merge("k", fields{long: true}), "at most 15"},
		{"a reserved name", merge("k", fields{"wp.x": true}), "reserved for walproxy"},
		{"a reserved map", merge("k", fields{"m": fields{"$decimal": "1"}}), "which is reserved"},
		{"a far end", merge("k", fields{"a": true}, mutation.ExpiresAt(time.Now().AddDate(11, 0, 0))), "10 years"},
		{"a large record", merge("k", fields{"a": strings.Repeat("x", 1<<20)}), "RECORD_TOO_BIG"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDirect(t, options(t))
			b := d.batch(add("k", 1), write("k", "x"), c.bad, add("k", 1), add("other", 1))
			results := d.want(b, sinks.Applied, sinks.Applied, sinks.Rejected, sinks.Retry, sinks.Applied)
			if !strings.Contains(results[2].Err.Error(), c.why) {
				t.Errorf("rejected with %q, which does not say %q", results[2].Err, c.why)
			}
			d.fields("k", fields{"n": int64(1), "text": "x"})
			d.want(&sinks.Batch{Records: b.Records[2:3]}, sinks.Rejected)
			d.want(&sinks.Batch{Records: b.Records[3:]}, sinks.Applied) // passed
			d.fields("k", fields{"n": int64(2), "text": "x"})
		})
	}
}

// TestLostAnswers: a write whose answer does not come is unknown, and sent again
// over another connection it is not done twice.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	o := options(t)
	l, err := newLinks(common.at(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.cut)
	behind := o
	behind.Hosts, behind.Timeouts = l.addrs(), Timeouts{Connect: 2 * time.Second, Socket: 2 * time.Second, Total: 2 * time.Second}
	d := newDirect(t, behind)
	d.want(d.batch(add("a", 1), set("c", fields{"n": int64(5)})), sinks.Applied)
	// The numbers are written blindly, b is read first; c goes.
	b := d.batch(add("a", 1), write("a", "x"), add("b", 1, mutation.IfAbsent()), remove("c"))
	l.lose()
	for i, r := range d.apply(b) {
		if want := unless(i == 2, sinks.Retry, sinks.Unknown); r.Outcome != want {
			t.Errorf("LSN %v without an answer is %v (%v), want %v", b.Records[i].LSN, r.Outcome, r.Err, want)
		}
	}
	again := &direct{T: t, s: open(t, o), guard: d.guard, window: noWindow{}, lsn: d.lsn}
	for range 2 {
		again.want(b, sinks.Applied)
		again.fields("a", fields{"n": int64(2), "text": "x"})
		again.fields("b", fields{"n": int64(1)})
		again.fields("c", nil)
	}
}

// TestLateWrite: a write that its sender gave up, that was sent again, and whose
// record was deleted since, arrives: the guard that the deletion left keeps it out.
func TestLateWrite(t *testing.T) {
	t.Parallel()
	o := options(t)
	l, err := newLinks(common.at(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.cut)
	behind := o
	behind.Hosts, behind.Timeouts.Total, behind.Timeouts.Socket = l.addrs(), time.Second, time.Second
	late := newDirect(t, behind)
	late.want(late.batch(add("warm", 1)), sinks.Applied)
	release := l.hold()
	b := late.batch(add("a", 1), add("b", 1))
	late.want(b, sinks.Unknown)

	now := &direct{T: t, s: open(t, o), guard: late.guard, window: noWindow{}, lsn: late.lsn}
	now.want(b, sinks.Applied)
	now.want(now.batch(remove("a")), sinks.Applied)
	release()
	// The late message is one: once b's generation says that it was tried, or its
	// connection has ended, a's was, too.
	l.drained(t)
	now.fields("a", nil)
	now.fields("b", fields{"n": int64(1)})
}

// TestContended: somebody else writes the record all the time, and neither's writes
// are lost.
func TestContended(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := d.s.client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := d.s.o.keyOf(collection, key("k"))
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan int)
	policy, err := d.s.writePolicy(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			if err := client.Add(policy, k, as.BinMap{"n": 1.0}); err == nil {
				n++
			}
		}
	}()
	for range 5 {
		b := d.batch(must(mutation.Increment(collection, key("k"), fields{"n": 0.5})))
		for {
			r := d.apply(b)[0]
			if r.Outcome == sinks.Applied {
				break
			}
			if r.Outcome != sinks.Retry {
				t.Fatalf("outcome %v (%v), want retry", r.Outcome, r.Err)
			}
		}
	}
	close(stop)
	d.fields("k", fields{"n": 2.5 + float64(<-done)})
}

// TestForeignBins: what others keep in a record, and walproxy has no value for,
// stays.
func TestForeignBins(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := d.s.client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := d.s.o.keyOf(collection, key("k"))
	if err != nil {
		t.Fatal(err)
	}
	strange := map[any]any{1: "one", 2: "two"}
	if err := client.Put(nil, k, as.BinMap{"theirs": strange, "n": 0.5}); err != nil {
		t.Fatal(err)
	}
	d.want(d.batch(add("k", 1)), sinks.Applied)
	d.want(d.batch(add("k", 1), must(mutation.Append(collection, key("k"), fields{"theirs": "x"}))), sinks.Applied, sinks.Rejected)
	r := d.record("k")
	if fmt.Sprint(r.Bins["theirs"]) != fmt.Sprint(strange) || r.Bins["n"] != 2.5 {
		t.Fatalf("the record holds %v", r.Bins)
	}
	if _, err := documentOf(r, d.guard, time.Now()); !errors.Is(err, errNoValue) {
		t.Fatalf("read as %v, want errNoValue", err)
	}
	d.want(d.batch(set("k", fields{"a": int64(1)})), sinks.Applied)
	d.fields("k", fields{"a": int64(1)})
}

// keeps is a window that remembers everything, as for a store that never settles.
type keeps struct {
	has  map[[20]byte]sinks.LSN
	gone error // what lost says
}

func (k *keeps) floor(_ Place, d [20]byte) sinks.LSN { return k.has[d] }
func (k *keeps) note(_ Place, d [20]byte, last sinks.LSN, _ bool, _ time.Time) {
	k.has[d] = max(k.has[d], last)
}
func (k *keeps) wrote(sinks.LSN)            {}
func (k *keeps) lost(context.Context) error { return k.gone }

// TestFloor: a record that has less than it is known to have is not written: what
// it lost comes first. If no node was restarted somebody else took it away, and the
// write goes on.
func TestFloor(t *testing.T) {
	t.Parallel()
	restarted := errors.New("restarted")
	for what, again := range map[string]func(d *direct) *walproxyv1.Mutation{
		"blindly":    func(*direct) *walproxyv1.Mutation { return add("k", 1) },
		"replaced":   func(*direct) *walproxyv1.Mutation { return set("k", fields{"n": int64(1)}) },
		"deleted":    func(*direct) *walproxyv1.Mutation { return remove("k") },
		"touched":    func(*direct) *walproxyv1.Mutation { return mutation.Touch(collection, key("k")) },
		"read first": func(*direct) *walproxyv1.Mutation { return add("k", 1, mutation.IfEventCount(0)) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for _, lose := range []string{"all of it", "its last write"} {
				d := newDirect(t, options(t))
				w := &keeps{has: map[[20]byte]sinks.LSN{}, gone: restarted}
				d.window = w
				d.want(d.batch(add("k", 1)), sinks.Applied)
				d.want(d.batch(again(d)), sinks.Applied) // with a floor that holds
				d.want(d.batch(set("k", fields{"n": int64(1)})), sinks.Applied)
				k, _, err := d.s.o.keyOf(collection, key("k"))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				client, err := d.s.client(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if lose == "all of it" {
					_, aerr := client.Delete(nil, k)
					if aerr != nil {
						t.Fatal(aerr)
					}
				} else if aerr := client.Put(nil, k, as.BinMap{d.guard: int(d.lsn) - 1}); aerr != nil {
					t.Fatal(aerr)
				}
				b := d.batch(again(d))
				for _, r := range d.apply(b) {
					if !errors.Is(r.Err, restarted) {
						t.Fatalf("a record that lost %s: %v (%v), want the error that a node was restarted", lose, r.Outcome, r.Err)
					}
				}
				w.gone = nil
				d.want(b, sinks.Applied)
			}
		})
	}
}

// group makes one record of several mutations.
func (d *direct) group(ms ...*walproxyv1.Mutation) *sinks.Batch {
	g := &walproxyv1.Group{}
	for _, m := range ms {
		g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
	}
	if err := mutation.ValidateGroup(g); err != nil {
		d.Fatal(err)
	}
	d.lsn++
	return &sinks.Batch{Records: []sinks.Record{{LSN: d.lsn, Accepted: time.Now(),
		Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Group{Group: g}}}}}
}

// TestGroups: a group is done whole or not at all, once; what a crash left of one
// is completed; and what stands behind a record that is not applied waits for it.
func TestGroups(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	b := d.group(add("a", 1), add("b", 1), add("a", 1))
	for range 2 {
		d.want(b, sinks.Applied)
		d.fields("a", fields{"n": int64(2)})
		d.fields("b", fields{"n": int64(1)})
	}

	d.want(d.batch(set("text", fields{"n": "text"})), sinks.Applied)
	bad := d.group(add("a", 1), add("text", 1))
	for range 2 {
		d.want(bad, sinks.Rejected)
		d.fields("a", fields{"n": int64(2)})
	}

	// Half of it was written when walproxy died.
	b = d.group(add("a", 1), add("b", 1))
	half := d.batch(add("a", 1))
	half.Records[0].LSN--
	d.want(half, sinks.Applied)
	d.want(b, sinks.Applied)
	d.fields("a", fields{"n": int64(3)})
	d.fields("b", fields{"n": int64(2)})

	// The same, and somebody else has made the rest impossible.
	b = d.group(add("a", 1), add("text", 1))
	half = d.batch(add("a", 1))
	half.Records[0].LSN--
	d.want(half, sinks.Applied)
	if r := d.want(b, sinks.Halt); !errors.Is(r[0].Err, errHalf) {
		t.Errorf("halted for %v, want errHalf", r[0].Err)
	}

	// In a batch with others.
	all := d.batch(add("x", 1), add("text", 1))
	all.Records = append(all.Records, d.group(add("x", 1), add("y", 1)).Records...)
	all.Records = append(all.Records, d.batch(add("y", 1)).Records...)
	d.want(all, sinks.Applied, sinks.Rejected, sinks.Retry, sinks.Retry)
	d.fields("x", fields{"n": int64(1)})
	d.fields("y", nil)
	all.Records = append(all.Records[:1], all.Records[2:]...) // the rejected one is passed
	d.want(all, sinks.Applied)
	d.fields("x", fields{"n": int64(2)})
	d.fields("y", fields{"n": int64(2)})
}
