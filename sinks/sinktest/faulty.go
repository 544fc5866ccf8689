package sinktest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// ErrAway is a ready-made error for a store that does not answer.
var ErrAway = errors.New("sinktest: the store is away")

// Faulty is a sink that fails as it is told, around one that works. All methods
// may be called concurrently; rules may be added while calls are running.
//
//	f := sinktest.NewFaulty(sinktest.NewMemory())
//	f.Add(sinktest.Rule{When: sinktest.CallNumber(3), Do: sinktest.LoseAnswer(sinktest.ErrAway)})
//	f.FailResume(2, sinktest.ErrAway)
//
// It is a sinks.Reader and a sinks.Identifier too; where the inner sink is not,
// those calls return errors.ErrUnsupported.
type Faulty struct {
	inner sinks.Sink

	mu struct {
		sync.Mutex
		rules    []Rule
		calls    []Call
		resumes  []sinks.Claim
		closes   int
		changed  chan struct{} // closed and replaced when calls, resumes or closes grow
		resume   refusal
		read     refusal
		lost     bool
		identity string
	}
}

// refusal is a fault of a call that has no batch to match.
type refusal struct {
	err   error
	times int
	hold  <-chan struct{}
}

// Call is one Apply that the wrapper saw.
type Call struct {
	Number int // from 1, in the order of arrival
	Epoch  uint64
	LSNs   []sinks.LSN
	Moves  []sinks.Move
	Relane bool
	Fault  string // what the script did; empty: nothing

	Returned bool // false while it runs
	Results  []sinks.Result
	Err      error
}

// NewFaulty returns a wrapper without faults.
func NewFaulty(inner sinks.Sink) *Faulty {
	f := &Faulty{inner: inner}
	f.mu.changed = make(chan struct{})
	return f
}

// Inner returns the wrapped sink.
func (f *Faulty) Inner() sinks.Sink { return f.inner }

// Add appends rules to the script.
func (f *Faulty) Add(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range rules {
		if r.Times == 0 {
			r.Times = 1
		}
		f.mu.rules = append(f.mu.rules, r)
	}
}

// Clear removes every fault, those of Resume and reads included. Calls that are
// held stay so until their channel is closed.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.rules, f.mu.lost, f.mu.identity = nil, false, ""
	f.mu.resume, f.mu.read = refusal{}, refusal{}
}

// FailResume makes the next n calls of Resume return err without reaching the
// inner sink; Always makes all of them. That is a store away at the start.
func (f *Faulty) FailResume(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.resume.err, f.mu.resume.times = err, n
}

// HoldResume makes Resume wait until release is closed or its context ends.
func (f *Faulty) HoldResume(release <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.resume.hold = release
}

// LoseCheckpoint makes every Resume without Fresh return sinks.ErrNoCheckpoint,
// as if somebody had deleted the row.
func (f *Faulty) LoseCheckpoint() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.lost = true
}

// FailReads makes the next n reads return err; Always makes all of them.
func (f *Faulty) FailReads(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.read.err, f.mu.read.times = err, n
}

// HoldReads makes reads wait until release is closed or their context ends.
func (f *Faulty) HoldReads(release <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.read.hold = release
}

// SetIdentity makes the sink look like another store; empty undoes it.
func (f *Faulty) SetIdentity(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.identity = id
}

// Calls returns a copy of what was seen so far, running calls included.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.mu.calls)
}

// Resumes returns the claims seen so far, those that failed included.
func (f *Faulty) Resumes() []sinks.Claim {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.mu.resumes)
}

// Closes returns how often Close was called.
func (f *Faulty) Closes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.closes
}

// Await returns nil as soon as cond holds, or ctx's cause. It is asked again
// whenever a call starts or returns, and must not call f's methods but those
// that only look (Calls, Resumes, Closes).
func (f *Faulty) Await(ctx context.Context, cond func() bool) error {
	for {
		f.mu.Lock()
		changed := f.mu.changed
		f.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// changedLocked wakes Await.
func (f *Faulty) changedLocked() {
	close(f.mu.changed)
	f.mu.changed = make(chan struct{})
}

// Resume implements sinks.Sink.
func (f *Faulty) Resume(ctx context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	f.mu.Lock()
	f.mu.resumes = append(f.mu.resumes, claim)
	f.changedLocked()
	hold, err := f.mu.resume.next()
	lost := f.mu.lost && !claim.Fresh
	f.mu.Unlock()
	if herr := wait(ctx, hold); herr != nil {
		return sinks.Checkpoint{}, herr
	}
	switch {
	case err != nil:
		return sinks.Checkpoint{}, err
	case lost:
		return sinks.Checkpoint{}, sinks.ErrNoCheckpoint
	}
	return f.inner.Resume(ctx, claim)
}

// next takes one turn of the script.
func (s *refusal) next() (hold <-chan struct{}, err error) {
	if s.times != 0 {
		err = s.err
	}
	if s.times > 0 {
		s.times--
	}
	return s.hold, err
}

// Apply implements sinks.Sink.
func (f *Faulty) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	number, fault := f.begin(b)
	results, err := f.apply(ctx, b, fault)
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &f.mu.calls[number-1]
	c.Returned, c.Results, c.Err = true, slices.Clone(results), err
	f.changedLocked()
	return results, err
}

// begin records the call and picks its fault.
func (f *Faulty) begin(b *sinks.Batch) (number int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	number = len(f.mu.calls) + 1
	for i := range f.mu.rules {
		r := &f.mu.rules[i]
		if r.Times == 0 || (r.When != nil && !r.When(number, b)) || !r.Do.concerns(b) {
			continue
		}
		if r.Times > 0 {
			r.Times--
		}
		fault = r.Do
		break
	}
	call := Call{
		Number: number, Epoch: b.Epoch, Relane: b.Relane,
		Moves: slices.Clone(b.Moves), Fault: fault.name,
	}
	for _, r := range b.Records {
		call.LSNs = append(call.LSNs, r.LSN)
	}
	f.mu.calls = append(f.mu.calls, call)
	f.changedLocked()
	return number, fault
}

// concerns reports whether the fault can do anything to b: a rejection needs one
// of its records.
func (f Fault) concerns(b *sinks.Batch) bool {
	return f.reject == nil || slices.ContainsFunc(b.Records, func(r sinks.Record) bool {
		return f.reject[r.LSN] != nil
	})
}

func (f *Faulty) apply(ctx context.Context, b *sinks.Batch, fault Fault) ([]sinks.Result, error) {
	if err := pause(ctx, fault.latency); err != nil {
		return nil, err
	}
	if err := wait(ctx, fault.hold); err != nil {
		return nil, err
	}
	if fault.fail != nil {
		return nil, fault.fail
	}
	if fault.reject != nil {
		return rejected(b, fault.reject), nil
	}
	results, err := f.inner.Apply(ctx, b)
	if herr := wait(ctx, fault.held); herr != nil {
		return nil, herr
	}
	if fault.lost != nil && err == nil {
		return nil, fault.lost
	}
	return results, err
}

// rejected is the answer of a transactional sink to a batch that holds records
// of why.
func rejected(b *sinks.Batch, why map[sinks.LSN]error) []sinks.Result {
	results := make([]sinks.Result, len(b.Records))
	for i, r := range b.Records {
		results[i] = sinks.Result{Outcome: sinks.Retry, Err: errNeighbour}
		if err := why[r.LSN]; err != nil {
			results[i] = sinks.Result{Outcome: sinks.Rejected, Err: err}
		}
	}
	return results
}

// errNeighbour is why a good record of a batch with a rejected one is Retry.
var errNeighbour = errors.New("not applied: another record of the batch was rejected")

// wait returns nil once release is closed (nil: at once), or why it gave up.
func wait(ctx context.Context, release <-chan struct{}) error {
	if release == nil {
		return nil
	}
	select {
	case <-release:
		return nil
	case <-ctx.Done():
		return sinks.WithOutcome(sinks.Unknown, context.Cause(ctx))
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return sinks.WithOutcome(sinks.Unknown, context.Cause(ctx))
	}
}

// Close implements sinks.Sink.
func (f *Faulty) Close(ctx context.Context) error {
	f.mu.Lock()
	f.mu.closes++
	f.changedLocked()
	f.mu.Unlock()
	return f.inner.Close(ctx)
}

// Read implements sinks.Reader.
func (f *Faulty) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	r, err := f.reader(ctx)
	if err != nil {
		return nil, err
	}
	return r.Read(ctx, collection, key)
}

// ReadEvents implements sinks.Reader.
func (f *Faulty) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	r, err := f.reader(ctx)
	if err != nil {
		return nil, err
	}
	return r.ReadEvents(ctx, collection, key, from, limit)
}

// reader runs the script of reads and returns the inner Reader.
func (f *Faulty) reader(ctx context.Context) (sinks.Reader, error) {
	f.mu.Lock()
	hold, err := f.mu.read.next()
	f.mu.Unlock()
	if herr := wait(ctx, hold); herr != nil {
		return nil, herr
	}
	if err != nil {
		return nil, err
	}
	r, ok := f.inner.(sinks.Reader)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return r, nil
}

// Identity implements sinks.Identifier.
func (f *Faulty) Identity(ctx context.Context) (string, error) {
	f.mu.Lock()
	id := f.mu.identity
	f.mu.Unlock()
	if id != "" {
		return id, nil
	}
	i, ok := f.inner.(sinks.Identifier)
	if !ok {
		return "", errors.ErrUnsupported
	}
	return i.Identity(ctx)
}

var (
	_ sinks.Sink       = (*Faulty)(nil)
	_ sinks.Reader     = (*Faulty)(nil)
	_ sinks.Identifier = (*Faulty)(nil)
)
