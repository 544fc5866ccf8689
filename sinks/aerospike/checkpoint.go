package aerospike

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
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
	// Former are the streams before this one, the last last: their sets are its own.
	Former []uuid.UUID `json:"former,omitempty"`

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

// record is where the state record is.
func (o *owner) record() name { return name{o.sink.o.State, stateKey} }

// load reads the state record; nil: there is none.
func (o *owner) load(ctx context.Context) (*state, error) {
	r, err := o.sink.fetch(ctx, o.record(), stateBin)
	if r == nil || err != nil {
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
	st.Format = stateFormat
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	err = o.sink.replace(ctx, o.record(), st.generation, as.NewBin(stateBin, string(text)))
	if overtaken(codeOf(err)) {
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
