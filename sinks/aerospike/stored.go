package aerospike

import (
	"fmt"
	"math"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// stored is a record as it was read.
type stored struct {
	generation uint32 // 0: there is none
	guard      sinks.LSN
	dead       bool // deleted; only its guard is left
	// document is nil if it was deleted or never was. Its ExpiresAt is untouched if
	// it has an end: the server alone judges that.
	document *mutation.Document
}

// untouched stands for a record's own end, which is not known here to the second.
var untouched = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// unreadable stands for a bin that walproxy has no value for. It can be kept,
// replaced and removed; whatever else wants it is rejected.
func unreadable() *walproxyv1.Value { return wrapped(0, nil) }

// need is what of a record its steps have to be told: names of bins, or nil for
// all of them.
func (w *work) need() []string {
	names := map[string]bool{}
	for _, s := range w.steps {
		for _, op := range s.m.GetOps() {
			switch k := op.GetKind().(type) {
			case *walproxyv1.Op_Set_, *walproxyv1.Op_Delete_:
				return nil
			case *walproxyv1.Op_Unset_:
				for _, name := range k.Unset.GetFields() {
					names[name] = true
				}
			}
			for name := range fieldsOf(op) {
				names[name] = true
			}
		}
	}
	list := make([]string, 0, len(names))
	for name := range names {
		if nameFault(name) == "" {
			list = append(list, name)
		}
	}
	return list
}

// read is the entry that reads what w needs. The events are counted by the server,
// unless all bins are read.
func (w *work) read(guard string) *as.BatchRead {
	p := as.NewBatchReadPolicy()
	p.ReadTouchTTLPercent = -1
	names := w.need()
	if names == nil {
		return as.NewBatchRead(p, w.key, nil)
	}
	ops := []*as.Operation{as.GetBinOp(guard), as.GetBinOp(binDead), as.ListSizeOp(binEvents)}
	for _, name := range names {
		ops = append(ops, as.GetBinOp(name))
	}
	return as.NewBatchReadOps(p, w.key, ops...)
}

// parse is the record as a document. Bins that cannot be values are unreadable.
func parse(r *as.Record, guard string) *stored {
	st := &stored{generation: r.Generation, guard: guardOf(r, guard)}
	if st.dead = r.Bins[binDead] != nil; st.dead {
		return st
	}
	d := &mutation.Document{Version: st.guard, Fields: map[string]*walproxyv1.Value{}}
	if r.Expiration != as.TTLDontExpire && r.Expiration != 0 {
		d.ExpiresAt = untouched
	}
	switch events := r.Bins[binEvents].(type) {
	case int:
		d.EventCount = uint64(events)
	case []any:
		d.EventCount = uint64(len(events))
	}
	for name, bin := range r.Bins {
		if isOwn(name) || bin == nil {
			continue
		}
		v, err := fromBin(bin)
		if err != nil {
			v = unreadable()
		}
		d.Fields[name] = v
	}
	st.document = d
	return st
}

// documentOf is a record for readers: every bin has a value, or it is an error.
func documentOf(r *as.Record, guard string, now time.Time) (*mutation.Document, error) {
	st := parse(r, guard)
	if st.document == nil {
		return nil, mutation.ErrNotFound
	}
	for name, bin := range r.Bins {
		if isOwn(name) || bin == nil {
			continue
		}
		if _, err := fromBin(bin); err != nil {
			return nil, fmt.Errorf("sink aerospike: bin %q %w", name, err)
		}
	}
	if st.document.ExpiresAt.Equal(untouched) {
		st.document.ExpiresAt = now.Add(time.Duration(min(r.Expiration, math.MaxInt32)) * time.Second).Truncate(time.Second)
	}
	return st.document, nil
}
