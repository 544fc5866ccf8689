package looptest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// finish applies what is left and compares.
func (d *driver) finish() {
	d.t.Helper()
	for _, run := range d.startAll(false, nil).runs {
		d.finishOne(run)
	}
}

func (d *driver) finishOne(run *running) {
	d.t.Helper()
	defer d.endSink(run)
	if err := d.await(run); err != nil {
		_ = d.stop(run) // the failure tells why
		d.t.Fatalf("%s: Wait: %v; %+v", run.name, err, run.Status())
	}
	reader := d.reader(run)
	if reader == nil {
		_ = d.stop(run) // nothing can be compared
		d.t.Fatalf("%T is no sinks.Reader and Harness.Reader is missing", run.sink)
	}
	if err := d.stop(run); err != nil {
		d.t.Fatalf("%s: Run: %v", run.name, err)
	}
	_, settles := run.sink.(sinks.Settler)
	if at, durable := run.Checkpoint(), d.log.Durable(); at != durable && !settles {
		d.t.Errorf("%s: checkpoint %d, durable %d", run.name, at, durable)
	}
	for _, name := range slices.Sorted(maps.Keys(run.model.rows)) {
		d.compareRow(run, reader, run.model.rows[name])
	}
	d.compareLetters(run)
	d.compareFates(run)
}

func (d *driver) compareRow(run *running, reader sinks.Reader, want row) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name := run.name + ": " + want.collection + "/" + mutation.KeyText(want.key)
	got, err := reader.Read(ctx, want.collection, want.key)
	if want.document == nil {
		if !errors.Is(err, mutation.ErrNotFound) {
			d.t.Errorf("%s: %+v, %v; want not found", name, got, err)
		}
		return
	}
	if err != nil {
		d.t.Errorf("%s: %v", name, err)
		return
	}
	same := func(a, b *walproxyv1.Value) bool { return proto.Equal(a, b) }
	if got.Version != want.document.Version || !maps.EqualFunc(got.Fields, want.document.Fields, same) {
		d.t.Errorf("%s: version %d, %v; want version %d, %v", name, got.Version, mutation.FieldsToAny(got.Fields),
			want.document.Version, mutation.FieldsToAny(want.document.Fields))
	}
	if d.h.NoEvents {
		return
	}
	events, err := reader.ReadEvents(ctx, want.collection, want.key, 1, len(want.events)+10)
	var lsns []wal.LSN
	for _, e := range events {
		lsns = append(lsns, e.LSN)
	}
	if err != nil || !slices.Equal(lsns, want.events) {
		d.t.Errorf("%s: events of LSNs %v, %v; want %v", name, lsns, err, want.events)
	}
}

// compareLetters compares the dead letters in LSN order and every key's queue.
func (d *driver) compareLetters(run *running) {
	d.t.Helper()
	stored, err := run.Letters().List(0, 1<<20)
	d.must(err)
	d.sameLetters(run.name+": all", stored, run.model.letters())
	parked := 0
	for name := range run.model.keys() {
		stored, err := run.Letters().Of([]byte(name), 1<<20)
		d.must(err)
		queue := run.model.queue(name)
		d.sameLetters(fmt.Sprintf("%s: the queue of %q", run.name, name), stored, queue)
		collection, key, err := mutation.ParseKey([]byte(name))
		d.must(err)
		lsn, is, err := run.Parked(collection, key)
		first := slices.IndexFunc(queue, func(l letter) bool { return l.parks })
		if err != nil || is != (first >= 0) || is && lsn != queue[first].lsn {
			d.t.Errorf("%s: Parked(%q): %d, %v, %v; want %d of %v", run.name, name, lsn, is, err, first, queue)
		}
		if is {
			parked++
		}
	}
	if s := run.Status(); s.DeadLetters != uint64(len(run.model.dead)) || s.ParkedKeys != parked {
		d.t.Errorf("%s: %+v, want %d dead letters that park %d keys", run.name, s, len(run.model.dead), parked)
	}
}

func (d *driver) sameLetters(what string, got []state.DeadLetter, want []letter) {
	d.t.Helper()
	if len(got) != len(want) {
		d.t.Errorf("dead letters, %s: %d, want %d", what, len(got), len(want))
		return
	}
	for i, g := range got {
		w := want[i]
		if g.LSN != w.lsn || g.Position != w.position || g.Kind != w.kind || g.Parks != w.parks || g.Attempts != w.attempts {
			d.t.Errorf("dead letters, %s: [%d] is LSN %d, position %d, %v, parks %v, %d attempts; want LSN %d, position %d, %v, parks %v, %d attempts",
				what, i, g.LSN, g.Position, g.Kind, g.Parks, g.Attempts, w.lsn, w.position, w.kind, w.parks, w.attempts)
		}
		body, err := g.Record()
		d.must(err)
		ms, err := mutation.Mutations(body)
		d.must(err)
		if !slices.EqualFunc(ms, w.mutations, func(a, b *walproxyv1.Mutation) bool { return proto.Equal(a, b) }) {
			d.t.Errorf("dead letters, %s: LSN %d holds %v, want %v", what, g.LSN, ms, w.mutations)
		}
	}
}

// compareFates looks at every record, also those that the log no longer has.
func (d *driver) compareFates(run *running) {
	d.t.Helper()
	for _, lsn := range slices.Sorted(maps.Keys(run.model.fates)) {
		want := run.model.fate(lsn)
		if got, err := run.Fate(lsn); err != nil || got != want {
			d.t.Errorf("%s: Fate(%d): %v, %v; want %v (the log begins at %d)", run.name, lsn, got, err, want, d.log.First())
		}
	}
}
