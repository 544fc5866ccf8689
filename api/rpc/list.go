package rpc

import (
	"context"
	"encoding/base64"
	"net/http"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

const (
	defaultEntries = 100
	maxEntries     = 1000
	// entryPage are read at once; an answer ends early once it has entryBytes, or less:
	// see Server.page.
	entryPage  = 16
	entryBytes = 4 << 20
)

// getRecords lists a collection in the order of its keys.
func (s *Server) getRecords(w http.ResponseWriter, r *http.Request, t target) *Error {
	q := parseQuery(r, "prefix", "limit", "page_token", "consistency", "timeout")
	prefix, limit := q.values.Get("prefix"), q.number("limit", defaultEntries, 1, maxEntries)
	from := s.reader(q.applied())
	after, failed := s.parsePageToken(t.collection, q.values.Get("page_token"))
	if failed != nil {
		q.fail(failed)
	}
	if kind := s.options.KeyType(t.collection); prefix != "" && kind != mutation.KeyString {
		q.fail(invalid("prefix", "the keys of this collection are of type %s: only string keys have prefixes", kind))
	}
	ctx, cancel := s.readContext(r, &q)
	defer cancel()
	if q.failed != nil {
		return q.failed
	}
	page := s.page(entryBytes)
	defer page.end()
	out := []byte(`{"records":[`)
	first := true
	next, err := from.eachEntry(ctx, t.collection, prefix, after, int(limit), page.size, func(e sinks.Entry) (size int) {
		if !first {
			out = append(out, ',')
		}
		first = false
		out = jsonform.AppendDocument(out, e.Key, e.Document.Message())
		return len(out)
	})
	if err != nil {
		return s.readError(err)
	}
	out = append(out, ']')
	if next != nil {
		out = append(append(append(out, `,"next_page_token":"`...), pageToken(t.collection, next)...), '"')
	}
	page.made(cap(out))
	writeJSON(w, http.StatusOK, append(out, '}'))
	return nil
}

// pageToken names the place behind a key. Clients need not know how.
func pageToken(collection string, key *walproxyv1.Key) string {
	return base64.RawURLEncoding.EncodeToString(mutation.AppendKey(nil, collection, key))
}

// parsePageToken is the inverse of pageToken; "" is no key.
func (s *Server) parsePageToken(collection, token string) (*walproxyv1.Key, *Error) {
	if token == "" {
		return nil, nil
	}
	wrong := invalid("page_token", "is none that this collection gave out")
	enc, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, wrong
	}
	of, key, err := mutation.ParseKey(enc)
	if err != nil || of != collection {
		return nil, wrong
	}
	if key, err = mutation.CanonicalKey(key, s.options.KeyType(collection)); err != nil {
		return nil, wrong
	}
	return key, nil
}

// eachEntry calls add, which returns the size of the answer so far, for up to limit
// records, fewer if that has most bytes. next is the key to go on behind; nil: the end.
func (r reader) eachEntry(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit, most int, add func(sinks.Entry) (size int)) (next *walproxyv1.Key, err error) {
	for size, n := 0, 0; n < limit && size < most; {
		entries, err := r.scan(ctx, collection, prefix, after, min(fitting(entryPage, n, size, most), limit-n))
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			return nil, nil
		}
		for _, e := range entries {
			size = add(e)
			after = e.Key
		}
		n += len(entries)
	}
	return after, nil
}

// fitting is how many more records are read at once, at most page: as many as an answer of
// most bytes has room for, if they are as large as the n in size bytes of it.
func fitting(page, n, size, most int) int {
	switch {
	case n == 0 && most <= shortPage:
		return 1 // any may be larger than that
	case n == 0 || size == 0:
		return page
	}
	return max(1, min(page, (most-size)*n/size))
}
