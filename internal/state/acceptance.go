package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// Acceptance is what a person decided about a sink that is refused, until it is
// carried out; nil: nothing. What it says is replay's.
func (s *Store) Acceptance(sink string) (value []byte, err error) {
	err = s.use(func() error {
		value, _, err = s.get(acceptanceKey(sink))
		return err
	})
	return value, err
}

// PutAcceptance stores a decision durably, in place of one before.
func (s *Store) PutAcceptance(sink string, value []byte) error {
	if sink == "" {
		return errNoSink
	}
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(acceptanceKey(sink), value, nil); err != nil {
			return err
		}
		return s.commit(b)
	})
}

// SettleAcceptance notes, durably and as one step, that the decision was carried
// out and what became of the claim.
func (s *Store) SettleAcceptance(sink string, change func(*Claim)) (c Claim, err error) {
	s.claims.Lock()
	defer s.claims.Unlock()
	err = s.use(func() error {
		if c, _, err = s.claim(sink); err != nil {
			return err
		}
		change(&c)
		c.Sink = sink
		b := s.db.NewBatch()
		defer b.Close()
		if err := errors.Join(b.Set(claimKey(sink), encodeClaim(c), nil), b.Delete(acceptanceKey(sink), pebble.Sync)); err != nil {
			return err
		}
		return s.commit(b)
	})
	return c, err
}

func acceptanceKey(sink string) []byte { return append([]byte{'a'}, sink...) }
