package aerospike

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/sinks"
)

// Guards are of one stream: those of another say nothing to it, and two logs that
// write to one set undo each other's work unawares. The state record tells them apart
// only where it is the same. So every set that is written to is claimed, by a record
// in a set of its namespace that has the same name for all logs.

const (
	// claimsSet holds a record for each set of the namespace that a log writes to; its
	// user key is "set " and the set's name.
	claimsSet = "walproxy-sets"
	claimKey  = "set "
	claimBin  = "claim"
)

// maxFormer bounds the streams that a state record remembers.
const maxFormer = 16

// setClaim is what the record of a set says.
type setClaim struct {
	Format  int       `json:"format"`
	Stream  uuid.UUID `json:"stream"`
	Owner   string    `json:"owner"` // for people
	Claimed time.Time `json:"claimed"`

	generation uint32 // 0: there is no record
}

// SetError says that a set belongs to another log. It halts the sink, which goes on
// when that is not so any more.
type SetError struct {
	Place   Place
	Stream  uuid.UUID // whose it is
	Owner   string    // who claimed it for that stream
	Claimed time.Time
	Mine    uuid.UUID // who wants to write to it
}

func (e *SetError) Error() string {
	return fmt.Sprintf("sink aerospike: the set %q of namespace %q belongs to another log: stream %v, claimed by %q on %s; this one is stream %v, and two of them would undo each other's writes: "+
		"map the collection to another set, or, if that log is given up, delete the record with the key %q of set %s.%s, which says so",
		e.Place.Set, e.Place.Namespace, e.Stream, e.Owner, e.Claimed.UTC().Format(time.RFC3339), e.Mine, claimKey+e.Place.Set, e.Place.Namespace, claimsSet)
}

// takeSets claims the sets that the phases write to, but for those that this claim of
// the stream has already.
func (o *owner) takeSets(ctx context.Context, t *turn, phases []*phase) error {
	var wanted []Place
	for _, p := range phases {
		for _, w := range p.works {
			if at := w.place.Place; w.fault == nil && !slices.Contains(wanted, at) {
				wanted = append(wanted, at)
			}
		}
	}
	for _, at := range wanted {
		if err := o.own(ctx, t.state, at); err != nil {
			return err
		}
	}
	return nil
}

// own is takeSet, if the claim of st has not taken the set before.
func (o *owner) own(ctx context.Context, st *state, at Place) error {
	o.mu.Lock()
	has := o.mu.sets[at]
	o.mu.Unlock()
	if has {
		return nil
	}
	if err := o.takeSet(ctx, st, at); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.state != nil && o.mu.state.Claim == st.Claim {
		bounded(o.mu.sets)[at] = true
	}
	return nil
}

// owns reports that a set is known to be this stream's. claimed: there is a claim of
// the stream that could take it.
func (o *owner) owns(at Place) (mine, claimed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.sets[at], o.mu.state != nil && o.mu.refused == nil
}

// peek is nil unless a set is another log's, as far as can be told before this process
// has claimed the stream.
func (o *owner) peek(ctx context.Context, at Place) error {
	st, err := o.load(ctx)
	if err != nil {
		return err
	}
	claim, err := o.loadClaim(ctx, at)
	if err != nil || claim == nil {
		return err
	}
	var mine uuid.UUID // of a new stream nothing is known yet
	if st != nil {
		mine = st.Stream
		if claim.Stream == mine || slices.Contains(st.Former, claim.Stream) {
			return nil
		}
	}
	return sinks.WithOutcome(sinks.Halt, &SetError{Place: at, Stream: claim.Stream, Owner: claim.Owner, Claimed: claim.Claimed, Mine: mine})
}

// errNotClaimed: this process has not claimed the stream yet.
var errNotClaimed = errors.New("sink aerospike: the stream is not claimed yet")

// writable is nil if this process may write to a set past the log: it is the owner of
// the stream, and the stream is that of the set.
func (o *owner) writable(ctx context.Context, at Place) error {
	o.mu.Lock()
	st, epoch, refused := o.mu.state, o.mu.at.Epoch, o.mu.refused
	o.mu.Unlock()
	switch {
	case st == nil:
		return sinks.WithOutcome(sinks.Retry, errNotClaimed)
	case refused != nil:
		return sinks.WithOutcome(sinks.Retry, refused)
	}
	if err := o.confirm(ctx, epoch); err != nil {
		return surelyNot(err)
	}
	return surelyNot(o.own(ctx, st, at))
}

// surelyNot: what an error was of came before the message that was to be sent.
func surelyNot(err error) error {
	if err == nil || sinks.OutcomeOf(err) == sinks.Halt {
		return err
	}
	return sinks.WithOutcome(sinks.Retry, err)
}

// takeSet claims a set for the stream of mine.
func (o *owner) takeSet(ctx context.Context, mine *state, at Place) error {
	for range claimTries {
		claim, err := o.loadClaim(ctx, at)
		if err != nil {
			return err
		}
		switch {
		case claim == nil:
			claim = &setClaim{}
		case claim.Stream == mine.Stream:
			return nil
		case !slices.Contains(mine.Former, claim.Stream):
			return sinks.WithOutcome(sinks.Halt, &SetError{Place: at, Stream: claim.Stream, Owner: claim.Owner, Claimed: claim.Claimed, Mine: mine.Stream})
		}
		claim.Format, claim.Stream, claim.Owner, claim.Claimed = stateFormat, mine.Stream, mine.Owner, time.Now().UTC()
		text, err := json.Marshal(claim)
		if err != nil {
			return err
		}
		err = o.sink.replace(ctx, at.claim(), claim.generation, as.NewBin(claimBin, string(text)))
		if !overtaken(codeOf(err)) {
			return err // nil too
		}
	}
	return sinks.WithOutcome(sinks.Retry, errMoved)
}

// loadClaim reads the claim of a set; nil: there is none.
func (o *owner) loadClaim(ctx context.Context, at Place) (*setClaim, error) {
	r, err := o.sink.fetch(ctx, at.claim(), claimBin)
	if r == nil || err != nil {
		return nil, err
	}
	claim, err := decodeClaim(r.Bins[claimBin])
	if err != nil {
		return nil, sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink aerospike: record %q of %s.%s, which says whose set %q is: %w", claimKey+at.Set, at.Namespace, claimsSet, at.Set, err))
	}
	claim.generation = r.Generation
	return claim, nil
}

func decodeClaim(bin any) (*setClaim, error) {
	text, ok := bin.(string)
	if !ok {
		return nil, fmt.Errorf("its bin %q is no text", claimBin)
	}
	claim := &setClaim{}
	if err := json.Unmarshal([]byte(text), claim); err != nil {
		return nil, fmt.Errorf("its bin %q: %w", claimBin, err)
	}
	switch {
	case claim.Format != stateFormat:
		return nil, fmt.Errorf("it has format %d; this version knows %d", claim.Format, stateFormat)
	case claim.Stream == uuid.Nil:
		return nil, fmt.Errorf("it names no stream")
	}
	return claim, nil
}

// name is where a record of walproxy's own is.
type name struct {
	Place
	key string
}

// claim is where the claim of a set is.
func (p Place) claim() name { return name{Place{p.Namespace, claimsSet}, claimKey + p.Set} }

func (n name) asKey() (*as.Key, error) {
	key, err := as.NewKey(n.Namespace, n.Set, n.key)
	if err != nil {
		return nil, sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink aerospike: record %q of %s.%s: %w", n.key, n.Namespace, n.Set, err))
	}
	return key, nil
}

// fetch reads a bin of a record of walproxy's own; nil: there is none.
func (s *Sink) fetch(ctx context.Context, at name, bin string) (*as.Record, error) {
	key, err := at.asKey()
	if err != nil {
		return nil, err
	}
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	policy, err := s.readPolicy(ctx)
	if err != nil {
		return nil, err
	}
	r, failed := client.Get(policy, key, bin)
	if failed != nil {
		err = judge(failed, notSent)
	}
	if codeOf(err) == types.KEY_NOT_FOUND_ERROR {
		return nil, nil
	}
	return r, err
}

// replace writes a bin of a record of walproxy's own where it still has a generation,
// or is still absent: 0. Else the error is overtaken.
func (s *Sink) replace(ctx context.Context, at name, generation uint32, bin *as.Bin) error {
	key, err := at.asKey()
	if err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	policy, err := s.writePolicy(ctx)
	if err != nil {
		return err
	}
	policy.RecordExistsAction, policy.SendKey = as.CREATE_ONLY, true
	if generation > 0 {
		policy.RecordExistsAction = as.UPDATE_ONLY
		policy.GenerationPolicy, policy.Generation = as.EXPECT_GEN_EQUAL, generation
	}
	if failed := client.PutBins(policy, key, bin); failed != nil {
		return judge(failed, sent)
	}
	return nil
}
