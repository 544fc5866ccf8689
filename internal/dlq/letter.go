// Package dlq is what people and programs see of dead letters: their JSON form,
// which the API, the commands and exports share, what they are selected by, and how
// one is mended. It also reads those of a data directory that no server has open.
package dlq

import (
	"encoding/json"
	"slices"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
)

// States of a dead letter.
const (
	Dead   = "dead"   // rejected by the store
	Parked = "parked" // behind an earlier one of its key
)

// Letter is a dead letter.
type Letter struct {
	LSN        position.LSN    `json:"lsn"`
	Position   position.LSN    `json:"position"`
	State      string          `json:"state"` // Dead or Parked
	Collection string          `json:"collection"`
	Key        json.RawMessage `json:"key"`
	Reason     string          `json:"reason"`
	// Details of the reason, as far as the store gives any.
	Details  map[string]string `json:"details,omitempty"`
	Attempts uint64            `json:"attempts"`
	When     time.Time         `json:"when"`
	Parks    bool              `json:"parks"`
	Bytes    int               `json:"bytes"`
	*Whole
}

// Whole is what only an answer about one dead letter, or an export, has.
type Whole struct {
	Sink string `json:"sink"`
	// Stream of the log that the LSNs are of.
	Stream string `json:"stream"`
	// Keys that it writes, if they are several.
	Keys []Key `json:"keys,omitempty"`
	// Mutation is what POST /v1/mutations takes; Group are those of a group, which
	// were one write, and {"statement": ...} for statements among them. Neither is there
	// if the write has no such form.
	Mutation json.RawMessage   `json:"mutation,omitempty"`
	Group    []json.RawMessage `json:"group,omitempty"`
	// Statement is what came over the Postgres wire; see ParseStatement.
	Statement json.RawMessage `json:"statement,omitempty"`
	// Record as it was logged: Base64 of its protobuf encoding (walproxy.v1.Record).
	Record []byte `json:"record"`
	// Queue is what waits behind it for its key, the first of them, and QueueMore says
	// that there are others; not in an export.
	Queue     []Queued `json:"queue,omitempty"`
	QueueMore bool     `json:"queue_more,omitempty"`
}

// Key of a record.
type Key struct {
	Collection string          `json:"collection"`
	Key        json.RawMessage `json:"key"`
}

// Queued is a dead letter behind another.
type Queued struct {
	LSN      position.LSN `json:"lsn"`
	Position position.LSN `json:"position"`
	State    string       `json:"state"`
	Reason   string       `json:"reason"`
	When     time.Time    `json:"when"`
	Bytes    int          `json:"bytes"`
}

// Of is the form of d, without its write.
func Of(d *state.DeadLetter) (Letter, error) {
	collection, key, err := d.Key()
	if err != nil {
		return Letter{}, err
	}
	out := Letter{
		LSN: d.LSN, Position: d.Position, Details: d.Details, Attempts: d.Attempts, State: stateOf(d), Collection: collection, Key: json.RawMessage("null"),
		Reason: d.Reason, When: d.When.UTC(), Parks: d.Parks, Bytes: len(d.Payload),
	}
	if key != nil {
		out.Key = jsonform.AppendKey(nil, key)
	}
	return out, nil
}

func stateOf(d *state.DeadLetter) string {
	if d.IsParked() {
		return Parked
	}
	return Dead
}

// WholeOf is the form of d, a dead letter of the log stream, with its write.
func WholeOf(d *state.DeadLetter, stream string) (Letter, error) {
	out, err := Of(d)
	if err != nil {
		return out, err
	}
	out.Whole = &Whole{Sink: d.Sink, Stream: stream, Record: d.Payload}
	if len(d.Keys) > 1 {
		for _, enc := range d.Keys {
			collection, key, err := mutation.ParseKey(enc)
			if err != nil {
				return out, err
			}
			out.Keys = append(out.Keys, Key{collection, jsonform.AppendKey(nil, key)})
		}
	}
	body, err := d.Record()
	if err != nil {
		return out, err
	}
	out.Mutation, out.Group = formsOf(body)
	if s := body.GetStatement(); s != nil {
		out.Statement = jsonform.AppendStatement(nil, s)
	}
	return out, nil
}

// formsOf are the JSON forms of what rec writes: one mutation or those of a group;
// neither if it has none.
func formsOf(rec *walproxyv1.Record) (one json.RawMessage, group []json.RawMessage) {
	if slices.ContainsFunc(rec.GetGroup().GetMembers(), func(m *walproxyv1.Group_Member) bool { return m.GetStatement() != nil }) {
		return nil, memberForms(rec.GetGroup())
	}
	ms, err := mutation.Mutations(rec)
	if err != nil { // of a kind that is made of other things
		return nil, nil
	}
	var forms []json.RawMessage
	for _, m := range ms {
		form, ok := jsonform.AppendMutation(nil, m)
		if !ok {
			return nil, nil
		}
		forms = append(forms, form)
	}
	switch {
	case rec.GetGroup() != nil:
		return nil, forms
	case len(forms) == 1:
		return forms[0], nil
	}
	return nil, nil
}

// queueMax bounds Queue.
const queueMax = 100

// AddQueue fills in Queue, from of: the dead letters of an encoded key, in order.
func (l *Letter) AddQueue(keys [][]byte, of func(key []byte, limit int) ([]state.DeadLetter, error)) error {
	seen := map[position.LSN]bool{l.LSN: true}
	for _, key := range keys {
		queue, err := of(key, queueMax+2)
		if err != nil {
			return err
		}
		for i := range queue {
			d := &queue[i]
			if d.Position <= l.Position || seen[d.LSN] {
				continue
			}
			if len(l.Queue) == queueMax {
				l.QueueMore = true
				break
			}
			seen[d.LSN] = true
			l.Queue = append(l.Queue, Queued{LSN: d.LSN, Position: d.Position, State: stateOf(d), Reason: d.Reason, When: d.When.UTC(), Bytes: len(d.Payload)})
		}
	}
	return nil
}
