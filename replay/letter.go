package replay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

type letter = state.DeadLetter

// Of a store's error so many bytes are kept, and so many of its details.
const (
	reasonBytesMax  = 4 << 10
	detailsBytesMax = 4 << 10
)

// keysOf returns the keys that body writes, encoded, without repeats.
func keysOf(body *walproxyv1.Record) (keys [][]byte) {
	mutation.Keys(body, func(collection string, key *walproxyv1.Key) {
		enc := mutation.AppendKey(nil, collection, key)
		if !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, enc) }) {
			keys = append(keys, enc)
		}
	})
	return keys
}

// letterOf makes a dead letter of r. Encoding is deterministic: the payload
// decodes to the record that was logged.
func (p *pipeline) letterOf(r *sinks.Record, position wal.LSN, kind state.Kind, reason string) (letter, bool) {
	payload, err := mutation.Encode(nil, r.Body)
	if err != nil {
		p.halt(fmt.Errorf("replay: sink %q: dead letter of LSN %d: %w", p.loop.o.Name, r.LSN, err))
		return letter{}, false
	}
	if len(reason) > reasonBytesMax {
		reason = strings.ToValidUTF8(reason[:reasonBytesMax], "")
	}
	return letter{
		Sink: p.loop.o.Name, LSN: r.LSN, Position: position, Kind: kind, Parks: true,
		Keys: keysOf(r.Body), Reason: reason, When: time.Now(), Payload: payload,
	}, true
}

// rejection makes a dead letter of r, which was rejected because of err, after
// so many attempts before this one. It returns false if the policy is to halt.
func (p *pipeline) rejection(r *sinks.Record, position wal.LSN, attempts uint64, err error) (letter, bool) {
	policy := p.loop.policy(r.Body)
	if policy != ParkKey && policy != Skip {
		p.halt(p.rejected(r, err))
		return letter{}, false
	}
	dead, ok := p.letterOf(r, position, state.Rejected, err.Error())
	dead.Parks = policy == ParkKey
	dead.Attempts, dead.Details = attempts+1, sinks.DetailsOf(err, detailsBytesMax)
	return dead, ok
}

// store puts the dead letter of r, which was rejected.
func (p *pipeline) store(r *sinks.Record, dead letter, b state.Bounds) bool {
	if !p.put([]letter{dead}, nil, b) {
		return false
	}
	p.loop.logger.Warn("record rejected, now a dead letter",
		zap.Uint64("lsn", uint64(r.LSN)), zap.Bool("parks", dead.Parks), zap.Int("keys", len(dead.Keys)))
	return true
}

// put stores letters and retries, durably: the checkpoint passes them later. At a
// bound it stores the letters that fit and waits, and everything behind them,
// until some dead letter is gone.
func (p *pipeline) put(letters []letter, retries []state.Retry, b state.Bounds) bool {
	for {
		removed := p.loop.letters.Removed()
		failpoint.Hit("replay-before-dead-letter")
		err := p.loop.letters.Put(letters, retries, b)
		failpoint.Hit("replay-after-dead-letter")
		if err == nil {
			p.loop.made.Add(uint64(len(letters)))
		}
		if !errors.Is(err, ErrDeadLettersFull) {
			return p.orHalt(err)
		}
		if half := len(letters) / 2; half > 0 {
			return p.put(letters[:half], retries, b) && p.put(letters[half:], nil, b)
		}
		if !p.awaitRoom(removed, &HaltError{Sink: p.loop.o.Name, Err: err}) {
			return false
		}
	}
}

// noBounds are those of a dead letter that takes the place of the one it retries:
// a retry must not wait for room that it makes itself.
var noBounds = state.Bounds{}

// awaitRoom keeps the sink halted because of full until a dead letter is removed;
// false: stop. Once the log is sealed it halts for good: nobody waits any more.
func (p *pipeline) awaitRoom(removed <-chan struct{}, full error) bool {
	p.loop.block(full)
	defer p.loop.unblock()
	select {
	case <-removed:
		return true
	case <-p.loop.log.Sealed():
		p.halt(full)
		return false
	case <-p.stopped:
		return false
	}
}

// orHalt halts if the state store failed.
func (p *pipeline) orHalt(err error) bool {
	if err != nil {
		p.halt(&HaltError{Sink: p.loop.o.Name, Err: err})
	}
	return err == nil
}

// divert makes dead letters of those items whose keys are parked, by what is
// stored or by another one of the items. It returns which items are not to be
// applied, in LSN order: these, and what was given up before it came again.
func (p *pipeline) divert(items []item) (gone []wal.LSN, ok bool) {
	parked, gone, ok := p.parked(items)
	if !ok || len(parked) > 0 && !p.put(parked, nil, p.loop.o.DeadLetters) {
		return nil, false
	}
	return gone, true
}

func (p *pipeline) parked(items []item) (parked []letter, gone []wal.LSN, ok bool) {
	any := p.loop.letters.Any()
	behind := map[string]wal.LSN{} // keys of those that are parked now
	for i := range items {
		r := &items[i].Record
		given, ok := p.givenUp(r.LSN)
		if !ok {
			return nil, nil, false
		}
		if given {
			gone = append(gone, r.LSN)
			continue
		}
		if !any {
			if r.LSN > p.loop.lastTrace {
				break
			}
			continue
		}
		first, found, ok := p.parkedBy(r, r.LSN, behind)
		if !ok {
			return nil, nil, false
		}
		if !found {
			continue
		}
		l, ok := p.letterOf(r, r.LSN, state.Parked, parkedReason(first))
		if !ok {
			return nil, nil, false
		}
		for _, key := range l.Keys {
			if _, ok := behind[string(key)]; !ok {
				behind[string(key)] = r.LSN
			}
		}
		parked, gone = append(parked, l), append(gone, r.LSN)
	}
	return parked, gone, true
}

// givenUp reports whether a record was a dead letter, was given up, and has come
// again because the checkpoint did not cover it; see decided for a Settler.
func (p *pipeline) givenUp(lsn wal.LSN) (given, ok bool) {
	if lsn > p.loop.lastTrace {
		return false, true
	}
	if p.loop.settler != nil {
		return p.decided(lsn)
	}
	given, err := p.loop.letters.GivenUp(lsn)
	return given, p.orHalt(err)
}

func parkedReason(first wal.LSN) string { return fmt.Sprintf("parked behind LSN %d", first) }

// parkedBy finds a dead letter of a position below position that parks a key of
// r, in behind or stored.
func (p *pipeline) parkedBy(r *sinks.Record, position wal.LSN, behind map[string]wal.LSN) (first wal.LSN, found, ok bool) {
	var buf [256]byte
	var err error
	mutation.Keys(r.Body, func(collection string, key *walproxyv1.Key) {
		if found || err != nil {
			return
		}
		enc := mutation.AppendKey(buf[:0], collection, key)
		if first, found = behind[string(enc)]; !found && p.loop.letters.MayPark(mutation.HashEncoded(enc)) {
			first, found, err = p.loop.letters.ParkedBy(enc, position)
		}
	})
	return first, found, p.orHalt(err)
}

// rejected is why a sink halts at r.
func (p *pipeline) rejected(r *sinks.Record, err error) error {
	e := &RejectedError{LSN: r.LSN, Sink: p.loop.o.Name, Err: err}
	mutation.Keys(r.Body, func(collection string, key *walproxyv1.Key) {
		if e.Key == nil {
			e.Collection, e.Key = collection, key
		}
	})
	return e
}
