package rpc

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
)

// decoder turns a body into an op.
type decoder func(body []byte) (*walproxyv1.Op, error)

const verbNames = "unset, increment, append, prepend, touch"

var verbs = map[string]decoder{
	"unset":     unsetOp,
	"increment": incrementOp,
	"append":    appendOp,
	"prepend":   prependOp,
	"touch":     touchOp,
}

func setOp(body []byte) (*walproxyv1.Op, error) {
	m, err := jsonform.DecodeFields(body)
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Set_{Set: &walproxyv1.Op_Set{Fields: m}}}, err
}

func mergeOp(body []byte) (*walproxyv1.Op, error) {
	m, err := jsonform.DecodeFields(body)
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Merge_{Merge: &walproxyv1.Op_Merge{Fields: m}}}, err
}

func incrementOp(body []byte) (*walproxyv1.Op, error) {
	m, err := jsonform.DecodeFields(body)
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Increment_{Increment: &walproxyv1.Op_Increment{Fields: m}}}, err
}

func appendOp(body []byte) (*walproxyv1.Op, error) {
	m, err := jsonform.DecodeFields(body)
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Append_{Append: &walproxyv1.Op_Append{Fields: m}}}, err
}

func prependOp(body []byte) (*walproxyv1.Op, error) {
	m, err := jsonform.DecodeFields(body)
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Prepend_{Prepend: &walproxyv1.Op_Prepend{Fields: m}}}, err
}

func unsetOp(body []byte) (*walproxyv1.Op, error) {
	names, err := jsonform.DecodeNames(body)
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Unset_{Unset: &walproxyv1.Op_Unset{Fields: names}}}, err
}

func touchOp(body []byte) (*walproxyv1.Op, error) {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Touch_{Touch: &walproxyv1.Op_Touch{}}}, noFields(body)
}

func deleteOp(body []byte) (*walproxyv1.Op, error) {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Delete_{Delete: &walproxyv1.Op_Delete{}}}, noFields(body)
}

// noFields accepts an empty body or an empty object.
func noFields(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	m, err := jsonform.DecodeFields(body)
	if err == nil && len(m) > 0 {
		return &jsonform.Error{Reason: "want an empty body"}
	}
	return err
}

func (s *Server) putRecord(w http.ResponseWriter, r *http.Request, t target) *Error {
	return s.writeRecord(w, r, t, setOp)
}

func (s *Server) patchRecord(w http.ResponseWriter, r *http.Request, t target) *Error {
	return s.writeRecord(w, r, t, mergeOp)
}

func (s *Server) deleteRecord(w http.ResponseWriter, r *http.Request, t target) *Error {
	return s.writeRecord(w, r, t, deleteOp)
}

func (s *Server) postVerb(w http.ResponseWriter, r *http.Request, t target) *Error {
	return s.writeRecord(w, r, t, verbs[t.verb])
}

func (s *Server) writeRecord(w http.ResponseWriter, r *http.Request, t target, decode decoder) *Error {
	return s.write(w, r, t, func(m *walproxyv1.Mutation, body []byte) *Error {
		op, err := decode(body)
		if err != nil {
			return translate(err, refused)
		}
		m.Ops = []*walproxyv1.Op{op}
		return nil
	})
}

func (s *Server) postEvents(w http.ResponseWriter, r *http.Request, t target) *Error {
	return s.write(w, r, t, func(m *walproxyv1.Mutation, body []byte) *Error {
		count, events, err := jsonform.DecodeEvents(body)
		if err != nil {
			return translate(err, refused)
		}
		m.Ops = []*walproxyv1.Op{{Kind: &walproxyv1.Op_AppendEvent_{
			AppendEvent: &walproxyv1.Op_AppendEvent{Events: events}}}}
		if count == nil {
			return nil
		}
		if m.Precondition != nil {
			return invalid("expected_version", "stands beside If-Match or If-None-Match; want one of them")
		}
		m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfEventCount{IfEventCount: *count}}
		return nil
	})
}

// write does one write to the record that t names; fill makes its ops.
func (s *Server) write(w http.ResponseWriter, r *http.Request, t target, fill func(*walproxyv1.Mutation, []byte) *Error) *Error {
	m, wait, failed := s.head(r, t)
	if failed != nil {
		return failed
	}
	body, release, failed := s.readBody(w, r)
	if failed != nil {
		return failed
	}
	failed = fill(m, body)
	if failed != nil {
		release()
		return failed
	}
	byHeader := r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != ""
	// The whole request is here: nothing that happens to the connection decides
	// over the write any more, only the time-out. A stop wakes reads, and net/http
	// may be reading ahead by then; it would cancel the request's own context.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), wait.timeout)
	defer cancel()
	pending, err := s.core.Submit(ctx, m)
	release() // the log has its own copy
	if err != nil {
		failed := translate(err, refused)
		trimField(failed, m)
		if failed.Code == codeConflict && byHeader {
			failed.Status = http.StatusPreconditionFailed
		}
		return failed
	}
	answer, failed := s.await(ctx, ctx, pending, wait.level, m.GetRequestId() != "")
	if failed != nil {
		return failed
	}
	if m.GetOps()[0].GetDelete() == nil {
		w.Header().Set("ETag", etag(answer.LSN))
	}
	writeJSON(w, answer.status, answer.append(nil))
	return nil
}

// trimField: in a body that is the op's fields, a field is named by itself.
func trimField(e *Error, m *walproxyv1.Mutation) {
	for _, op := range []string{"set.", "merge.", "unset.", "increment.", "append.", "prepend."} {
		if rest, ok := strings.CutPrefix(e.Field, op); ok {
			e.Message = strings.Replace(e.Message, e.Field, rest, 1)
			e.Field = rest
			return
		}
	}
	if m.GetOps()[0].GetAppendEvent() != nil && strings.HasPrefix(e.Field, "append_event") {
		field := "events" + strings.TrimPrefix(e.Field, "append_event")
		e.Message = strings.Replace(e.Message, e.Field, field, 1)
		e.Field = field
	}
}

// wait is what a client waits for.
type wait struct {
	level   walproxy.Level
	timeout time.Duration
}

// head reads everything of a write but its body.
func (s *Server) head(r *http.Request, t target) (*walproxyv1.Mutation, wait, *Error) {
	key, failed := s.recordKey(t)
	if failed != nil {
		return nil, wait{}, failed
	}
	q := parseQuery(r, "ack", "timeout", "ttl", "expires_at")
	m := &walproxyv1.Mutation{
		Collection:   t.collection,
		Key:          key,
		Precondition: q.precondition(r),
		RequestId:    q.requestID(r),
	}
	m.ExpiresAt = q.expiry(m.RequestId != "")
	return m, wait{q.level(), q.timeout()}, q.failed
}

// isDone reports whether the ack is there without waiting.
func isDone(p api.Pending) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// awaitUntil is await with a bound; where nothing is to be waited for it needs no timer.
func (s *Server) awaitUntil(ctx context.Context, until time.Time, pending api.Pending, level walproxy.Level, hasID bool) (written, *Error) {
	if level != walproxy.Logged || !isDone(pending) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	return s.await(ctx, ctx, pending, level, hasID)
}

// await waits for the ack, and for the sinks if asked to: for them no longer than client
// lasts, for a call may come with any deadline.
func (s *Server) await(ctx, client context.Context, pending api.Pending, level walproxy.Level, hasID bool) (written, *Error) {
	result, err := pending.Wait(ctx)
	if err != nil {
		failed := translate(err, sent)
		if failed.Code == codeUnknownOutcome {
			failed.Retryable = hasID
			failed.Details = map[string]any{"lsn": uint64(pending.LSN())}
		}
		return written{}, failed
	}
	answer := written{Result: result, state: walproxy.StateLogged, status: http.StatusOK}
	if level == walproxy.Logged {
		return answer, nil
	}
	// A stop cuts the wait short, not the ack: the write is in the log.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	defer context.AfterFunc(client, cancel)()
	if err := s.core.Wait(ctx, result.LSN, walproxy.Applied); err != nil {
		answer.status = http.StatusAccepted
		var dead *walproxy.DeadError
		if errors.As(err, &dead) && dead.LSN == result.LSN {
			answer.state = string(dead.Fate)
		}
		return answer, nil
	}
	answer.state = walproxy.StateApplied
	return answer, nil
}
