package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

const (
	defaultLetters = 100
	maxLetters     = 1000
)

// letter is a dead letter in an answer.
type letter struct {
	LSN        walproxy.LSN    `json:"lsn"`
	Position   walproxy.LSN    `json:"position"`
	State      string          `json:"state"` // dead or parked
	Collection string          `json:"collection"`
	Key        json.RawMessage `json:"key"`
	Reason     string          `json:"reason"`
	// Details of the reason, as far as the store gives any.
	Details  map[string]string `json:"details,omitempty"`
	Attempts uint64            `json:"attempts"`
	When     time.Time         `json:"when"`
	Parks    bool              `json:"parks"`
	Bytes    int               `json:"bytes"`
	*wholeLetter
}

// wholeLetter is what only an answer about one dead letter, or all, has.
type wholeLetter struct {
	// Keys that it writes, if they are several.
	Keys []letterKey `json:"keys,omitempty"`
	// Mutation is what POST /v1/mutations takes; Group are those of a group, which
	// were one write. Neither is there if the write has no such form.
	Mutation json.RawMessage   `json:"mutation,omitempty"`
	Group    []json.RawMessage `json:"group,omitempty"`
	// Record as it was logged: Base64 of its protobuf encoding (walproxy.v1.Record).
	Record []byte `json:"record"`
}

type letterKey struct {
	Collection string          `json:"collection"`
	Key        json.RawMessage `json:"key"`
}

func newLetter(d *walproxy.DeadLetter, whole bool) (letter, error) {
	collection, key, err := d.Key()
	if err != nil {
		return letter{}, err
	}
	out := letter{
		LSN: d.LSN, Position: d.Position, Details: d.Details, Attempts: d.Attempts, State: walproxy.StateDead, Collection: collection, Key: json.RawMessage("null"),
		Reason: d.Reason, When: d.When.UTC(), Parks: d.Parks, Bytes: len(d.Payload),
	}
	if d.IsParked() {
		out.State = walproxy.StateParked
	}
	if key != nil {
		out.Key = jsonform.AppendKey(nil, key)
	}
	if whole {
		out.wholeLetter, err = newWhole(d)
	}
	return out, err
}

func newWhole(d *walproxy.DeadLetter) (*wholeLetter, error) {
	w := &wholeLetter{Record: d.Payload}
	for _, enc := range d.Keys {
		collection, key, err := mutation.ParseKey(enc)
		if err != nil {
			return nil, err
		}
		if len(d.Keys) > 1 {
			w.Keys = append(w.Keys, letterKey{collection, jsonform.AppendKey(nil, key)})
		}
	}
	body, err := d.Record()
	if err != nil {
		return nil, err
	}
	ms, err := mutation.Mutations(body)
	if err != nil { // of a kind that is made of other things
		return w, nil
	}
	var forms []json.RawMessage
	for _, m := range ms {
		form, ok := jsonform.AppendMutation(nil, m)
		if !ok {
			return w, nil
		}
		forms = append(forms, form)
	}
	if body.GetGroup() != nil {
		w.Group = forms
	} else if len(forms) == 1 {
		w.Mutation = forms[0]
	}
	return w, nil
}

func (s *Server) getLetters(w http.ResponseWriter, r *http.Request, t target) *Error {
	if wantsLines(r) {
		return s.exportLetters(w, r, t)
	}
	q := parseQuery(r, "from", "limit", "format")
	if format := q.values.Get("format"); format != "" && format != "json" {
		q.fail(invalid("format", "%q is neither json nor ndjson", clip(format)))
	}
	from := q.number("from", 1, 1, 1<<62)
	limit := q.number("limit", defaultLetters, 1, maxLetters)
	if q.failed != nil {
		return q.failed
	}
	found, err := s.core.DeadLetters(t.sink, walproxy.LSN(from), int(limit))
	if err != nil {
		return translate(err, reading)
	}
	answer := struct {
		DeadLetters []letter     `json:"dead_letters"`
		Next        walproxy.LSN `json:"next,omitempty"`
	}{DeadLetters: []letter{}}
	for i := range found {
		l, err := newLetter(&found[i], false)
		if err != nil {
			return translate(err, reading)
		}
		answer.DeadLetters = append(answer.DeadLetters, l)
	}
	if len(found) > 0 {
		next := found[len(found)-1].LSN + 1
		more, err := s.core.DeadLetters(t.sink, next, 1)
		if err != nil {
			return translate(err, reading)
		}
		if len(more) > 0 {
			answer.Next = next
		}
	}
	return reply(w, answer)
}

func (s *Server) getLetter(w http.ResponseWriter, r *http.Request, t target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	lsn, failed := parseLSN(t.lsn)
	if failed != nil {
		return failed
	}
	d, err := s.core.DeadLetter(t.sink, lsn)
	if err != nil {
		return translate(err, reading)
	}
	l, err := newLetter(&d, true)
	if err != nil {
		return translate(err, reading)
	}
	return reply(w, l)
}

// deleteLetter gives a dead letter up.
func (s *Server) deleteLetter(w http.ResponseWriter, r *http.Request, t target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	lsn, failed := parseLSN(t.lsn)
	if failed != nil {
		return failed
	}
	entry := audit.Entry{Action: "dlq discard", Sink: t.sink, Detail: fmt.Sprintf("LSN %d", lsn), Counts: map[string]uint64{"dead_letters": 1}}
	err := s.audited(r, entry, func(*audit.Entry) error { return s.core.DiscardDeadLetter(t.sink, lsn) })
	if err != nil {
		return translate(err, refused)
	}
	return reply(w, struct {
		LSN walproxy.LSN `json:"lsn"`
	}{lsn})
}

// retryLetter answers with the LSNs under which the dead letter, and what is
// parked behind it, was logged again.
func (s *Server) retryLetter(w http.ResponseWriter, r *http.Request, t target) *Error {
	q := parseQuery(r, "timeout")
	timeout := q.timeout()
	if q.failed != nil {
		return q.failed
	}
	lsn, failed := parseLSN(t.lsn)
	if failed != nil {
		return failed
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	results, err := s.core.RetryDeadLetter(ctx, t.sink, lsn)
	if err != nil && len(results) > 0 || errors.Is(err, wal.ErrPoisoned) {
		return &Error{Status: 503, Code: codeUnknownOutcome, Retryable: true, cause: err,
			Message: "not all of the queue is known to be logged; retrying again does no harm"}
	}
	if err != nil {
		return translate(err, reading)
	}
	answer := struct {
		LSNs []walproxy.LSN `json:"lsns"`
	}{}
	for _, result := range results {
		answer.LSNs = append(answer.LSNs, result.LSN)
	}
	return reply(w, answer)
}

func parseLSN(text string) (walproxy.LSN, *Error) {
	lsn, err := strconv.ParseUint(text, 10, 64)
	if err != nil || lsn == 0 {
		return 0, invalid("lsn", "%q is no LSN: want a whole number from 1", clip(text))
	}
	return walproxy.LSN(lsn), nil
}
