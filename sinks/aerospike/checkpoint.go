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

// The state record: who owns the stream and up to where what it applied is settled.
// It is the only one of its set, and changes under the generation that was read.
const (
	stateKey    = "stream"
	stateBin    = "state"
	stateFormat = 1
)

// maxLanes bounds a checkpoint.
const maxLanes = 1024

// state is what the state record says.
type state struct {
	Format  int           `json:"format"`
	Stream  uuid.UUID     `json:"stream"`
	Epoch   uint64        `json:"epoch"`
	Claim   uuid.UUID     `json:"claim"` // tells two claims apart that a restart gave one epoch
	Owner   string        `json:"owner"`
	Claimed time.Time     `json:"claimed"`
	Lanes   []sinks.Point `json:"lanes"`
	Settled sinks.LSN     `json:"settled"` // the log may be freed up to it
	Nodes   nodes         `json:"nodes"`   // as they were when this was written

	generation uint32 // 0: there is no record
}

// checkpoint is what st says of where the store is.
func (st *state) checkpoint() sinks.Checkpoint {
	return sinks.Checkpoint{Stream: st.Stream, Epoch: st.Epoch, Lanes: slices.Clone(st.Lanes)}
}

// errMoved: the state record is not what it was when it was read.
var errMoved = errors.New("sink aerospike: the state record has changed since it was read")

// StateError says that the state record cannot be read. It halts the sink.
type StateError struct {
	Place Place
	Err   error
}

func (e *StateError) Error() string {
	return fmt.Sprintf("sink aerospike: record %q of %s.%s, which holds the checkpoint: %v", stateKey, e.Place.Namespace, e.Place.Set, e.Err)
}

func (e *StateError) Unwrap() error { return e.Err }

func (o *owner) key() (*as.Key, error) {
	p := o.sink.o.State
	key, err := as.NewKey(p.Namespace, p.Set, stateKey)
	if err != nil {
		return nil, &StateError{p, err}
	}
	return key, nil
}

// load reads the state record; nil: there is none.
func (o *owner) load(ctx context.Context) (*state, error) {
	key, err := o.key()
	if err != nil {
		return nil, err
	}
	client, err := o.sink.client(ctx)
	if err != nil {
		return nil, err
	}
	policy, err := o.sink.readPolicy(ctx)
	if err != nil {
		return nil, err
	}
	r, failed := client.Get(policy, key, stateBin)
	if failed != nil {
		err = judge(failed, notSent)
	}
	switch {
	case codeOf(err) == types.KEY_NOT_FOUND_ERROR:
		return nil, nil
	case err != nil:
		return nil, err
	}
	st, err := decodeState(r.Bins[stateBin])
	if err != nil {
		return nil, sinks.WithOutcome(sinks.Halt, &StateError{o.sink.o.State, err})
	}
	st.generation = r.Generation
	return st, nil
}

func decodeState(bin any) (*state, error) {
	text, ok := bin.(string)
	if !ok {
		return nil, fmt.Errorf("its bin %q is no text", stateBin)
	}
	st := &state{}
	if err := json.Unmarshal([]byte(text), st); err != nil {
		return nil, fmt.Errorf("its bin %q: %w", stateBin, err)
	}
	switch {
	case st.Format != stateFormat:
		return nil, fmt.Errorf("it has format %d; this version knows %d", st.Format, stateFormat)
	case st.Stream == uuid.Nil, len(st.Lanes) < 1, len(st.Lanes) > maxLanes:
		return nil, fmt.Errorf("it has stream %v and %d lanes", st.Stream, len(st.Lanes))
	}
	return st, nil
}

// save writes st where the record still has the generation that st was read with:
// errMoved if not. Then st has the new one.
func (o *owner) save(ctx context.Context, st *state) error {
	key, err := o.key()
	if err != nil {
		return err
	}
	client, err := o.sink.client(ctx)
	if err != nil {
		return err
	}
	policy, err := o.sink.writePolicy(ctx)
	if err != nil {
		return err
	}
	policy.RecordExistsAction, policy.SendKey = as.CREATE_ONLY, true
	if st.generation > 0 {
		policy.RecordExistsAction = as.UPDATE_ONLY
		policy.GenerationPolicy, policy.Generation = as.EXPECT_GEN_EQUAL, st.generation
	}
	st.Format = stateFormat
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if failed := client.PutBins(policy, key, as.NewBin(stateBin, string(text))); failed != nil {
		err = judge(failed, sent)
	}
	switch codeOf(err) {
	case types.GENERATION_ERROR, types.KEY_EXISTS_ERROR, types.KEY_NOT_FOUND_ERROR:
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	if err != nil {
		return err
	}
	st.generation = st.generation%maxGeneration + 1
	return nil
}

// maxGeneration is the last one before a record's generation begins at 1 again.
const maxGeneration = 1<<16 - 1
