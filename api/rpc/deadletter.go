package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/internal/dlq"
)

const (
	defaultLetters = 100
	maxLetters     = 1000
	// letterPage are read at once; an answer ends early once it has letterBytes, or less:
	// see Server.page.
	letterPage  = 64
	letterBytes = 4 << 20
)

func (s *Server) getLetters(w http.ResponseWriter, r *http.Request, t target) *Error {
	if wantsLines(r) {
		return s.exportLetters(w, r, t)
	}
	q := parseQuery(r, append([]string{"from", "limit", "format"}, dlq.Names...)...)
	if format := q.values.Get("format"); format != "" && format != "json" {
		q.fail(invalid("format", "%q is neither json nor ndjson", clip(format)))
	}
	from := q.number("from", 1, 1, 1<<62)
	limit := q.number("limit", defaultLetters, 1, maxLetters)
	filter := q.filter()
	if q.failed != nil {
		return q.failed
	}
	page := s.page(letterBytes)
	defer page.end()
	out, err := s.listLetters(t.sink, &filter, walproxy.LSN(from), int(limit), page.size)
	if err != nil {
		return translate(err, reading)
	}
	page.made(cap(out))
	writeJSON(w, http.StatusOK, out)
	return nil
}

// listLetters is the answer with up to limit dead letters, fewer if it has most bytes then.
func (s *Server) listLetters(sink string, filter *dlq.Filter, from walproxy.LSN, limit, most int) ([]byte, error) {
	out := []byte(`{"dead_letters":[`)
	for n := 0; n < limit && len(out) < most; {
		atOnce := min(fitting(letterPage, n, len(out), most), limit-n)
		found, next, err := filter.Page(from, atOnce, func(from walproxy.LSN, limit int) ([]walproxy.DeadLetter, error) {
			return s.core.DeadLetters(sink, from, limit)
		})
		if err != nil {
			return nil, err
		}
		for i := range found {
			l, err := dlq.Of(&found[i])
			if err != nil {
				return nil, err
			}
			text, err := json.Marshal(l)
			if err != nil {
				return nil, err
			}
			if n++; n > 1 {
				out = append(out, ',')
			}
			out = append(out, text...)
		}
		if from = next; next == 0 || len(found) < atOnce {
			break
		}
	}
	out = append(out, ']')
	if from != 0 {
		out = appendNumber(out, `,"next":`, uint64(from))
	}
	return append(out, '}'), nil
}

// filter is which dead letters are asked for.
func (q *query) filter() dlq.Filter {
	filter, err := dlq.ParseFilter(q.values)
	var wrong *dlq.FieldError
	if errors.As(err, &wrong) {
		q.fail(invalid(wrong.Field, "%s", wrong.Reason))
	}
	return filter
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
	l, err := dlq.WholeOf(&d, s.core.Status().Stream)
	if err == nil {
		err = l.AddQueue(d.Keys, func(key []byte, limit int) ([]walproxy.DeadLetter, error) {
			return s.core.DeadLettersOf(t.sink, key, limit)
		})
	}
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
	if _, failed := s.discard(r, t.sink, []walproxy.LSN{lsn}); failed != nil {
		return failed
	}
	return reply(w, struct {
		LSN walproxy.LSN `json:"lsn"`
	}{lsn})
}

// lsnsBody is what POST /v1/dlq/{sink}:retry and :discard take.
type lsnsBody struct {
	LSNs []walproxy.LSN `json:"lsns"`
}

// readLSNs reads the LSNs of a body.
func (s *Server) readLSNs(w http.ResponseWriter, r *http.Request) ([]walproxy.LSN, *Error) {
	body, release, failed := s.readBody(w, r)
	if failed != nil {
		return nil, failed
	}
	defer release()
	var in lsnsBody
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&in)
	switch {
	case err != nil:
		return nil, invalid("lsns", `want {"lsns": [...]} with at most %d whole numbers`, walproxy.RetryMax)
	case len(in.LSNs) == 0 || len(in.LSNs) > walproxy.RetryMax:
		return nil, invalid("lsns", "%d of them, want 1 to %d", len(in.LSNs), walproxy.RetryMax)
	}
	return in.LSNs, nil
}

// discardLetters gives several up at once.
func (s *Server) discardLetters(w http.ResponseWriter, r *http.Request, t target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	lsns, failed := s.readLSNs(w, r)
	if failed != nil {
		return failed
	}
	gone, failed := s.discard(r, t.sink, lsns)
	if failed != nil {
		return failed
	}
	answer := lsnsBody{LSNs: []walproxy.LSN{}}
	for i := range gone {
		answer.LSNs = append(answer.LSNs, gone[i].LSN)
	}
	return reply(w, answer)
}

// discard gives dead letters up, and notes who asked for it. If none is there that is
// an error.
func (s *Server) discard(r *http.Request, sink string, lsns []walproxy.LSN) (gone []walproxy.DeadLetter, failed *Error) {
	entry := audit.Entry{Action: "dlq discard", Sink: sink, Detail: dlq.Span(lsns), Counts: map[string]uint64{"dead_letters": uint64(len(lsns))}}
	err := s.audited(r, entry, func(entry *audit.Entry) (err error) {
		gone, err = s.core.DiscardDeadLetters(sink, lsns)
		if err == nil && len(gone) == 0 {
			err = fmt.Errorf("%w: %s at sink %s", walproxy.ErrNoDeadLetter, dlq.Span(lsns), sink)
		}
		entry.Counts = map[string]uint64{"dead_letters": uint64(len(gone))}
		return err
	})
	if err != nil {
		return nil, translate(err, refused)
	}
	return gone, nil
}

func parseLSN(text string) (walproxy.LSN, *Error) {
	lsn, err := strconv.ParseUint(text, 10, 64)
	if err != nil || lsn == 0 {
		return 0, invalid("lsn", "%q is no LSN: want a whole number from 1", clip(text))
	}
	return walproxy.LSN(lsn), nil
}
