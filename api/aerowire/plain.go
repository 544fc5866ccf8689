package aerowire

import (
	"errors"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/cdt"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// info3CommitMaster asks not to wait for replicas, which the log makes needless.
const info3CommitMaster = 1 << 1

// unconditional reports that a write asks nothing of the record.
func (o *operation) unconditional() bool {
	return o.rawFilter == nil && o.Info1&^(codec.Info1Batch|codec.Info1Compress) == 0 && o.Info4 == 0 &&
		o.Info2&^(codec.Info2Write|codec.Info2Delete|codec.Info2DurableDelete) == 0 &&
		o.Info3&^(codec.Info3CreateOrReplace|info3CommitMaster) == 0
}

// plain reports that a write needs no answer of the store: whatever the record is,
// if the write can be done at all there is nothing to tell but that. Everything else
// is the store's to answer, also what is wrong with a message. An error is noRoom.
func (o *operation) plain(limit int) (bool, error) {
	if !o.unconditional() || o.calls() || o.oddKey() || o.Info2 != codec.Info2Write || o.TTL > ttlMax && o.TTL != ttlNever && o.TTL != ttlDontUpdate {
		return false, nil
	}
	leaves := false // a record without bins is none, which the store has to see to
	for i := range o.Ops {
		op := &o.Ops[i]
		switch op.Type {
		case codec.OpWrite:
			switch op.Particle { // of which the server knows more
			case value.ParticleGeoJSON, value.ParticleHLL:
				return false, nil
			}
			leaves = leaves || op.Particle != value.ParticleNull
		case codec.OpIncrement, codec.OpAppend, codec.OpPrepend:
			if len(op.Value) == 0 {
				return false, nil
			}
			leaves = true
		case codec.OpCDTModify:
			if !quiet(op) {
				return false, nil
			}
		default:
			return false, nil
		}
	}
	if !leaves || command.Check(o.message()) != nil {
		return false, nil
	}
	return o.sound(limit)
}

// oddKey reports that the server would not keep the user's key.
func (o *operation) oddKey() bool {
	return o.key.Type == value.ParticleInteger && len(o.key.Data) != 8
}

// sound reports that a write could be done to a record that is absent.
func (o *operation) sound(limit int) (bool, error) {
	p, err := policyOf(o)
	if err != nil {
		return false, nil // the store says what is wrong with it
	}
	w := &work{o: o, r: &record{}, now: time.Unix(0, 0), limit: limit}
	_, err = w.write(p)
	if _, lacks := errors.AsType[noRoom](err); lacks {
		return false, err
	}
	return err == nil && len(w.results) == 0, nil
}

// quiet reports that an operation on a list or map has no result, and none that the
// bin has to be there for.
func quiet(op *codec.Op) bool {
	if value.Room(op.Value) > freeRoom {
		return false
	}
	operation, err := cdt.Parse(op.Value)
	if err != nil {
		return false
	}
	after, err := operation.Modify(value.Value{}, false)
	if err != nil || after.HasResult {
		return false
	}
	for _, empty := range []value.Value{value.OfList(nil, value.Unordered), value.OfMap(nil, value.Unordered)} {
		if after, err := operation.Modify(empty, true); err == nil {
			return !after.HasResult
		}
	}
	return false
}
