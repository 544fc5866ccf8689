package rpc

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"time"

	"github.com/walproxy/walproxy"
)

// reserveWait is how long a request waits for others to free their bytes.
const reserveWait = time.Second

// reserve takes n bytes of what all requests may hold while they are read.
func (s *Server) reserve(r *http.Request, n int64) (release func(), failed *Error) {
	return s.reserveFor(r.Context(), reserveWait, n)
}

func tooManyRequests() *Error {
	return &Error{Status: http.StatusTooManyRequests, Code: "too_many_requests", after: 1, Retryable: true,
		Message: "api.max_inflight_bytes are being read already; nothing was written"}
}

// readBody reads a whole body of at most MaxItemBytes. Nothing is allocated for
// one that is announced as larger.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (body []byte, release func(), failed *Error) {
	encoding, failed := checkContent(r, false)
	if failed != nil {
		return nil, nil, failed
	}
	most, length := s.limits.Load().MaxItemBytes, r.ContentLength
	if r.ContentLength > most {
		return nil, nil, s.bodyTooLarge(w)
	}
	if encoding != "" {
		length = -1 // of what it is made of
	}
	n := length
	if n < 0 {
		n = most + encodingBytes(encoding)
	}
	release, failed = s.reserve(r, n)
	if failed != nil {
		return nil, nil, failed
	}
	in := s.patient(w, r.Body)
	plain, done := decoded(in, encoding)
	body, err := readUpTo(plain, length, most)
	done()
	in.end()
	if err == nil && int64(len(body)) > most {
		release()
		return nil, nil, s.bodyTooLarge(w)
	}
	if err != nil {
		release()
		return nil, nil, bodyError(err)
	}
	return body, release, nil
}

func readUpTo(body io.Reader, length, most int64) ([]byte, error) {
	if length < 0 {
		return io.ReadAll(io.LimitReader(body, most+1))
	}
	buf := make([]byte, length)
	_, err := io.ReadFull(body, buf)
	return buf, err
}

func (s *Server) bodyTooLarge(w http.ResponseWriter) *Error {
	w.Header().Set("Connection", "close") // the rest is not worth reading
	return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large",
		Message: "the body is larger than api.max_item_bytes",
		Details: map[string]any{"max_bytes": s.limits.Load().MaxItemBytes}}
}

// bodyError says why a body could not be read. Nothing of it was used.
func bodyError(err error) *Error {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	var encoding *encodingError
	switch {
	case errors.As(err, &encoding):
		return invalid("Content-Encoding", "the body %v", err)
	case errors.Is(err, errStopping):
		return translate(walproxy.ErrClosed, refused)
	case errors.As(err, &tooLarge):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large",
			Message: "the body is larger than api.max_body_bytes",
			Details: map[string]any{"max_bytes": tooLarge.Limit}}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &Error{Status: http.StatusRequestTimeout, Code: "request_timeout", Retryable: true,
			Message: "the body did not arrive in time"}
	}
	return &Error{Status: http.StatusBadRequest, Code: "incomplete_body", Retryable: true,
		Message: "the body ended before its announced end"}
}

// checkContent refuses what is surely not JSON, and returns how it is encoded. What
// curl -d sends by default is let through: browsers are kept out by their Origin.
func checkContent(r *http.Request, lines bool) (encoding string, failed *Error) {
	switch contentType(r) {
	case "", "application/json", "application/x-www-form-urlencoded", "text/plain":
		return contentEncoding(r)
	case contentLines:
		if lines {
			return contentEncoding(r)
		}
	}
	return "", unsupported("Content-Type", "%q is not supported; want application/json", clip(r.Header.Get("Content-Type")))
}

func unsupported(field, format string, args ...any) *Error {
	e := invalid(field, format, args...)
	e.Status, e.Code = http.StatusUnsupportedMediaType, "unsupported_media_type"
	return e
}

const contentLines = "application/x-ndjson"

func contentType(r *http.Request) string {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return ""
	}
	kind, _, err := mime.ParseMediaType(header)
	if err != nil {
		return header
	}
	return kind
}
