package walproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/sinks"
)

// RetryMax bounds how many dead letters one call logs again.
const RetryMax = 1000

// retryBytesMax bounds what it reads of the queues of several keys.
const retryBytesMax = 64 << 20

// ErrRetried: the dead letter is being retried; *RetriedError.
var ErrRetried = errors.New("walproxy: the dead letter is being retried")

// RetriedError says that a dead letter was not logged in another form, because it is
// logged again already and the sink has not come to that yet: only the first counts.
type RetriedError struct {
	Sink string
	LSN  LSN
	// By is the retry; 0: it may be in what was logged before this process opened the
	// log, which the sink has not passed yet, because of Err.
	By  LSN
	Err error
}

func (e *RetriedError) Error() string {
	if e.By == 0 {
		return fmt.Sprintf("%v: LSN %d at sink %s: the sink has yet to apply what was logged before the last start, and a retry may be in there: %v",
			ErrRetried, e.LSN, e.Sink, e.Err)
	}
	return fmt.Sprintf("%v: LSN %d at sink %s, as LSN %d, which the sink has not come to yet", ErrRetried, e.LSN, e.Sink, e.By)
}

// Unwrap returns ErrRetried and Err.
func (e *RetriedError) Unwrap() []error { return []error{ErrRetried, e.Err} }

// Retried is a dead letter that was logged again.
type Retried struct {
	// Origin is the dead letter. What became of it, and so of the retry, is what
	// WriteState says of Origin once the sink has passed Result.LSN.
	Origin LSN
	Result
}

// RetryDeadLetter is RetryDeadLetters for one.
func (p *Proxy) RetryDeadLetter(ctx context.Context, sink string, lsn LSN) ([]Retried, error) {
	return p.RetryDeadLetters(ctx, sink, []LSN{lsn})
}

// RetryDeadLetters appends the dead letters of lsns again, and with them, in order,
// what is parked in the queues of their keys, up to RetryMax records and about 8 MiB
// for each key: new LSNs, to that sink alone. It returns when they are durable. A
// dead letter is gone once the sink has passed its retry; one that waits for that
// is not logged once more, and comes back with the LSN it has. Call it again for
// what a long queue leaves. Those of lsns that are no dead letters are passed over;
// if none is: ErrNoDeadLetter.
func (p *Proxy) RetryDeadLetters(ctx context.Context, sink string, lsns []LSN) ([]Retried, error) {
	s, err := p.openSink(sink)
	if err != nil {
		return nil, err
	}
	letters, err := s.queues(lsns)
	if err != nil {
		return nil, err
	}
	return p.appendAgain(ctx, s, letters, 0, nil)
}

// EditDeadLetter is RetryDeadLetter with the write of instead in place of the dead
// letter's own: its other keys, if it has any, keep their order, the rest of the queue
// goes behind it as it is. It waits until the sink has passed what was logged before
// the log was opened. Until instead is durable the dead letter is what it was,
// from then on instead stands for it: a crash leaves one of the two. It returns
// nothing, and nothing was done, if instead is what the dead letter holds.
//
// Errors beside those of Append: ErrNoDeadLetter, *RetriedError.
func (p *Proxy) EditDeadLetter(ctx context.Context, sink string, lsn LSN, instead *walproxyv1.Record) ([]Retried, error) {
	s, err := p.openSink(sink)
	if err != nil {
		return nil, err
	}
	letter, err := s.letter(lsn)
	if err != nil {
		return nil, err
	}
	if same, err := holds(&letter, instead); err != nil || same {
		return nil, err
	}
	if err := s.check(instead); err != nil {
		return nil, err
	}
	if err := s.awaitOpened(ctx, lsn); err != nil {
		return nil, err
	}
	letters, err := s.queues([]LSN{lsn})
	if err != nil {
		return nil, err
	}
	return p.appendAgain(ctx, s, letters, lsn, instead)
}

// holds reports whether the write of a dead letter is rec's.
func holds(letter *DeadLetter, rec *walproxyv1.Record) (bool, error) {
	of, err := letter.Record()
	if err != nil {
		return false, err
	}
	return proto.Equal(&walproxyv1.Record{Body: of.GetBody()}, &walproxyv1.Record{Body: rec.GetBody()}), nil
}

// check asks the sink what is wrong with a write that a person may have changed.
func (s *sink) check(rec *walproxyv1.Record) error {
	if c, ok := s.options.Sink.(sinks.Checker); ok {
		return c.Check(rec)
	}
	return nil
}

// ImportedLetter is a dead letter as it was exported, and maybe mended.
type ImportedLetter struct {
	// Stream of the log that LSN is of.
	Stream string
	LSN    LSN
	// Record has the write as it is to be logged.
	Record *walproxyv1.Record
}

// ImportDeadLetter logs a dead letter that was exported, for the sink alone. One of
// this log is retried, without the queue of its key, as it came: if it is a dead
// letter no more, ErrNoDeadLetter. One of another log is a new write; it should have a
// request id, so that it is written once if it is imported twice. Import what parks
// before what is parked.
//
// Errors beside those of Append: ErrNoDeadLetter, *RetriedError.
func (p *Proxy) ImportDeadLetter(ctx context.Context, sink string, in ImportedLetter) (*Pending, error) {
	s, err := p.openSink(sink)
	if err != nil {
		return nil, err
	}
	if err := s.check(in.Record); err != nil {
		return nil, err
	}
	if in.Stream == p.log.Stream().String() {
		return p.retryOne(ctx, s, in.LSN, in.Record)
	}
	// What a retry retries is of the log that it comes from.
	w, err := p.acceptor.SubmitTo(ctx, sink, &walproxyv1.Record{Body: in.Record.GetBody(), Principal: in.Record.GetPrincipal()})
	if err != nil {
		return nil, closedError(err)
	}
	p.recent.note(w)
	return &Pending{w}, nil
}

func (p *Proxy) openSink(name string) (*sink, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	return p.sink(name)
}

// letter returns the dead letter of lsn, or *NoDeadLetterError.
func (s *sink) letter(lsn LSN) (DeadLetter, error) {
	letters := s.loop().Letters()
	letter, ok, err := letters.Get(lsn)
	if err != nil || ok {
		return letter, err
	}
	by, known, err := letters.Trace(lsn)
	if err != nil {
		return letter, err
	}
	return letter, &NoDeadLetterError{Sink: s.name, LSN: lsn, RetriedAs: by, GivenUp: known && by == 0}
}

// queues returns the dead letters of lsns and what shares a key with them, in the
// order in which they have to be applied. What comes before them in a queue comes
// too: they would only be parked again otherwise.
func (s *sink) queues(lsns []LSN) ([]DeadLetter, error) {
	found := map[LSN]DeadLetter{}
	keys := map[string]bool{}
	bytes := 0
	var missing error
	for _, lsn := range lsns {
		if len(found) >= RetryMax || bytes >= retryBytesMax {
			break
		}
		letter, err := s.letter(lsn)
		if errors.Is(err, ErrNoDeadLetter) {
			missing = cmp.Or(missing, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		found[lsn] = letter
		for _, key := range letter.Keys {
			if keys[string(key)] || bytes >= retryBytesMax {
				continue
			}
			keys[string(key)] = true
			of, err := s.loop().Letters().Of(key, RetryMax)
			if err != nil {
				return nil, err
			}
			for _, l := range of {
				found[l.LSN] = l
				bytes += len(l.Payload)
			}
		}
	}
	if len(found) == 0 {
		return nil, missing
	}
	letters := slices.SortedFunc(maps.Values(found), func(a, b DeadLetter) int { return cmp.Compare(a.Position, b.Position) })
	return letters[:min(len(letters), RetryMax)], nil
}

// appendAgain logs letters, that of edited as instead, and waits until they are
// durable. After an error those before it may be logged: they come back with it.
func (p *Proxy) appendAgain(ctx context.Context, s *sink, letters []DeadLetter, edited LSN, instead *walproxyv1.Record) ([]Retried, error) {
	var again []Retried
	var pending []*accept.Pending // nil: it was logged before
	var failed error
	for i := range letters {
		var as *walproxyv1.Record
		if letters[i].LSN == edited {
			as = instead
		}
		w, by, err := s.appendLetter(ctx, p, letters[i].LSN, as)
		if errors.Is(err, ErrNoDeadLetter) && letters[i].LSN != edited && len(letters) > 1 {
			continue // it has gone meanwhile
		}
		if err != nil {
			failed = fmt.Errorf("retry of LSN %d: %w", letters[i].LSN, closedError(err))
			break // those behind it keep their places
		}
		again = append(again, Retried{Origin: letters[i].LSN, Result: Result{LSN: by}})
		pending = append(pending, w)
	}
	for i, w := range pending {
		if w == nil {
			if err := p.log.WaitDurable(ctx, again[i].LSN); err != nil {
				return again[:i], errors.Join(failed, err)
			}
			continue
		}
		if _, err := w.Wait(ctx); err != nil {
			return again[:i], errors.Join(failed, err)
		}
	}
	return again, failed
}

// retryOne logs the dead letter of lsn again, as rec.
func (p *Proxy) retryOne(ctx context.Context, s *sink, lsn LSN, rec *walproxyv1.Record) (*Pending, error) {
	letter, err := s.letter(lsn)
	if err != nil {
		return nil, err
	}
	same, err := holds(&letter, rec)
	if err != nil {
		return nil, err
	}
	if same {
		rec = nil
	} else if err := s.awaitOpened(ctx, lsn); err != nil {
		return nil, err
	}
	w, by, err := s.appendLetter(ctx, p, lsn, rec)
	if err == nil && w == nil {
		err = &RetriedError{Sink: s.name, LSN: lsn, By: by}
	}
	if err != nil {
		return nil, closedError(err)
	}
	return &Pending{w}, nil
}

// retries knows the dead letters that this process has logged again and the sink has
// not passed yet: of several forms of one only the first counts.
type retries struct {
	lock chan struct{} // holds a token while somebody looks and appends
	// opened is where the log ended when the sink's loop was made: what it has of
	// retries is not known, or may come again, until the sink has passed it.
	opened atomic.Uint64
	by     map[LSN]LSN // bounded by the dead letters; swept when it has doubled
	swept  int
}

func (r *retries) init(opened LSN) {
	r.lock, r.by = make(chan struct{}, 1), map[LSN]LSN{}
	r.opened.Store(uint64(opened))
}

// sweep forgets what the sink has passed.
func (r *retries) sweep(applied LSN) {
	if len(r.by) < max(2*r.swept, RetryMax) {
		return
	}
	maps.DeleteFunc(r.by, func(_, by LSN) bool { return by <= applied })
	r.swept = len(r.by)
}

// awaitOpened waits until the sink has passed what the log held when its loop was made:
// a retry of lsn may be in there, which would be the first.
func (s *sink) awaitOpened(ctx context.Context, lsn LSN) error {
	if err := s.Wait(ctx, LSN(s.retries.opened.Load())); err != nil {
		return &RetriedError{Sink: s.name, LSN: lsn, Err: err}
	}
	return nil
}

// errWentOn: the sink halted and went on since somebody looked.
var errWentOn = errors.New("it has gone on from a halt just now")

// appendLetter logs the dead letter of lsn again, as instead unless that is nil. by is
// its LSN; w is nil if it had that before.
func (s *sink) appendLetter(ctx context.Context, p *Proxy, lsn LSN, instead *walproxyv1.Record) (w *accept.Pending, by LSN, err error) {
	r := &s.retries
	select {
	case r.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	defer func() { <-r.lock }()
	applied := s.loop().Applied()
	r.sweep(applied)
	by = r.by[lsn]
	switch {
	case by > applied && instead == nil:
		return nil, by, nil
	case by > applied:
		return nil, 0, &RetriedError{Sink: s.name, LSN: lsn, By: by}
	case instead != nil && applied < LSN(r.opened.Load()):
		return nil, 0, &RetriedError{Sink: s.name, LSN: lsn, Err: errWentOn}
	}
	letter, err := s.letter(lsn) // nothing retries it now
	if err != nil {
		return nil, 0, err
	}
	if w, err = p.acceptor.Retry(ctx, &letter, instead); err != nil {
		return nil, 0, err
	}
	r.by[lsn] = w.LSN()
	return w, w.LSN(), nil
}
