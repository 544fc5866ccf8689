package replay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Plan is what accepting a refused sink means.
type Plan struct {
	Sink string
	// Refusal is why it is refused: one or two *ResumeError.
	Refusal error
	// Identity of the store, and that of the one that was claimed.
	Identity, Claimed string
	WrongStore        bool // they differ
	// Found is the store's checkpoint; Missing: there is none.
	Found   sinks.Checkpoint
	Missing bool
	// Target is the checkpoint that the store gets. Zero with ErrAfterNeeded.
	Target sinks.Checkpoint
	// The log: its stream, what it has, and where its incarnations begin.
	Stream      uuid.UUID
	First, Last wal.LSN
	History     []wal.Point
	// From: nothing at or below it is the sink's. NotedApplied is how far the sink was
	// when that was noted last: its store had everything up to there.
	From, NotedApplied wal.LSN
	// DropHeld: what is held for the sink is of another history, and is given up.
	DropHeld bool
	// Effects say what it means, a sentence each.
	Effects []string
	// Never are LSNs of which what is the sink's is never applied to its store, so that
	// it has to have them; Again those that are applied though the store may have them, or others in
	// their place.
	Never, Again []LSNRange

	settled bool
}

// LSNRange is from First to Last.
type LSNRange struct {
	First wal.LSN `json:"first"`
	Last  wal.LSN `json:"last"`
}

// Count is how many LSNs it has: the records of the sink are at most as many.
func (r LSNRange) Count() uint64 { return uint64(r.Last-r.First) + 1 }

// Complete reports that the plan says where to go on: not so with ErrAfterNeeded.
func (p *Plan) Complete() bool { return len(p.Target.Lanes) > 0 }

func (p *Plan) from() sinks.Checkpoint {
	if p.Missing {
		return sinks.Checkpoint{}
	}
	return p.Found
}

// Token names the decision: two plans with one token do the same to the same store.
func (p *Plan) Token() string {
	from := p.from()
	from.Epoch = 0 // attempts to go on raise it
	text, err := json.Marshal(acceptance{Identity: p.Identity, From: from, To: p.Target, DropHeld: p.DropHeld})
	if err != nil { // it holds nothing that could fail
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// explain says what it means.
func (p *Plan) explain() {
	say := func(format string, args ...any) { p.Effects = append(p.Effects, fmt.Sprintf(format, args...)) }
	if p.WrongStore {
		say("the sink's store is %q from now on; what %q, which was its store, has does not move, and it gets nothing any more", p.Identity, p.Claimed)
	}
	if p.DropHeld {
		say("the records that are held outside the log are of another history: they are given up")
	}
	if !p.Complete() {
		p.unknown(say)
		return
	}
	switch {
	case p.Missing:
		p.span(say, p.NotedApplied, p.Target.Lanes[0].LSN)
	case p.Found.Stream != p.Stream:
		say("the store no longer belongs to the log of stream %s, which is refused by it from then on", p.Found.Stream)
		p.span(say, p.From, p.Target.Lanes[0].LSN)
	default:
		p.lanes(say)
	}
}

// unknown says what has to be known.
func (p *Plan) unknown(say func(string, ...any)) {
	say("walproxy cannot know up to where the store has this log: name the LSN with --after. Above it everything of the sink " +
		"is applied; up to it nothing is, so that the store has to have it")
	if p.Missing || p.Found.Stream != p.Stream {
		say("the sink had everything up to LSN %d when that was noted last; an empty store has nothing: after %d, if the log had everything from there on", p.NotedApplied, max(p.From, p.First-1))
		return
	}
	say("up to where both histories are one: an older copy of a log parts from what the store was fed from where it ended when it " +
		"was copied, before one of the incarnations that are listed")
}

// span tells of lanes that all go on after lsn, where the store had or is taken to have had everything up to has.
func (p *Plan) span(say func(string, ...any), has, lsn wal.LSN) {
	switch {
	case lsn > has:
		p.never(say, has+1, lsn, "the store has to have them already")
	case lsn < has:
		p.again(say, lsn+1, has, "twice, if the store still has them")
	}
	say("what is the sink's above LSN %d is applied: up to %d records now", lsn, uint64(p.Last-min(p.Last, lsn)))
}

func (p *Plan) lanes(say func(string, ...any)) {
	type move struct{ from, to sinks.Point }
	var moves []move
	lanes := map[move][]int{}
	for i, at := range p.Found.Lanes {
		m := move{at, p.Target.Lanes[i]}
		if m.from != m.to && lanes[m] == nil {
			moves = append(moves, m)
		}
		lanes[m] = append(lanes[m], i)
	}
	for _, m := range moves {
		at, to := m.from, m.to
		say("of lanes %v: they go on after LSN %d; they were at LSN %d of incarnation %s", lanes[m], to.LSN, at.LSN, at.Incarnation)
		switch {
		case !p.diverged():
			p.never(say, at.LSN+1, to.LSN, "this log does not have them any more; the store lacks them for good")
		case at.LSN > to.LSN:
			p.again(say, to.LSN+1, min(at.LSN, p.Last), "on top of what another history wrote to the store under these LSNs, which stays there")
		case to.LSN > at.LSN:
			p.never(say, at.LSN+1, to.LSN, "the store has to have them already")
		}
	}
	low := p.Target.Low().LSN
	say("what is the sink's above that is applied: up to %d records now", uint64(p.Last-min(p.Last, low)))
}

func (p *Plan) diverged() bool { return errors.Is(p.Refusal, ErrDiverged) }

func (p *Plan) never(say func(string, ...any), first, last wal.LSN, why string) {
	if first <= last {
		p.Never = append(p.Never, LSNRange{first, last})
		say("LSNs %d to %d are never applied: %s", first, last, why)
	}
}

func (p *Plan) again(say func(string, ...any), first, last wal.LSN, why string) {
	if first <= last {
		p.Again = append(p.Again, LSNRange{first, last})
		say("LSNs %d to %d are applied %s", first, last, why)
	}
}
