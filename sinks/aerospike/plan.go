package aerospike

import (
	"fmt"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// plan is what is to be done to a record that was read.
type plan struct {
	covered int            // so many steps need no write: the guard has them, or they do nothing
	write   *as.BatchWrite // nil: nothing
	leaves  written        // by the write
	writes  int            // so many steps after those are in it
	fault   error          // of the record after those, which can never apply; *mutation.RejectedError
	faulty  int            // so many steps are of that record
}

// draft is a record in the middle of a plan.
type draft struct {
	document *mutation.Document
	events   []any // appended
	cleared  bool  // the events there were are gone
}

// plan computes what w's steps do to st. A record's steps are done together or not
// at all. With w.singly the write is of one record.
func (w *work) plan(st *stored, guard string, now time.Time) *plan {
	p := &plan{}
	steps := w.steps
	for len(steps) > 0 && steps[0].lsn <= st.guard {
		steps, p.covered = steps[1:], p.covered+1
	}
	d := &draft{document: st.document}
	changed := false
	for len(steps) > 0 && !(w.singly && changed) {
		n := sameRecord(steps)
		next, did, err := d.apply(steps[:n])
		if err != nil {
			p.fault, p.faulty = err, n
			break
		}
		d, changed = next, changed || did
		if changed {
			p.writes += n
		} else {
			p.covered += n
		}
		steps = steps[n:]
	}
	if !changed {
		return p
	}
	done := w.steps[p.covered : p.covered+p.writes]
	var err error
	if p.write, p.leaves, err = w.write(st, d, done, guard, now); err != nil {
		if sameRecord(done) < len(done) {
			w.singly = true // which of them is it
			return w.plan(st, guard, now)
		}
		p.fault, p.faulty, p.writes = err, len(done), 0
	}
	return p
}

// sameRecord is how many of the steps, from the first, are of one record.
func sameRecord(steps []step) int {
	n := 1
	for n < len(steps) && steps[n].record == steps[0].record {
		n++
	}
	return n
}

// apply does the steps of one record, or with an error nothing.
func (d *draft) apply(steps []step) (next *draft, changed bool, err error) {
	next = &draft{d.document, slices.Clip(d.events), d.cleared}
	for _, s := range steps {
		if err := fieldsFault(s.m); err != nil {
			return nil, false, err
		}
		if err := versionless(next.document, s.m); err != nil {
			return nil, false, err
		}
		effect, err := mutation.Apply(next.document, s.m, s.lsn, s.accepted)
		if err != nil {
			return nil, false, err
		}
		if effect.Unchanged {
			changed = changed || hasDelete(s.m) // its guard may have to stay
			continue
		}
		changed = true
		if effect.DropEvents || effect.Document == nil {
			next.events, next.cleared = nil, true
		}
		for i, e := range effect.Events {
			item, reason := eventItem(e, s.lsn)
			if reason != "" {
				return nil, false, &mutation.RejectedError{Field: fmt.Sprintf("append_event.events[%d]", i), Reason: reason}
			}
			next.events = append(next.events, item)
		}
		next.document = effect.Document
	}
	return next, changed, nil
}

// versionless refuses version 0, "it must not exist", of a record that somebody
// else wrote, which has no version.
func versionless(d *mutation.Document, m *walproxyv1.Mutation) error {
	p, ok := m.GetPrecondition().GetKind().(*walproxyv1.Precondition_IfVersion)
	if ok && p.IfVersion == 0 && d != nil && d.Version == 0 {
		return &mutation.RejectedError{Field: "precondition", Reason: "the record exists; it was not written through walproxy and has no version"}
	}
	return nil
}

// write is the entry that makes st what d is, if nobody has written in between.
func (w *work) write(st *stored, d *draft, done []step, guard string, now time.Time) (*as.BatchWrite, written, error) {
	var life uint32
	var err error
	ended := d.document == nil
	if !ended && d.document.ExpiresAt.Equal(untouched) {
		life = as.TTLDontUpdate
	} else if !ended {
		if life, ended, err = lifeOf(d.document.ExpiresAt, now); err != nil {
			return nil, written{}, err
		}
	}
	if ended {
		entry := w.removal(guard, done)
		unchanged(entry.Policy, st, as.REPLACE)
		return entry, written{dead: true}, nil
	}
	ops, err := d.operations(st)
	if err != nil {
		return nil, written{}, err
	}
	p := as.NewBatchWritePolicy()
	p.FilterExpression, p.Expiration, p.SendKey = guarded(guard, w.floor, first(done)), life, w.place.sendKey
	unchanged(p, st, as.UPDATE)
	entry := as.NewBatchWrite(p, w.key, append(ops, as.PutOp(as.NewBin(guard, int64(last(done)))))...)
	return entry, written{expires: ends(life, now)}, nil
}

// unchanged has a write done only if the record is as it was read.
func unchanged(p *as.BatchWritePolicy, st *stored, action as.RecordExistsAction) {
	p.RecordExistsAction = as.CREATE_ONLY
	if st.generation != 0 {
		p.RecordExistsAction, p.GenerationPolicy, p.Generation = action, as.EXPECT_GEN_EQUAL, st.generation
	}
}

// operations make st's bins those of d. What is the same is not sent, so that what
// walproxy has no value for stays as it is.
func (d *draft) operations(st *stored) ([]*as.Operation, error) {
	var ops []*as.Operation
	var before map[string]*walproxyv1.Value
	if st.document != nil {
		before = st.document.Fields
	}
	for name := range before {
		if _, stays := d.document.Fields[name]; !stays {
			ops = append(ops, as.PutOp(as.NewBin(name, nil)))
		}
	}
	for name, v := range d.document.Fields {
		if old, was := before[name]; was && old == v {
			continue
		}
		bin, reason := toBin(v)
		if reason != "" {
			return nil, &mutation.RejectedError{Field: "fields." + name, Reason: reason}
		}
		if bin == nil && before[name] == nil {
			continue
		}
		ops = append(ops, as.PutOp(as.NewBin(name, bin)))
	}
	if st.dead {
		ops = append(ops, as.PutOp(as.NewBin(binDead, nil)))
	}
	switch {
	case d.cleared && len(d.events) > 0:
		ops = append(ops, as.PutOp(as.NewBin(binEvents, d.events)))
	case d.cleared && st.document != nil && st.document.EventCount > 0:
		ops = append(ops, as.PutOp(as.NewBin(binEvents, nil)))
	case !d.cleared && len(d.events) > 0:
		ops = append(ops, as.ListAppendOp(binEvents, d.events...))
	}
	return ops, nil
}
