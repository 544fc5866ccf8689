package rpc

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
)

const (
	defaultTimeout = 30 * time.Second
	maxTimeout     = 10 * time.Minute
	maxTTL         = 100 * 365 * 24 * time.Hour
)

// query reads the parameters of a request and refuses those it does not know.
type query struct {
	values url.Values
	failed *Error
}

func parseQuery(r *http.Request, known ...string) query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{failed: invalid("query", "is not percent-encoded")}
	}
	q := query{values: values}
	for name, all := range values {
		if !slices.Contains(known, name) {
			q.fail(invalid(clip(name), "unknown parameter; known here: %s", strings.Join(known, ", ")))
		} else if len(all) > 1 {
			q.fail(invalid(name, "stands twice"))
		}
	}
	return q
}

func (q *query) fail(e *Error) {
	if q.failed == nil {
		q.failed = e
	}
}

func (q *query) level() walproxy.Level {
	switch ack := q.values.Get("ack"); ack {
	case "", "logged":
		return walproxy.Logged
	case "applied":
		return walproxy.Applied
	default:
		q.fail(invalid("ack", "%q is neither logged nor applied", clip(ack)))
		return walproxy.Logged
	}
}

func (q *query) timeout() time.Duration {
	return q.duration("timeout", defaultTimeout, maxTimeout)
}

func (q *query) duration(name string, missing, most time.Duration) time.Duration {
	text := q.values.Get(name)
	if text == "" {
		return missing
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > most {
		q.fail(invalid(name, "want a duration as 500ms or 30s, at most %s", most))
		return missing
	}
	return d
}

func (q *query) number(name string, missing, least, most uint64) uint64 {
	text := q.values.Get(name)
	if text == "" {
		return missing
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most {
		q.fail(invalid(name, "want a whole number from %d to %d", least, most))
		return missing
	}
	return n
}

// expiry is what ?expires_at= or ?ttl= asks for.
func (q *query) expiry(hasRequestID bool) *timestamppb.Timestamp {
	at, ttl := q.values.Get("expires_at"), q.duration("ttl", 0, maxTTL)
	switch {
	case at != "" && ttl > 0:
		q.fail(invalid("ttl", "stands beside expires_at; want one of them"))
	case at != "":
		t, err := jsonform.ParseTime(at)
		if err != nil {
			q.fail(invalid("expires_at", "%s", err))
		}
		return t
	case ttl > 0 && hasRequestID:
		// A repeat would end later than the original: another write under the id.
		q.fail(invalid("ttl", "cannot be repeated under a request id; send expires_at"))
	case ttl > 0:
		return timestamppb.New(time.Now().Add(ttl))
	}
	return nil
}

// requestID is the Idempotency-Key.
func (q *query) requestID(r *http.Request) string {
	values := r.Header.Values("Idempotency-Key")
	if len(values) > 1 {
		q.fail(invalid("Idempotency-Key", "stands twice"))
	}
	if len(values) == 1 && values[0] == "" {
		q.fail(invalid("Idempotency-Key", "is empty"))
	}
	return r.Header.Get("Idempotency-Key")
}

// precondition is what If-Match or If-None-Match asks for; nil: nothing.
func (q *query) precondition(r *http.Request) *walproxyv1.Precondition {
	match, noneMatch := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	switch {
	case match != "" && noneMatch != "":
		q.fail(invalid("If-Match", "stands beside If-None-Match; want one of them"))
	case noneMatch == "*":
		return &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfAbsent{IfAbsent: true}}
	case noneMatch != "":
		q.fail(invalid("If-None-Match", "want * in a write"))
	case match != "":
		version, ok := parseETag(match)
		if !ok {
			q.fail(invalid("If-Match", `want one version in quotes, as "3"`))
		}
		return &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfVersion{IfVersion: version}}
	}
	return nil
}

func parseETag(text string) (version uint64, ok bool) {
	text, found := strings.CutPrefix(text, `"`)
	text, closed := strings.CutSuffix(text, `"`)
	version, err := strconv.ParseUint(text, 10, 64)
	return version, found && closed && err == nil
}
