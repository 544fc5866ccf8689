package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/position"
)

// Claim is what is known of a sink.
type Claim struct {
	Sink     string
	Identity string // of the store, as the sink says it
	// Settled is set once the sink is known to hold a checkpoint that it does not
	// lose: from then on its absence is an error. Before it nothing was applied, or
	// nothing that is not in the log any more.
	Settled bool
	// Paused: nothing is applied until somebody resumes the sink, whatever
	// restarts come between.
	Paused bool
	// Rebuilt: the state store was lost, and with it which lanes of the sink's
	// checkpoint hold which keys.
	Rebuilt bool
	// From is where the log ended when the sink was added: no record at or below
	// it is the sink's, whatever its routes say.
	From position.LSN
	// Filled: above From up to it, what is the sink's is what is held for it, for
	// nothing was routed to it; see walproxy.AddSink. 0: nothing was filled in.
	Filled position.LSN
	// Applied is how far the sink was when it was noted last: everything of it up
	// to there was applied or a dead letter. It may be further by now, or less far
	// if an older copy of the store was put back: the store's checkpoint decides.
	Applied position.LSN
}

// errNoSink: claims are found by the sink's name.
var errNoSink = errors.New("state: a claim needs the sink's name")

// Claim returns the sink's claim; ok is false if it was never claimed.
func (s *Store) Claim(sink string) (c Claim, ok bool, err error) {
	err = s.use(func() error {
		c, ok, err = s.claim(sink)
		return err
	})
	return c, ok, err
}

func (s *Store) claim(sink string) (c Claim, ok bool, err error) {
	value, found, err := s.get(claimKey(sink))
	if err != nil || !found {
		return c, false, err
	}
	if c, err = decodeClaim(value); err != nil {
		return c, false, fmt.Errorf("claim of sink %q: %w", sink, err)
	}
	c.Sink = sink
	return c, true, nil
}

// Claims returns every sink's claim, by name.
func (s *Store) Claims() (claims []Claim, err error) {
	err = s.use(func() (err error) {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: claimKey(""), UpperBound: prefixEnd(claimKey(""))})
		if err != nil {
			return fmt.Errorf("state: read: %w", err)
		}
		defer func() { err = errors.Join(err, it.Close()) }()
		for it.First(); it.Valid(); it.Next() {
			c, err := decodeClaim(it.Value())
			if err != nil {
				return fmt.Errorf("claim of sink %q: %w", it.Key()[1:], err)
			}
			c.Sink = string(it.Key()[1:])
			claims = append(claims, c)
		}
		return it.Error()
	})
	return claims, err
}

// PutClaim stores c, durably.
func (s *Store) PutClaim(c Claim) error {
	_, err := s.ChangeClaim(c.Sink, func(stored *Claim) { *stored = c })
	return err
}

// ChangeClaim lets change have the sink's claim, a zero one if it was never
// claimed, and stores what that makes of it, durably. Changes of one sink by
// several callers do not undo each other.
func (s *Store) ChangeClaim(sink string, change func(*Claim)) (c Claim, err error) {
	if sink == "" {
		return Claim{}, errNoSink
	}
	s.claims.Lock()
	defer s.claims.Unlock()
	err = s.use(func() error {
		before, known, err := s.claim(sink)
		if err != nil {
			return err
		}
		c = before
		change(&c)
		c.Sink = sink
		if known && c == before {
			return nil
		}
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(claimKey(sink), encodeClaim(c), nil); err != nil {
			return err
		}
		return s.commit(b)
	})
	return c, err
}

// Complete reports that every sink that records were ever routed to has had a
// claim: see SetComplete.
func (s *Store) Complete() (complete bool, err error) {
	err = s.use(func() error {
		_, complete, err = s.number(keyClaims)
		return err
	})
	return complete, err
}

// SetComplete notes, durably, that from now on a sink has its claim before
// anything is routed to it, and that those of before have theirs. Early builds
// made a claim only when a sink was reached, so in their stores one without a
// claim may have records in the log.
func (s *Store) SetComplete() error {
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := setNumber(b, keyClaims, 1); err != nil {
			return err
		}
		return s.commit(b)
	})
}

// sinkKinds are the kinds of entries that begin with a sink's length and name.
const sinkKinds = "dqptxfvhk"

// Forget drops everything that is known of a sink, durably and as one step. The
// sink's loop has ended.
func (s *Store) Forget(sink string) error {
	s.claims.Lock()
	defer s.claims.Unlock()
	err := s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := errors.Join(b.Delete(claimKey(sink), nil), b.Delete(acceptanceKey(sink), nil), b.Delete(laneMapKey(sink), nil), b.Delete(heldMarkKey(sink), nil)); err != nil {
			return err
		}
		for _, kind := range []byte(sinkKinds) {
			prefix := (&DeadLetters{sink: sink}).prefix(kind)
			if err := b.DeleteRange(prefix, prefixEnd(prefix), nil); err != nil {
				return err
			}
		}
		return s.commit(b)
	})
	// Counters are read again.
	s.letters.Lock()
	delete(s.letters.bySink, sink)
	s.letters.Unlock()
	s.held.Lock()
	delete(s.held.bySink, sink)
	s.held.Unlock()
	return err
}

func claimKey(sink string) []byte { return append([]byte{'c'}, sink...) }

// A claim's value: flags; From, Applied and Filled, 8 bytes each, if their flags
// are set; then the identity.
const (
	claimSettled = 1 << iota
	claimPaused
	claimFrom
	claimApplied
	claimFilled
	claimFlags = claimSettled | claimPaused | claimFrom | claimApplied | claimFilled | claimRebuilt

	claimRebuilt = 1 << 7
)

func encodeClaim(c Claim) []byte {
	value := make([]byte, 1, 25+len(c.Identity))
	if c.Settled {
		value[0] |= claimSettled
	}
	if c.Paused {
		value[0] |= claimPaused
	}
	if c.Rebuilt {
		value[0] |= claimRebuilt
	}
	if c.From != 0 {
		value[0] |= claimFrom
		value = binary.BigEndian.AppendUint64(value, uint64(c.From))
	}
	if c.Applied != 0 {
		value[0] |= claimApplied
		value = binary.BigEndian.AppendUint64(value, uint64(c.Applied))
	}
	if c.Filled != 0 {
		value[0] |= claimFilled
		value = binary.BigEndian.AppendUint64(value, uint64(c.Filled))
	}
	return append(value, c.Identity...)
}

func decodeClaim(value []byte) (c Claim, err error) {
	if len(value) == 0 {
		return c, fmt.Errorf("%w: no bytes", ErrCorrupt)
	}
	flags, rest := value[0], bytes.Clone(value[1:])
	if flags&^claimFlags != 0 {
		return c, fmt.Errorf("%w: unknown flags %#x", ErrCorrupt, flags)
	}
	c.Settled, c.Paused, c.Rebuilt = flags&claimSettled != 0, flags&claimPaused != 0, flags&claimRebuilt != 0
	for _, f := range []struct {
		flag byte
		lsn  *position.LSN
	}{{claimFrom, &c.From}, {claimApplied, &c.Applied}, {claimFilled, &c.Filled}} {
		if flags&f.flag == 0 {
			continue
		}
		if len(rest) < 8 {
			return Claim{}, fmt.Errorf("%w: claim of %d bytes", ErrCorrupt, len(value))
		}
		if *f.lsn, rest = position.LSN(number(rest)), rest[8:]; *f.lsn == 0 {
			return Claim{}, fmt.Errorf("%w: a claim with LSN 0", ErrCorrupt)
		}
	}
	c.Identity = string(rest)
	return c, nil
}
