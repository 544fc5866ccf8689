package dlq

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
)

// Filter selects dead letters: those for which all of it holds. The zero value
// selects all.
type Filter struct {
	Collection string
	// Key as text, or as JSON: 42 is the text and the number, ["a",1] a composite key.
	Key string
	// Code is a part of the reason that stores name sqlstate: 23505, or 23 for the class.
	Code string
	// State is Dead, Parked, or empty for both.
	State string
	// Since and Until bound when it became a dead letter: from Since on, before Until.
	Since, Until time.Time
	// To is the highest LSN; 0: any. From is a matter of where one begins to read.
	To position.LSN
}

// IsZero reports whether all are selected.
func (f *Filter) IsZero() bool { return *f == Filter{} }

// Match reports whether f selects d. The error is that of a damaged one.
func (f *Filter) Match(d *state.DeadLetter) (bool, error) {
	switch {
	case f.To > 0 && d.LSN > f.To:
		return false, nil
	case f.State != "" && stateOf(d) != f.State:
		return false, nil
	case !f.Since.IsZero() && d.When.Before(f.Since), !f.Until.IsZero() && !d.When.Before(f.Until):
		return false, nil
	case f.Code != "" && !f.matchCode(d.Details["sqlstate"]):
		return false, nil
	case f.Collection == "" && f.Key == "":
		return true, nil
	}
	for _, enc := range d.Keys {
		collection, key, err := mutation.ParseKey(enc)
		if err != nil {
			return false, err
		}
		if f.Collection != "" && collection != f.Collection {
			continue
		}
		form := string(jsonform.AppendKey(nil, key))
		if f.Key == "" || form == f.Key || form == string(jsonform.AppendString(nil, f.Key)) {
			return true, nil
		}
	}
	return false, nil
}

// codeClass is the length of a class of SQLSTATEs.
const codeClass = 2

func (f *Filter) matchCode(code string) bool {
	return code == f.Code || len(f.Code) == codeClass && strings.HasPrefix(code, f.Code)
}

// Names of a filter in a query.
var Names = []string{"collection", "key", "code", "state", "since", "until", "to"}

// Query is f as ParseFilter reads it.
func (f *Filter) Query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("collection", f.Collection)
	set("key", f.Key)
	set("code", f.Code)
	set("state", f.State)
	if !f.Since.IsZero() {
		set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	if f.To > 0 {
		set("to", strconv.FormatUint(uint64(f.To), 10))
	}
	return q
}

// FieldError says which part of a filter is wrong.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// ParseFilter reads those of Names that q has. Errors are *FieldError.
func ParseFilter(q url.Values) (f Filter, err error) {
	f.Collection, f.Key, f.Code, f.State = q.Get("collection"), q.Get("key"), strings.ToUpper(q.Get("code")), q.Get("state")
	if f.State != "" && f.State != Dead && f.State != Parked {
		return f, &FieldError{"state", fmt.Sprintf("%q is neither %s nor %s", f.State, Dead, Parked)}
	}
	for _, bound := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		text := q.Get(bound.name)
		if text == "" {
			continue
		}
		t, err := jsonform.ParseTime(text)
		if err != nil {
			return f, &FieldError{bound.name, err.Error()}
		}
		*bound.to = t.AsTime()
	}
	if text := q.Get("to"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 {
			return f, &FieldError{"to", fmt.Sprintf("%q is no LSN: want a whole number from 1", text)}
		}
		f.To = position.LSN(n)
	}
	return f, nil
}

// scanMax bounds how many dead letters Page looks at for one answer.
const scanMax = 10_000

// scanChunk is how many it reads at once.
const scanChunk = 500

// Page reads up to limit dead letters that f selects from LSN from on, of list, which
// returns none only at the end. next is where to go on, 0 at the end; a page may have
// fewer than limit, or none, and a next: it has looked at many.
func (f *Filter) Page(from position.LSN, limit int, list func(from position.LSN, limit int) ([]state.DeadLetter, error)) (page []state.DeadLetter, next position.LSN, err error) {
	chunk := limit + 1
	if !f.IsZero() {
		chunk = scanChunk
	}
	bytes := 0
	for seen := 0; ; {
		found, err := list(from, chunk)
		if err != nil || len(found) == 0 {
			return page, 0, err
		}
		for i := range found {
			d := &found[i]
			if f.To > 0 && d.LSN > f.To {
				return page, 0, nil
			}
			ok, err := f.Match(d)
			if err != nil {
				return nil, 0, err
			}
			if ok && (len(page) == limit || bytes >= pageBytesMax) {
				return page, d.LSN, nil
			}
			if ok {
				page = append(page, *d)
				bytes += len(d.Payload)
			}
		}
		from = found[len(found)-1].LSN + 1
		if seen += len(found); seen >= scanMax {
			return page, from, nil
		}
	}
}

// pageBytesMax bounds a page: one dead letter more.
const pageBytesMax = 8 << 20

// Span says in short which LSNs, for logs: a few, or how many from where to where.
func Span(lsns []position.LSN) string {
	if len(lsns) == 0 {
		return "none"
	}
	const few = 10
	if len(lsns) <= few {
		return fmt.Sprintf("LSN %s", strings.Trim(fmt.Sprint(lsns), "[]"))
	}
	return fmt.Sprintf("%d LSNs from %d to %d", len(lsns), slices.Min(lsns), slices.Max(lsns))
}
