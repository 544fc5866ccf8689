package rpc

import (
	"context"
	"errors"
	"net/http"
)

// drain has the proxy refuse new writes (POST), or take them again (DELETE). A
// POST that is answered by 202 holds, too: writes were still on their way into the
// log then, and another POST waits for them again.
func (s *Server) drain(w http.ResponseWriter, r *http.Request, _ target) *Error {
	q := parseQuery(r, "timeout")
	timeout := q.timeout()
	if q.failed != nil {
		return q.failed
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	var answer struct {
		Draining bool `json:"draining"`
		Busy     bool `json:"busy,omitempty"`
	}
	if r.Method == http.MethodDelete {
		if _, err := s.core.Undrain(); err != nil {
			return translate(err, refused)
		}
		return reply(w, answer)
	}
	answer.Draining = true
	err := s.core.Drain(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		answer.Busy = true
		return replyStatus(w, http.StatusAccepted, answer)
	}
	if err != nil {
		return translate(err, refused)
	}
	return reply(w, answer)
}
