package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/replay"
)

// getAccept shows what it means to go on with a sink that is refused.
func (s *Server) getAccept(w http.ResponseWriter, r *http.Request, t target) *Error {
	q := parseQuery(r, "after", "timeout")
	after, failed := s.after(&q)
	timeout := q.timeout()
	if q.failed != nil {
		return q.failed
	}
	if failed != nil {
		return failed
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	plan, err := s.core.PlanAccept(ctx, t.sink, after)
	if errors.Is(err, replay.ErrAfterNeeded) {
		return reply(w, plan.View())
	}
	if err != nil {
		return acceptError(err)
	}
	return reply(w, plan.View())
}

// postAccept has it go on as it was shown: token names what that was.
func (s *Server) postAccept(w http.ResponseWriter, r *http.Request, t target) *Error {
	q := parseQuery(r, "after", "token", "timeout")
	after, failed := s.after(&q)
	timeout := q.timeout()
	token := q.values.Get("token")
	if q.failed != nil {
		return q.failed
	}
	if failed != nil {
		return failed
	}
	if token == "" {
		return invalid("token", "is missing: GET the same path, which shows what it means and names it")
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	plan, err := s.core.PlanAccept(ctx, t.sink, after)
	if err == nil {
		entry := audit.Entry{Action: "sink accept", Sink: t.sink}
		DescribeAccept(&entry, plan)
		err = s.audited(r, entry, func(*audit.Entry) (err error) {
			plan, err = s.core.AcceptSink(ctx, t.sink, after, token)
			return err
		})
	}
	if err != nil {
		return acceptError(err)
	}
	return reply(w, plan.View())
}

// DescribeAccept notes in e what was accepted.
func DescribeAccept(e *audit.Entry, plan *replay.Plan) {
	count := func(ranges []replay.LSNRange) (n uint64) {
		for _, r := range ranges {
			n += r.Count()
		}
		return n
	}
	e.Counts = map[string]uint64{"never_applied_lsns": count(plan.Never), "applied_again_lsns": count(plan.Again)}
	e.Detail = strings.Join(plan.Effects, "; ")
	if plan.Refusal != nil {
		e.Detail = plan.Refusal.Error() + "; accepted: " + e.Detail
	}
}

func (s *Server) after(q *query) (*walproxy.LSN, *Error) {
	text := q.values.Get("after")
	if text == "" {
		return nil, nil
	}
	if text == "0" {
		return new(walproxy.LSN), nil
	}
	lsn, failed := parseLSN(text)
	if failed != nil {
		failed = invalid("after", "want an LSN, or 0")
	}
	return &lsn, failed
}

func acceptError(err error) *Error {
	conflict := func(code string) *Error {
		return &Error{Status: http.StatusConflict, Code: code, Message: err.Error()}
	}
	switch {
	case errors.Is(err, replay.ErrNothingToAccept):
		return conflict("nothing_to_accept")
	case errors.Is(err, replay.ErrNotAcceptable):
		return conflict("not_acceptable")
	case errors.Is(err, replay.ErrAfterNeeded):
		return conflict("after_needed")
	case errors.Is(err, replay.ErrAfterUnfit):
		return conflict("after_unfit")
	case errors.Is(err, walproxy.ErrNoSink), errors.Is(err, walproxy.ErrPlanChanged), errors.Is(err, walproxy.ErrClosed), errors.Is(err, audit.ErrUnwritten):
		return translate(err, refused)
	}
	// The store was asked.
	return &Error{Status: http.StatusServiceUnavailable, Code: "store_unavailable", Retryable: true, after: 5,
		Message: fmt.Sprintf("nothing was changed: %v", err), cause: err}
}
