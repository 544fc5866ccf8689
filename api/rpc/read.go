package rpc

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

const (
	defaultEvents = 100
	maxEvents     = 1000
	// eventPage are read from the store at once; an answer ends early, with next,
	// once it has eventBytes, or less: see Server.page.
	eventPage  = 16
	eventBytes = 4 << 20
)

// readContext bounds a read by its time-out and by a stop.
func (s *Server) readContext(r *http.Request, q *query) (context.Context, context.CancelFunc) {
	return s.untilStop(r.Context(), time.Now().Add(q.timeout()))
}

// untilStop bounds ctx by a time and by a stop.
func (s *Server) untilStop(ctx context.Context, until time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(ctx, until)
	undo := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { undo(); cancel() }
}

// readError is translate for a read, with a stop told apart from a time-out.
func (s *Server) readError(err error) *Error {
	if s.stopping.Err() != nil {
		return translate(walproxy.ErrClosed, reading)
	}
	return translate(err, reading)
}

func (s *Server) getRecord(w http.ResponseWriter, r *http.Request, t target) *Error {
	key, failed := s.recordKey(t)
	if failed != nil {
		return failed
	}
	q := parseQuery(r, "consistency", "timeout")
	from := s.reader(q.applied())
	ctx, cancel := s.readContext(r, &q)
	defer cancel()
	if q.failed != nil {
		return q.failed
	}
	doc, err := from.record(ctx, t.collection, key)
	if err != nil {
		return s.readError(err)
	}
	w.Header().Set("ETag", etag(doc.Version))
	if version, ok := parseETag(r.Header.Get("If-None-Match")); ok && version == uint64(doc.Version) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeJSON(w, http.StatusOK, jsonform.AppendDocument(nil, key, doc.Message()))
	return nil
}

func (s *Server) getEvents(w http.ResponseWriter, r *http.Request, t target) *Error {
	key, failed := s.recordKey(t)
	if failed != nil {
		return failed
	}
	q := parseQuery(r, "consistency", "timeout", "from", "limit")
	reader := s.reader(q.applied())
	from := q.number("from", 1, 1, 1<<62)
	limit := q.number("limit", defaultEvents, 1, maxEvents)
	ctx, cancel := s.readContext(r, &q)
	defer cancel()
	if q.failed != nil {
		return q.failed
	}
	page := s.page(eventBytes)
	defer page.end()
	out := append(jsonform.AppendKey([]byte(`{"key":`), key), `,"events":[`...)
	next, err := reader.eachEvent(ctx, t.collection, key, from, limit, page.size, func(e mutation.StoredEvent) (size int) {
		if e.Number > from {
			out = append(out, ',')
		}
		out = appendEvent(out, e)
		return len(out)
	})
	if err != nil {
		return s.readError(err)
	}
	out = append(out, ']')
	if next > 0 {
		out = appendNumber(out, `,"next":`, next)
	}
	page.made(cap(out))
	writeJSON(w, http.StatusOK, append(out, '}'))
	return nil
}

// eachEvent calls add, which returns the size of the answer so far, for up to limit
// events, fewer if that has most bytes. next is where there may be more; 0: the end.
func (r reader) eachEvent(ctx context.Context, collection string, key *walproxyv1.Key, from, limit uint64, most int, add func(mutation.StoredEvent) (size int)) (next uint64, err error) {
	size := 0
	for next = from; next < from+limit && size < most; {
		// A few at a time: how large events are is seen when they are there.
		page := min(fitting(eventPage, int(next-from), size, most), int(from+limit-next))
		events, err := r.events(ctx, collection, key, next, page)
		if err != nil {
			return 0, err
		}
		for _, e := range events {
			size = add(e)
		}
		next += uint64(len(events))
		if len(events) < page {
			return 0, nil
		}
	}
	return next, nil
}

func appendEvent(out []byte, e mutation.StoredEvent) []byte {
	out = appendNumber(out, `{"number":`, e.Number)
	out = appendNumber(out, `,"lsn":`, uint64(e.LSN))
	out = jsonform.AppendFields(append(out, `,"fields":`...), e.Event.GetFields())
	return append(out, '}')
}

// writeState is the answer of GET /v1/writes/{lsn}.
type writeState struct {
	LSN   uint64            `json:"lsn"`
	State string            `json:"state"`
	Sinks map[string]string `json:"sinks"`
}

func (s *Server) getWrite(w http.ResponseWriter, r *http.Request, t target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	lsn, failed := parseLSN(t.lsn)
	if failed != nil {
		return failed
	}
	ws, failed := s.writeState(lsn)
	if failed != nil {
		return failed
	}
	return reply(w, writeState{LSN: uint64(lsn), State: ws.State, Sinks: ws.Sinks})
}

func (s *Server) writeState(lsn walproxy.LSN) (walproxy.WriteState, *Error) {
	ws, err := s.core.WriteState(lsn)
	if err == nil && ws.State == walproxy.StateUnknown {
		err = walproxy.ErrUnknownLSN
	}
	if err != nil {
		return ws, translate(err, reading)
	}
	return ws, nil
}

func reply(w http.ResponseWriter, body any) *Error { return replyStatus(w, http.StatusOK, body) }

func replyStatus(w http.ResponseWriter, status int, body any) *Error {
	out, err := json.Marshal(body)
	if err != nil {
		return &Error{Status: http.StatusInternalServerError, Code: "internal",
			Message: "the answer could not be made", cause: err}
	}
	writeJSON(w, status, out)
	return nil
}
