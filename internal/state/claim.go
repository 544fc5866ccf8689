package state

import (
	"errors"
	"fmt"
)

// Claim is what is known of a sink.
type Claim struct {
	Sink     string
	Identity string // of the store, as the sink says it
	// Settled is set once the sink is known to hold a checkpoint: from then on
	// its absence is an error. Before it nothing was applied.
	Settled bool
}

// errNoSink: claims are found by the sink's name.
var errNoSink = errors.New("state: a claim needs the sink's name")

// Claim returns the sink's claim; ok is false if it was never claimed.
func (s *Store) Claim(sink string) (c Claim, ok bool, err error) {
	err = s.use(func() error {
		value, found, err := s.get(claimKey(sink))
		if err != nil || !found {
			return err
		}
		if c, err = decodeClaim(value); err != nil {
			return fmt.Errorf("claim of sink %q: %w", sink, err)
		}
		c.Sink, ok = sink, true
		return nil
	})
	return c, ok, err
}

// PutClaim stores c, durably.
func (s *Store) PutClaim(c Claim) error {
	if c.Sink == "" {
		return errNoSink
	}
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(claimKey(c.Sink), encodeClaim(c), nil); err != nil {
			return err
		}
		return s.commit(b)
	})
}

func claimKey(sink string) []byte { return append([]byte{'c'}, sink...) }

// A claim's value: flags (1: settled), then the identity.
const claimSettled = 1

func encodeClaim(c Claim) []byte {
	value := make([]byte, 1, 1+len(c.Identity))
	if c.Settled {
		value[0] = claimSettled
	}
	return append(value, c.Identity...)
}

func decodeClaim(value []byte) (Claim, error) {
	if len(value) == 0 {
		return Claim{}, fmt.Errorf("%w: no bytes", ErrCorrupt)
	}
	if value[0]&^claimSettled != 0 {
		return Claim{}, fmt.Errorf("%w: unknown flags %#x", ErrCorrupt, value[0])
	}
	return Claim{Settled: value[0] == claimSettled, Identity: string(value[1:])}, nil
}
