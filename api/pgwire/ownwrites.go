package pgwire

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// ownWrites are a session's acknowledged writes of which it is not known yet that
// they are in PostgreSQL.
type ownWrites struct {
	last map[string]wal.LSN // by collection: of those
	// writes in the order of their LSNs. More than writesMax are not told apart: then lost is the
	// first, and any dead letter from there on may be one of them.
	writes []ownWrite
	lost   wal.LSN
	dead   []ownWrite // dead letters, which reads of their tables do not see
	blind  bool       // there were more than writesMax of them: no read is let through
}

type ownWrite struct {
	lsn        wal.LSN
	collection string
}

const writesMax = 4096

// add takes note of a write. One that repeats another, under an idempotency key, has the LSN
// of that.
func (o *ownWrites) add(lsn wal.LSN, collections []string) {
	if o.last == nil {
		o.last = map[string]wal.LSN{}
	}
	at := len(o.writes)
	for at > 0 && o.writes[at-1].lsn > lsn {
		at--
	}
	for _, c := range collections {
		o.last[c] = max(o.last[c], lsn)
		o.writes = slices.Insert(o.writes, at, ownWrite{lsn, c})
	}
	if o.lost > 0 {
		o.lost = min(o.lost, lsn)
	}
	if len(o.writes) > writesMax {
		if o.lost == 0 {
			o.lost = o.writes[0].lsn
		}
		o.writes = append(o.writes[:0], o.writes[len(o.writes)-writesMax/2:]...)
	}
}

// newest of the writes to the collections; nil: to any. 0: there is none.
func (o *ownWrites) newest(collections []string, any bool) (newest wal.LSN) {
	if any {
		for _, lsn := range o.last {
			newest = max(newest, lsn)
		}
		return newest
	}
	for _, c := range collections {
		newest = max(newest, o.last[c])
	}
	return newest
}

// unseenError: a read would not see a write of its session's.
type unseenError struct{ lsn wal.LSN }

func (e *unseenError) Error() string {
	return fmt.Sprintf("the session's write with LSN %d is a dead letter", e.lsn)
}

// see waits until the session's writes to the collections (any: to all) up to lsn
// are in PostgreSQL. It returns *unseenError if one of them is a dead letter.
func (x *attended) see(ctx context.Context, lsn wal.LSN, collections []string, any bool) error {
	o, core, sink := &x.unseen, x.t.o.Core, x.t.o.Sink
	if lsn > 0 {
		if err := core.WaitSink(ctx, sink, lsn); err != nil {
			return err
		}
		if err := x.settleWrites(lsn); err != nil {
			return err
		}
	}
	if len(o.dead) > writesMax {
		o.dead, o.blind = o.dead[:writesMax], true
	}
	if o.blind {
		return &unseenError{o.dead[0].lsn}
	}
	for i := 0; i < len(o.dead); i++ {
		w := o.dead[i]
		if !any && !slices.Contains(collections, w.collection) {
			continue
		}
		fate, err := x.fate(w.lsn)
		if err != nil {
			return err
		}
		if fate != replay.Applied {
			return &unseenError{w.lsn}
		}
		o.dead = append(o.dead[:i], o.dead[i+1:]...)
		i--
	}
	return nil
}

// settleWrites forgets the writes up to lsn, which the sink has passed, but for the
// dead letters among them.
func (x *attended) settleWrites(lsn wal.LSN) error {
	o := &x.unseen
	first := o.lost
	if first == 0 && len(o.writes) > 0 {
		first = o.writes[0].lsn
	}
	letters, err := x.t.o.Core.DeadLetters(x.t.o.Sink, first, 1)
	if err != nil {
		return err
	}
	if len(letters) > 0 && letters[0].LSN <= lsn {
		if o.lost > 0 {
			// Whose it is cannot be told any more.
			for c := range o.last {
				o.dead = append(o.dead, ownWrite{letters[0].LSN, c})
			}
		}
		for _, w := range o.writes {
			if w.lsn > lsn {
				break
			}
			fate, err := x.fate(w.lsn)
			if err != nil {
				return err
			}
			if fate != replay.Applied {
				o.dead = append(o.dead, w)
			}
		}
	}
	n := 0
	for n < len(o.writes) && o.writes[n].lsn <= lsn {
		n++
	}
	o.writes = append(o.writes[:0], o.writes[n:]...)
	if o.lost <= lsn {
		o.lost = 0
	}
	for c, last := range o.last {
		if last <= lsn {
			delete(o.last, c)
		}
	}
	return nil
}

// fate of a write that the sink has passed. One that was given up by hand counts as
// applied: there is nothing to wait for.
func (x *attended) fate(lsn wal.LSN) (replay.Fate, error) {
	fate, err := x.t.o.Core.SinkFate(x.t.o.Sink, lsn)
	if err != nil || fate != replay.Dead {
		return fate, err
	}
	_, err = x.t.o.Core.DeadLetter(x.t.o.Sink, lsn)
	if gone, ok := errors.AsType[*walproxy.NoDeadLetterError](err); ok && gone.GivenUp {
		return replay.Applied, nil
	}
	return replay.Dead, nil
}
