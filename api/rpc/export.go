package rpc

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/dlq"
)

const (
	exportLetters = 8 // read at once: each is as large as a write may be
	exportBuffer  = 64 << 10
)

// wantsLines reports whether the client asks for NDJSON: the parameter decides,
// without it the Accept header.
func wantsLines(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "ndjson"
	}
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		kind, _, _ := strings.Cut(part, ";")
		if strings.TrimSpace(kind) == contentLines {
			return true
		}
	}
	return false
}

// exportLetters streams all dead letters of a sink from an LSN on, one a line,
// each with all that is needed to write it elsewhere. A stream that could not be
// ended well ends with an error in place of the next line.
func (s *Server) exportLetters(w http.ResponseWriter, r *http.Request, t target) *Error {
	q := parseQuery(r, append([]string{"from", "format"}, dlq.Names...)...)
	from := walproxy.LSN(q.number("from", 1, 1, 1<<62))
	filter := q.filter()
	if q.failed != nil {
		return q.failed
	}
	list := func(from walproxy.LSN, limit int) ([]walproxy.DeadLetter, error) {
		return s.core.DeadLetters(t.sink, from, limit)
	}
	page, next, err := filter.Page(from, exportLetters, list)
	if err != nil {
		return translate(err, reading) // nothing was answered yet: a plain error
	}
	w.Header().Set("Content-Type", contentLines)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	out := lines{w: w, conn: http.NewResponseController(w), timeout: s.options.BodyTimeout}
	stream := s.core.Status().Stream
	for {
		for i := range page {
			l, err := dlq.WholeOf(&page[i], stream)
			if err != nil {
				out.fail(translate(err, reading))
				return nil
			}
			if !out.add(l) {
				return nil // the client takes nothing more
			}
		}
		if s.stopping.Err() != nil {
			out.fail(translate(walproxy.ErrClosed, reading))
			return nil
		}
		if next == 0 {
			break
		}
		if page, next, err = filter.Page(next, exportLetters, list); err != nil {
			out.fail(translate(err, reading))
			return nil
		}
	}
	out.flush()
	return nil
}

// lines is a body of JSON lines. A client that does not take them for timeout is
// given up.
type lines struct {
	w       http.ResponseWriter
	conn    *http.ResponseController
	timeout time.Duration
	buffer  []byte
}

func (o *lines) add(value any) bool {
	text, err := json.Marshal(value)
	if err != nil {
		o.fail(translate(err, reading))
		return false
	}
	o.buffer = append(append(o.buffer, text...), '\n')
	return len(o.buffer) < exportBuffer || o.flush()
}

func (o *lines) fail(e *Error) {
	o.add(struct {
		Error *Error `json:"error"`
	}{e})
	o.flush()
}

func (o *lines) flush() bool {
	_ = o.conn.SetWriteDeadline(time.Now().Add(o.timeout)) // not every writer has one
	_, err := o.w.Write(o.buffer)
	o.buffer = o.buffer[:0]
	return err == nil && o.conn.Flush() == nil
}
