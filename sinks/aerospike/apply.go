package aerospike

import (
	"context"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/sinks"
)

// Apply implements sinks.Sink. It is not transactional: records of other keys than
// a rejected one may be applied, and say so. The checkpoints move once all are.
func (s *Sink) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	began := time.Now()
	results, err := s.apply(ctx, b)
	s.metrics.applied(b, results, err, time.Since(began))
	return results, err
}

func (s *Sink) apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	phases, err := s.phases(b)
	if err != nil {
		return nil, err
	}
	t, err := s.owner.begin(ctx, b)
	if err != nil {
		return nil, err
	}
	defer t.release()
	if t.done {
		return sinks.Results(len(b.Records), sinks.Applied, nil), nil
	}
	if len(b.Records) > 0 {
		if err := s.owner.takeSets(ctx, t, phases); err != nil {
			return nil, err
		}
		client, err := s.client(ctx)
		if err != nil {
			return nil, err
		}
		a := &applier{sink: s, client: client, guard: t.guard, window: t, results: make([]sinks.Result, len(b.Records))}
		if !a.run(ctx, phases) {
			return unless(a.rewound == nil, a.results, nil), a.rewound
		}
	}
	failpoint.Hit("sink-before-commit")
	if err := s.owner.advance(ctx, b, t); err != nil {
		return nil, err
	}
	failpoint.Hit("sink-after-commit")
	return sinks.Results(len(b.Records), sinks.Applied, nil), nil
}

// applier is one Apply under way.
type applier struct {
	sink    *Sink
	client  *as.Client
	guard   string
	window  window
	results []sinks.Result
	rewound error // why the whole batch ends
}

// window is what the owner knows of what was applied and may still be lost by a
// restart of the store. It is safe for concurrent use.
type window interface {
	// floor is what the record surely has; 0: nothing is known of it.
	floor(p Place, digest [20]byte) sinks.LSN
	// note says what the record has now, and until when it lives.
	note(p Place, digest [20]byte, last sinks.LSN, dead bool, expires time.Time)
	// wrote says that a message that begins with an LSN was sent, and what became of it
	// is not that it was kept out.
	wrote(first sinks.LSN)
	// lost is asked when a record has less than its floor. nil: no node was
	// restarted, so somebody else took it away; else the batch ends with the error.
	lost(ctx context.Context) error
}

// note tells the window that w's record is written up to last.
func (a *applier) note(w *work, last sinks.LSN, left written) {
	a.window.note(w.place.Place, w.digest(), last, left.dead, left.expires)
}

// keptOut reports that a message surely changed nothing: its filter, or that there is
// no record, kept it from that.
func keptOut(err error) bool {
	code := codeOf(err)
	return code == types.FILTERED_OUT || code == types.KEY_NOT_FOUND_ERROR
}

// missing is asked when w's record has less than its floor, and reports whether w
// may go on without one.
func (a *applier) missing(ctx context.Context, w *work) bool {
	if a.rewound == nil {
		a.rewound = a.window.lost(ctx)
	}
	if a.rewound != nil {
		a.fail(w, a.rewound)
		return false
	}
	w.floor = 0
	return true
}

// run does the phases and reports whether all records are applied.
func (a *applier) run(ctx context.Context, phases []*phase) bool {
	for _, p := range phases {
		if p.group {
			a.group(ctx, p)
		} else {
			a.plain(ctx, p.works)
		}
		failed := false
		for i := p.first; i < p.end; i++ {
			failed = failed || a.results[i].Outcome != sinks.Applied
		}
		if failed { // what follows may depend on it
			for i := p.end; i < len(a.results); i++ {
				a.results[i] = sinks.Result{Outcome: sinks.Retry, Err: errNeighbour}
			}
			return false
		}
	}
	return true
}

// plain does works of one key each, run by run: of a key's mutations and commands
// nothing is sent before what comes before it is done.
func (a *applier) plain(ctx context.Context, works []*work) {
	for _, w := range works {
		w.later, w.steps = w.steps, nil
	}
	for len(works) > 0 {
		var mutations, commands []*work
		for _, w := range works {
			if w.turn(); w.steps[0].command != nil {
				commands = append(commands, w)
			} else {
				mutations = append(mutations, w)
			}
		}
		a.commands(ctx, commands)
		a.mutations(ctx, mutations)
		works = slices.DeleteFunc(slices.Concat(mutations, commands), func(w *work) bool { return len(w.later) == 0 })
	}
}

// mutations does works whose steps are mutations: blindly where that is exact, else
// by reading.
func (a *applier) mutations(ctx context.Context, works []*work) {
	var entries []as.BatchRecordIfc
	var left []written
	var sent, careful []*work
	now := time.Now()
	for _, w := range works {
		if w.fault == nil {
			w.floor = a.window.floor(w.place.Place, w.digest())
		}
		if entry, leaves := w.blind(a.guard, now); entry != nil {
			entries, left, sent = append(entries, entry), append(left, leaves), append(sent, w)
		} else {
			careful = append(careful, w)
		}
	}
	for i, err := range a.send(ctx, entries, sent, true) {
		w := sent[i]
		if !keptOut(err) {
			a.window.wrote(first(w.steps))
		}
		switch code := codeOf(err); {
		case err == nil:
			a.note(w, last(w.steps), left[i])
			a.advance(w, len(w.steps))
		case code == types.KEY_NOT_FOUND_ERROR && w.floor == 0: // there was nothing to change
			a.advance(w, len(w.steps))
		case code == types.KEY_NOT_FOUND_ERROR:
			if a.missing(ctx, w) {
				careful = append(careful, w)
			}
		case code == types.FILTERED_OUT, sinks.OutcomeOf(err) == sinks.Rejected:
			// It was not done as it is: the record says what of it is to do, and which
			// step is to blame.
			careful = append(careful, w)
		default:
			a.fail(w, err)
		}
	}
	a.careful(ctx, careful)
}

// advance marks the first n of w's steps applied and takes them off.
func (a *applier) advance(w *work, n int) {
	for _, s := range w.steps[:n] {
		a.results[s.record] = sinks.Result{Outcome: sinks.Applied}
	}
	w.steps = w.steps[n:]
}

// fail ends w: err is of its first record, and its later ones were not tried.
func (a *applier) fail(w *work, err error) {
	n := sameRecord(w.steps)
	outcome := sinks.OutcomeOf(err)
	for _, s := range w.steps[:n] {
		a.results[s.record] = sinks.Result{Outcome: outcome, Err: err}
	}
	if outcome == sinks.Rejected {
		outcome, err = sinks.Retry, errNeighbour
	}
	for _, s := range slices.Concat(w.steps[n:], w.later) {
		a.results[s.record] = sinks.Result{Outcome: outcome, Err: err}
	}
	w.steps, w.later = nil, nil
}

// messageBytes is about how large a message may become; a server takes 128 MiB.
const messageBytes = 8 << 20

// send sends entries, one of each work, in messages of bounded size and returns
// what became of each; nil is done. sent says that they may change something. Once
// the context has ended the entries may still be in use.
func (a *applier) send(ctx context.Context, entries []as.BatchRecordIfc, works []*work, sent bool) []error {
	errs := make([]error, len(entries))
	for at := 0; at < len(entries); {
		n, bytes := 0, 0
		for at+n < len(entries) && n < a.sink.o.BatchKeys && (n == 0 || bytes+works[at+n].bytes <= messageBytes) {
			bytes += works[at+n].bytes
			n++
		}
		a.message(ctx, entries[at:at+n], errs[at:at+n], sent)
		at += n
	}
	return errs
}

func (a *applier) message(ctx context.Context, entries []as.BatchRecordIfc, errs []error, sent bool) {
	fill := func(err error) {
		for i := range errs {
			errs[i] = err
		}
	}
	policy, err := a.sink.batchPolicy(ctx)
	if err != nil {
		fill(err) // not sent
		return
	}
	whole, err := wait(ctx, a.sink, sent, func() (error, error) {
		if err := a.client.BatchOperate(policy, entries); err != nil { // not the nil of its own type
			return err, nil
		}
		return nil, nil
	})
	if err != nil {
		fill(err)
		return
	}
	for i, e := range entries {
		errs[i] = judgeEntry(e.BatchRec(), whole, sent)
	}
}
