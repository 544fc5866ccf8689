package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// Error is the one form of every error in an answer.
type Error struct {
	Status int `json:"status"`
	// Code is for programs and never changes its meaning.
	Code string `json:"code"`
	// Message is for people.
	Message string `json:"message"`
	// Field of the request that is wrong.
	Field string `json:"field,omitempty"`
	// Retryable: the same request may be sent again as it is. After
	// unknown_outcome only under the same request id.
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details,omitempty"`

	after int    // Retry-After, seconds
	allow string // Allow
	cause error  // for the log alone
}

// Codes that are not in the table of errors.
const (
	codeUnknownOutcome = "unknown_outcome"
	codeConflict       = "version_conflict"
	codeInvalid        = "invalid"
)

// stage is how far a request had come when it failed.
type stage int

const (
	refused stage = iota // before the write had its LSN: nothing was logged
	sent                 // the write has its LSN
	reading              // a read
)

// rows is the table from the core's errors to answers. The first match wins.
var rows = []struct {
	is        error
	status    int
	code      string
	message   string
	retryable bool
	after     int
}{
	{mutation.ErrNotFound, 404, "not_found", "there is no such record", false, 0},
	{walproxy.ErrUnroutable, 400, "no_route", "no route takes this collection", false, 0},
	{walproxy.ErrNoReader, 501, "no_reader", "the sink of this collection cannot answer reads", false, 0},
	{walproxy.ErrUnknownLSN, 404, "not_found", "there is no such write", false, 0},
	{walproxy.ErrRequestMismatch, 422, "idempotency_mismatch", "the request id was used for a different write", false, 0},
	{wal.ErrTooLarge, 413, "too_large", "the write is larger than log.max_record_bytes", false, 0},
	{wal.ErrFull, 507, "log_full", "the log has no room until the sinks catch up; nothing was written", true, 5},
	{walproxy.ErrDraining, 503, "draining", "the proxy is being drained and takes no new writes; nothing was written", true, 30},
	{walproxy.ErrClosed, 503, "closing", "the proxy is stopping; nothing was written", true, 1},
	{wal.ErrClosed, 503, "closing", "the proxy is stopping; nothing was written", true, 1},
	{wal.ErrPoisoned, 503, "poisoned", "the log failed and takes no more writes; nothing was written", true, 5},
	{walproxy.ErrParked, 409, "parked", "acknowledged writes to this key are dead letters; GET /v1/dlq/{sink} lists them", false, 0},
	{walproxy.ErrNoSink, 404, "not_found", "there is no such sink", false, 0},
	{walproxy.ErrNoDeadLetter, 404, "not_found", "there is no such dead letter", false, 0},
	{audit.ErrUnwritten, 503, "audit_unwritable", "what cannot be undone is noted first, and the audit file cannot be written", true, 5},
	{walproxy.ErrBackupRunning, 409, "backup_running", "one backup at a time", true, 30},
	{walproxy.ErrPlanChanged, 409, "plan_changed", "what it means has changed since it was shown: look again", false, 0},
	{walproxy.ErrHalted, 503, "sink_halted", "the sink that would answer has halted; GET /v1/status says why", true, 30},
	{walproxy.ErrPaused, 503, "sink_paused", "the sink that would answer is paused, with writes to this key in the log", true, 5},
	{walproxy.ErrDirect, 503, "direct_write", "the table is written directly in a transaction of PostgreSQL's, and its end did not come in time; nothing was written", true, 1},
	{walproxy.ErrVersionUnknown, 503, "store_unavailable", "the store did not say the record's version; nothing was written", true, 1},
	{replay.ErrClosed, 503, "closing", "the proxy is stopping", true, 1},
	{context.DeadlineExceeded, 503, "overloaded", "no room for the write in time; nothing was written", true, 1},
	{context.Canceled, 503, "canceled", "the request was canceled; nothing was written", true, 1},
}

// translate says what err means to a client.
func translate(err error, at stage) *Error {
	var invalidErr *mutation.InvalidError
	var jsonErr *jsonform.Error
	var conflict *walproxy.ConflictError
	var behind *walproxy.BehindError
	var isRetried *walproxy.RetriedError
	var noLetter *walproxy.NoDeadLetterError
	if denied := refusal(err); denied != nil {
		return denied
	}
	switch {
	case errors.As(err, &invalidErr):
		return &Error{Status: 400, Code: codeInvalid, Field: fieldName(invalidErr.Field),
			Message: fmt.Sprintf("%s: %s", fieldName(invalidErr.Field), invalidErr.Reason)}
	case errors.As(err, &jsonErr):
		return &Error{Status: 400, Code: codeInvalid, Field: jsonErr.Field, Message: jsonErr.Error(),
			Details: map[string]any{"offset": jsonErr.Offset}}
	case errors.As(err, &conflict):
		return conflictError(conflict)
	case errors.As(err, &behind):
		return behindError(behind)
	case errors.As(err, &isRetried):
		return retriedError(isRetried)
	case errors.As(err, &noLetter):
		return noLetterError(noLetter)
	case at == sent:
		return unknownOutcome(err)
	case at == reading && errors.Is(err, context.DeadlineExceeded):
		return &Error{Status: 504, Code: "timeout", Message: "the read did not finish in time", Retryable: true}
	}
	for _, row := range rows {
		if errors.Is(err, row.is) {
			return &Error{Status: row.status, Code: row.code, Message: row.message,
				Retryable: row.retryable, after: row.after, cause: err}
		}
	}
	if at == reading {
		return &Error{Status: 503, Code: "store_unavailable", after: 1, Retryable: true, cause: err,
			Message: "the store did not answer; whether the record exists is not known"}
	}
	// Nothing was logged. It is the store's answer to a precondition that failed.
	return &Error{Status: 503, Code: "store_unavailable", after: 1, Retryable: true, cause: err,
		Message: "the write could not be checked; nothing was written"}
}

// retriedError says which retry counts.
func retriedError(e *walproxy.RetriedError) *Error {
	if e.By == 0 {
		return &Error{Status: http.StatusServiceUnavailable, Code: "sink_behind_start", Retryable: true, after: 5, cause: e,
			Message: "the sink has yet to apply what was logged before the last start, and a retry of the dead letter may be in there; nothing was written"}
	}
	return &Error{Status: http.StatusConflict, Code: "retried", cause: e, Details: map[string]any{"retried_as": uint64(e.By)},
		Message: fmt.Sprintf("the dead letter is being retried already, as LSN %d, and only the first retry counts: wait until the sink has come to that", e.By)}
}

// noLetterError says what became of the dead letter.
func noLetterError(e *walproxy.NoDeadLetterError) *Error {
	out := &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such dead letter", cause: e}
	switch {
	case e.GivenUp:
		out.Message, out.Details = "it is no dead letter any more: it was given up", map[string]any{"given_up": true}
	case e.RetriedAs != 0:
		out.Message = fmt.Sprintf("it is no dead letter any more: it was retried as LSN %d", e.RetriedAs)
		out.Details = map[string]any{"retried_as": uint64(e.RetriedAs)}
	}
	return out
}

// unknownOutcome: the write has an LSN, and whether it is durable nobody knows.
func unknownOutcome(err error) *Error {
	e := &Error{Status: 503, Code: codeUnknownOutcome, cause: err,
		Message: "the write may or may not be applied; send it again under the same request id"}
	if errors.Is(err, context.DeadlineExceeded) {
		e.Status = 504
	}
	return e
}

func conflictError(c *walproxy.ConflictError) *Error {
	return &Error{Status: 409, Code: codeConflict,
		Message: fmt.Sprintf("the record's version is %d", c.Version),
		Details: map[string]any{"version": uint64(c.Version), "event_count": c.EventCount}}
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Status: 400, Code: codeInvalid, Field: field,
		Message: field + ": " + fmt.Sprintf(format, args...)}
}

var opPath = regexp.MustCompile(`^(ops\[\d+\]|precondition)\.`)

// fieldName turns the path of a message into the name of a JSON member.
func fieldName(field string) string {
	field = opPath.ReplaceAllString(field, "")
	return strings.Replace(field, "append_event.events", "append_event", 1)
}

// fail writes e as the whole answer.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, e *Error) {
	s.note(r.Method, e)
	h := w.Header()
	if e.after > 0 {
		h.Set("Retry-After", strconv.Itoa(e.after))
	}
	if e.allow != "" {
		h.Set("Allow", e.allow)
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", access.Challenge)
	}
	if version, ok := e.Details["version"].(uint64); ok && version > 0 {
		h.Set("ETag", etag(walproxy.LSN(version)))
	}
	writeJSON(w, e.Status, marshal(e))
}

// note logs what the operator has to mend.
func (s *Server) note(method string, e *Error) {
	if e.cause != nil && e.Status >= 500 {
		s.logger.Warn("request failed", zap.String("code", e.Code), zap.Int("status", e.Status),
			zap.String("method", method), zap.Error(e.cause))
	}
}

func crossOrigin() *Error {
	return &Error{Status: http.StatusForbidden, Code: "cross_origin", Message: "a browser sent this from another origin"}
}

// marshal: an Error holds nothing that could fail.
func marshal(e *Error) []byte {
	out, err := json.Marshal(e)
	if err != nil {
		return []byte(`{"status":500,"code":"internal","message":"unprintable error","retryable":false}`)
	}
	return out
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	body = append(body, '\n')
	if sw, ok := w.(*statusWriter); ok {
		body = sw.encode(body)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone: nobody to tell
}

func etag(version walproxy.LSN) string { return strconv.Quote(version.String()) }
