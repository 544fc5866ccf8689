package rpc

import (
	"context"
	"errors"
	"net/http"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/dlq"
	"github.com/walproxy/walproxy/wal"
)

// retried is one dead letter that was logged again.
type retried struct {
	Origin walproxy.LSN `json:"origin"` // the dead letter
	LSN    walproxy.LSN `json:"lsn"`    // under which it was logged again
	State  string       `json:"state"`
}

// retryAnswer answers retries and edits.
type retryAnswer struct {
	LSNs    []walproxy.LSN `json:"lsns"`
	Retried []retried      `json:"retried"`
	// Unchanged: an edit changed nothing, and nothing was done.
	Unchanged bool `json:"unchanged,omitempty"`
}

// retryLetter logs one dead letter, and what is parked with it, again.
func (s *Server) retryLetter(w http.ResponseWriter, r *http.Request, t target) *Error {
	lsn, failed := parseLSN(t.lsn)
	if failed != nil {
		return failed
	}
	return s.again(w, r, t, func(ctx context.Context) ([]walproxy.Retried, *Error) {
		return s.retry(ctx, t.sink, []walproxy.LSN{lsn})
	})
}

// retryLetters is retryLetter for several.
func (s *Server) retryLetters(w http.ResponseWriter, r *http.Request, t target) *Error {
	lsns, failed := s.readLSNs(w, r)
	if failed != nil {
		return failed
	}
	return s.again(w, r, t, func(ctx context.Context) ([]walproxy.Retried, *Error) {
		return s.retry(ctx, t.sink, lsns)
	})
}

// editLetter is retryLetter with the body's write in place of the dead letter's.
func (s *Server) editLetter(w http.ResponseWriter, r *http.Request, t target) *Error {
	lsn, failed := parseLSN(t.lsn)
	if failed != nil {
		return failed
	}
	body, release, failed := s.readBody(w, r)
	if failed != nil {
		return failed
	}
	defer release()
	rec, err := dlq.Parse(body)
	if err != nil {
		return textError(err)
	}
	return s.again(w, r, t, func(ctx context.Context) ([]walproxy.Retried, *Error) {
		letter, err := s.core.DeadLetter(t.sink, lsn)
		if err != nil {
			return nil, translate(err, reading)
		}
		of, err := letter.Record()
		if err != nil {
			return nil, translate(err, reading)
		}
		dlq.KeepRequestID(rec, of)
		again, err := s.core.EditDeadLetter(ctx, t.sink, lsn, rec)
		return again, retryError(again, err)
	})
}

func textError(err error) *Error {
	var wrong *dlq.TextError
	if !errors.As(err, &wrong) {
		return translate(err, refused)
	}
	e := &Error{Status: http.StatusBadRequest, Code: codeInvalid, Field: fieldName(wrong.Field), Message: wrong.Error()}
	if wrong.Line > 0 {
		e.Details = map[string]any{"line": wrong.Line}
	}
	return e
}

func (s *Server) retry(ctx context.Context, sink string, lsns []walproxy.LSN) ([]walproxy.Retried, *Error) {
	again, err := s.core.RetryDeadLetters(ctx, sink, lsns)
	return again, retryError(again, err)
}

// retryError says what err means when some were logged before it.
func retryError(again []walproxy.Retried, err error) *Error {
	switch {
	case err == nil:
		return nil
	case len(again) > 0, errors.Is(err, wal.ErrPoisoned):
		return &Error{Status: http.StatusServiceUnavailable, Code: codeUnknownOutcome, Retryable: true, cause: err,
			Message: "not all of the queue is known to be logged; retrying again does no harm"}
	case errors.Is(err, walproxy.ErrNoDeadLetter), errors.Is(err, walproxy.ErrNoSink):
		return translate(err, reading)
	}
	return translate(err, refused)
}

// again answers with what do logged again; if the client wants that, when the sink has
// passed it, or with 202 if it has not in time.
func (s *Server) again(w http.ResponseWriter, r *http.Request, t target, do func(context.Context) ([]walproxy.Retried, *Error)) *Error {
	q := parseQuery(r, "timeout", "ack")
	timeout, level := q.timeout(), q.level()
	if q.failed != nil {
		return q.failed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), timeout)
	defer cancel()
	done, failed := do(ctx)
	if failed != nil {
		return failed
	}
	answer := retryAnswer{LSNs: []walproxy.LSN{}, Retried: []retried{}, Unchanged: len(done) == 0}
	for _, one := range done {
		answer.LSNs = append(answer.LSNs, one.LSN)
		answer.Retried = append(answer.Retried, retried{Origin: one.Origin, LSN: one.LSN, State: walproxy.StateLogged})
	}
	if level == walproxy.Logged || len(done) == 0 {
		return reply(w, answer)
	}
	if !s.outcomes(ctx, r, t.sink, answer.Retried) {
		return replyStatus(w, http.StatusAccepted, answer)
	}
	return reply(w, answer)
}

// outcomes waits until the sink has passed all, and fills in what became of them; false:
// it has not in time, or the client has gone.
func (s *Server) outcomes(ctx context.Context, r *http.Request, sink string, all []retried) (complete bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	defer context.AfterFunc(r.Context(), cancel)()
	complete = true
	for i := range all {
		one := &all[i]
		var dead *walproxy.DeadError
		if err := s.core.Wait(ctx, one.LSN, walproxy.Applied); err != nil && !errors.As(err, &dead) {
			complete = false
			continue // what was passed before is told; ctx has ended
		}
		// What became of the dead letter is what became of its first retry.
		if ws, err := s.core.WriteState(one.Origin); err == nil && ws.Sinks[sink] != "" {
			one.State = ws.Sinks[sink]
		} else {
			complete = false
		}
	}
	return complete
}
