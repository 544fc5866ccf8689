package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/walproxy/walproxy"
)

func (s *Server) getSinks(w http.ResponseWriter, r *http.Request, _ target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	answer := struct {
		Sinks []sinkStatus `json:"sinks"`
	}{Sinks: newStatus(s.core.Status()).Sinks}
	return reply(w, answer)
}

// pauseSink pauses or resumes a sink and answers with its name and whether it is
// paused now. A pause holds also when it is answered by 202: a call of the store
// was still under way then.
func (s *Server) pauseSink(w http.ResponseWriter, r *http.Request, t target) *Error {
	q := parseQuery(r, "timeout")
	timeout := q.timeout()
	if q.failed != nil {
		return q.failed
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	pause, err := t.route == routePause, error(nil)
	if pause {
		err = s.core.PauseSink(ctx, t.sink)
	} else {
		err = s.core.ResumeSink(t.sink)
	}
	answer := struct {
		Sink   string `json:"sink"`
		Paused bool   `json:"paused"`
		Busy   bool   `json:"busy,omitempty"`
	}{Sink: t.sink, Paused: pause}
	if pause && errors.Is(err, context.DeadlineExceeded) {
		answer.Busy = true
		return replyStatus(w, http.StatusAccepted, answer)
	}
	if err != nil {
		return translate(err, reading)
	}
	return reply(w, answer)
}

// behindError says which sink holds a write up.
func behindError(b *walproxy.BehindError) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: "sink_behind", Retryable: true, after: 5,
		Message: fmt.Sprintf("sink %s lags by %d bytes and takes no more until it catches up (max_lag_bytes %d); nothing was written",
			b.Sink, b.LagBytes, b.MaxLagBytes),
		Details: map[string]any{"sink": b.Sink, "lag_bytes": b.LagBytes, "max_lag_bytes": b.MaxLagBytes}}
}
