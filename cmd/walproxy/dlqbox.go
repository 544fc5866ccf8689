package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/internal/dlq"
	"github.com/walproxy/walproxy/internal/state"
)

// lineWriter writes the lines of an export.
type lineWriter struct {
	out   *bufio.Writer
	count int
	last  walproxy.LSN
}

func (w *lineWriter) add(line []byte, lsn walproxy.LSN) error {
	w.count++
	w.last = lsn
	_, err := w.out.Write(append(line, '\n'))
	return err
}

// remoteLetters are a running server's.
type remoteLetters struct{ *remote }

func (r *remoteLetters) where() string { return "the server at " + r.api }
func (r *remoteLetters) close() error  { return nil }

func (r *remoteLetters) sinks(ctx context.Context) (names []string, err error) {
	var answer struct{ Sinks []struct{ Name string } }
	err = r.call(ctx, "GET", "/v1/sinks", nil, &answer)
	for _, s := range answer.Sinks {
		names = append(names, s.Name)
	}
	return names, err
}

func lettersPath(sink string) string { return "/v1/dlq/" + url.PathEscape(sink) }

func letterPath(sink string, lsn walproxy.LSN) string {
	return lettersPath(sink) + "/" + lsn.String()
}

func (r *remoteLetters) page(ctx context.Context, sink string, filter *dlq.Filter, from walproxy.LSN, limit int) ([]dlq.Letter, walproxy.LSN, error) {
	q := filter.Query()
	q.Set("from", from.String())
	q.Set("limit", strconv.Itoa(limit))
	var answer struct {
		DeadLetters []dlq.Letter `json:"dead_letters"`
		Next        walproxy.LSN `json:"next"`
	}
	err := r.call(ctx, "GET", lettersPath(sink)+"?"+q.Encode(), nil, &answer)
	return answer.DeadLetters, answer.Next, err
}

func (r *remoteLetters) letter(ctx context.Context, sink string, lsn walproxy.LSN) (l dlq.Letter, err error) {
	err = r.call(ctx, "GET", letterPath(sink, lsn), nil, &l)
	var refused *remoteError
	if errors.As(err, &refused) && refused.Answer.Status == http.StatusNotFound {
		err = exitWith(exitUsage, &noLetterError{LSN: lsn, Sink: sink, Why: refused.Answer.Message, Known: refused.Answer.Details != nil})
	}
	return l, err
}

func (r *remoteLetters) export(ctx context.Context, sink string, filter *dlq.Filter, from walproxy.LSN, out *lineWriter) error {
	q := filter.Query()
	q.Set("from", from.String())
	q.Set("format", "ndjson")
	answer, err := r.stream(ctx, "GET", lettersPath(sink)+"?"+q.Encode(), "", nil)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // it was read
	lines := bufio.NewReader(answer.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		var head struct {
			LSN   walproxy.LSN
			Error *struct{ Message string }
		}
		switch {
		case err != nil || json.Unmarshal(line, &head) != nil:
			return exitWith(exitFailed, fmt.Errorf("the export of sink %s broke off behind LSN %d: go on with --sink %s --lsn %d-", sink, out.last, sink, out.last+1))
		case head.Error != nil:
			return exitWith(exitFailed, fmt.Errorf("the export of sink %s ended behind LSN %d: %s", sink, out.last, head.Error.Message))
		}
		if err := out.add(line[:len(line)-1], head.LSN); err != nil {
			return exitWith(exitFailed, err)
		}
	}
}

func (r *remoteLetters) discard(ctx context.Context, sink string, lsns []walproxy.LSN) (gone int, err error) {
	var answer struct{ LSNs []walproxy.LSN }
	err = r.call(ctx, "POST", lettersPath(sink)+":discard", map[string]any{"lsns": lsns}, &answer)
	var refused *remoteError
	if errors.As(err, &refused) && refused.Answer.Status == http.StatusNotFound {
		return 0, nil // others were faster
	}
	return len(answer.LSNs), err
}

// noLetterError is errNoLetter with what the server says.
type noLetterError struct {
	LSN   walproxy.LSN
	Sink  string
	Why   string
	Known bool // Why says what became of it
}

func (e *noLetterError) Error() string {
	return fmt.Sprintf("%v: LSN %d at sink %s: %s", errNoLetter, e.LSN, e.Sink, e.Why)
}

func (e *noLetterError) Unwrap() error { return errNoLetter }

// fileLetters are those of a data directory that nobody has open.
type fileLetters struct {
	files *dlq.Files
	dir   string
}

func (f *fileLetters) where() string { return f.dir + " (no server runs for it)" }
func (f *fileLetters) close() error  { return exitWith(exitFailed, f.files.Close()) }

func (f *fileLetters) sinks(context.Context) ([]string, error) {
	names, err := f.files.Sinks()
	return names, exitWith(exitStart, err)
}

// fileError gives an error of the files its exit code.
func fileError(err error) error {
	switch {
	case errors.Is(err, dlq.ErrNoLetter):
		return exitWith(exitUsage, fmt.Errorf("%w: %w", errNoLetter, err))
	case errors.Is(err, dlq.ErrNoSink):
		return exitWith(exitUsage, err)
	}
	return exitWith(exitStart, err)
}

func (f *fileLetters) page(_ context.Context, sink string, filter *dlq.Filter, from walproxy.LSN, limit int) ([]dlq.Letter, walproxy.LSN, error) {
	page, next, err := f.files.Page(sink, filter, from, limit)
	var letters []dlq.Letter
	for i := range page {
		l, err := dlq.Of(&page[i])
		if err != nil {
			return nil, 0, fileError(err)
		}
		letters = append(letters, l)
	}
	return letters, next, fileError(err)
}

func (f *fileLetters) letter(_ context.Context, sink string, lsn walproxy.LSN) (dlq.Letter, error) {
	l, err := f.files.Letter(sink, lsn)
	return l, fileError(err)
}

// exportChunk is how many are read at once: each is as large as a write may be.
const exportChunk = 8

func (f *fileLetters) export(ctx context.Context, sink string, filter *dlq.Filter, from walproxy.LSN, out *lineWriter) error {
	for from > 0 && ctx.Err() == nil {
		var page []state.DeadLetter
		var err error
		if page, from, err = f.files.Page(sink, filter, from, exportChunk); err != nil {
			return fileError(err)
		}
		for i := range page {
			l, err := dlq.WholeOf(&page[i], f.files.Stream())
			if err != nil {
				return fileError(err)
			}
			line, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if err := out.add(line, l.LSN); err != nil {
				return exitWith(exitFailed, err)
			}
		}
	}
	return ctx.Err()
}

func (f *fileLetters) discard(_ context.Context, sink string, lsns []walproxy.LSN) (gone int, err error) {
	entry := audit.Entry{Action: "dlq discard", Sink: sink, Detail: dlq.Span(lsns), Counts: map[string]uint64{"dead_letters": uint64(len(lsns))}}
	err = audit.New(f.dir, nil).Do(entry, func(entry *audit.Entry) error {
		letters, err := f.files.Discard(sink, lsns)
		gone = len(letters)
		entry.Counts = map[string]uint64{"dead_letters": uint64(gone)}
		return err
	})
	return gone, fileError(err)
}
