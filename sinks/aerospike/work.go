package aerospike

import (
	"errors"
	"fmt"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// work is what a batch has left to do to one record.
type work struct {
	key   *as.Key
	place place
	steps []step // in LSN order; of a batch those that have their turn
	later []step // behind them
	bytes int    // of their records in the log
	// singly: the server refused several steps sent as one write; which of them is
	// to blame shows when each is sent alone.
	singly bool
	fault  error // of the key: nothing can be written there
	// floor is what the record surely has, 0: nothing is known; see guarded.
	floor sinks.LSN
}

// digest is what the server knows the record by.
func (w *work) digest() [20]byte { return [20]byte(w.key.Digest()) }

// written is what a write leaves behind: a record that ends or not, or only the
// guard of one that was deleted.
type written struct {
	dead    bool
	expires time.Time // zero: it does not end, or as it did before
}

// ends is a time to live as a time.
func ends(life uint32, now time.Time) time.Time {
	if life == as.TTLDontExpire || life == as.TTLDontUpdate {
		return time.Time{}
	}
	return now.Add(time.Duration(life) * time.Second)
}

// step is one mutation or command.
type step struct {
	record   int // its record's index in the batch; those of one go together
	lsn      sinks.LSN
	accepted time.Time
	m        *walproxyv1.Mutation
	command  *codec.Message // then m is nil
}

// phase is a part of a batch that is done before the next one begins: any records
// of one key each, or one group that spans keys.
type phase struct {
	works []*work
	group bool
	first int // index of its first record
	end   int // of the next phase's
}

// phases takes a batch apart. A body that is no mutation, command or group of
// mutations halts.
func (s *Sink) phases(b *sinks.Batch) ([]*phase, error) {
	var list []*phase
	var current *phase
	var byKey map[string]*work
	for i := range b.Records {
		r := &b.Records[i]
		halt := func(err error) error {
			return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink aerospike: LSN %v: %w", r.LSN, err))
		}
		c := r.Body.GetCommand()
		var mutations []*walproxyv1.Mutation
		if c == nil {
			var err error
			if mutations, err = mutation.Mutations(r.Body); err != nil {
				return nil, halt(err)
			}
		}
		spans := spansKeys(mutations)
		if current == nil || spans || current.group {
			current, byKey = &phase{group: spans, first: i}, map[string]*work{}
			list = append(list, current)
		}
		current.end = i + 1
		workOf := func(collection string, key *walproxyv1.Key) *work {
			name := string(mutation.AppendKey(nil, collection, key))
			w := byKey[name]
			if w == nil {
				w = s.newWork(collection, key)
				byKey[name] = w
				current.works = append(current.works, w)
			}
			w.bytes += r.Bytes
			return w
		}
		for _, m := range mutations {
			w := workOf(m.GetCollection(), m.GetKey())
			w.steps = append(w.steps, step{record: i, lsn: r.LSN, accepted: r.Accepted, m: m})
		}
		if c != nil {
			w := workOf(c.GetCollection(), c.GetKey())
			m, err := parseCommand(c, w)
			if err != nil {
				return nil, halt(err)
			}
			w.steps = append(w.steps, step{record: i, lsn: r.LSN, accepted: r.Accepted, command: m})
		}
	}
	return list, nil
}

// newWork is what there is to do to a record, nothing yet.
func (s *Sink) newWork(collection string, key *walproxyv1.Key) *work {
	w := &work{}
	w.key, w.place, w.fault = s.o.keyOf(collection, key)
	if w.fault == nil {
		w.fault = s.places.take(w.place.Place, collection)
	}
	return w
}

// spansKeys reports whether one record writes several keys.
func spansKeys(mutations []*walproxyv1.Mutation) bool {
	if len(mutations) < 2 {
		return false
	}
	first := mutation.AppendKey(nil, mutations[0].GetCollection(), mutations[0].GetKey())
	for _, m := range mutations[1:] {
		if string(mutation.AppendKey(nil, m.GetCollection(), m.GetKey())) != string(first) {
			return true
		}
	}
	return false
}

// first and last LSN of the steps, of which there is one.
func first(steps []step) sinks.LSN { return steps[0].lsn }
func last(steps []step) sinks.LSN  { return steps[len(steps)-1].lsn }

var (
	// errNeighbour: a record was not tried, for one before it is not applied.
	errNeighbour = errors.New("not applied: an earlier record that it has to follow is not applied")
	// errContended: somebody else writes the record all the time.
	errContended = errors.New("sink aerospike: the record changes faster than it can be read and written back: somebody else writes it")
)

// maxLife is the longest time to live that a server accepts (MAX_ALLOWED_TTL).
const maxLife = 10 * 365 * 24 * time.Hour

// lifeOf is a record's time to live, in whole seconds, at least one. ended: there
// is none left.
func lifeOf(expires, now time.Time) (seconds uint32, ended bool, err error) {
	if expires.IsZero() {
		return as.TTLDontExpire, false, nil
	}
	left := expires.Sub(now)
	switch {
	case left <= 0:
		return 0, true, nil
	case left > maxLife:
		return 0, false, &mutation.RejectedError{Field: "expires_at", Reason: fmt.Sprintf("is %v away; Aerospike keeps a record that expires 10 years at most", left.Round(time.Hour))}
	}
	return uint32((left + time.Second - 1) / time.Second), false, nil
}

// removal is the entry that deletes a record, as of the last of the steps. Its
// guard stays, for a late write of before: the owner removes it when none can come.
func (w *work) removal(guard string, steps []step) *as.BatchWrite {
	p := as.NewBatchWritePolicy()
	p.FilterExpression = guarded(guard, w.floor, first(steps))
	p.RecordExistsAction, p.Expiration = unless(w.floor > 0, as.REPLACE_ONLY, as.REPLACE), as.TTLDontExpire
	return as.NewBatchWrite(p, w.key, as.PutOp(as.NewBin(binDead, 1)), as.PutOp(as.NewBin(guard, int64(last(steps)))))
}
