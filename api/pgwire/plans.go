package pgwire

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/walproxy/walproxy/api/pgwire/behind"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// plans are those of a session's statements, for one state of the catalogue and of
// the session.
type plans struct {
	catalogue *catalogue.Snapshot
	by        map[planKey]planned
}

type planKey struct {
	statement *statement.Statement // shared by texts of one shape
	types     string
}

type planned struct {
	*behind.Plan
	why *behind.Why
}

// plansMax are kept; beyond it all are made anew.
const plansMax = 512

func (p *plans) clear() { clear(p.by) }

// plan says how a statement is written behind, or why it is not.
func (x *attended) plan(known *catalogue.Snapshot, st *statement.Statement, types []uint32) (*behind.Plan, *behind.Why) {
	p := &x.plans
	if p.catalogue != known || len(p.by) >= plansMax {
		p.catalogue, p.by = known, map[planKey]planned{}
	}
	var buf [64]byte
	encoded := buf[:0]
	for _, oid := range types {
		encoded = binary.BigEndian.AppendUint32(encoded, oid)
	}
	key := planKey{st, string(encoded)}
	found, ok := p.by[key]
	if !ok {
		found.Plan, found.why = behind.Prepare(known, st, types, &x.known.session)
		p.by[key] = found
	}
	return found.Plan, found.why
}

// ready makes sure that what a write depends on is known; nil: it has to be passed
// through.
func (x *attended) ready() (*catalogue.Snapshot, error) {
	if x.settings.ack == ackOff {
		x.passes("off", "walproxy.ack is off")
		return nil, nil
	}
	ok, err := x.learn()
	if err != nil {
		return nil, err
	}
	if !ok {
		x.passes("session", "PostgreSQL does not say how the session is set")
		return nil, nil
	}
	if x.known.why != "" {
		x.passes("session", x.known.why)
		return nil, nil
	}
	known := x.t.catalogue(context.Background())
	if known != nil && x.t.store(context.Background()) != x.known.store {
		x.passes("store", "its database is not the one that the sink applies to")
		return nil, nil
	}
	if known == nil {
		x.passes("catalogue", "the catalogue cannot be read")
	}
	return known, nil
}

// eligible is plan for what may also be counted.
func (x *attended) eligible(known *catalogue.Snapshot, p *prepared) *behind.Plan {
	plan, why := x.plan(known, p.text.Statements[0], p.types)
	switch {
	case why != nil:
		x.passes(why.Label(), why.String())
		return nil
	case !plan.Counted && !x.t.rows[plan.Table.Collection]:
		x.passes("count", "how many rows it affects is not known at the ack, and "+plan.Table.String()+" has no assume_rows")
		return nil
	}
	return plan
}

// describedMax is how many parameters PostgreSQL is asked about: the answer has to fit
// into a buffer.
const describedMax = bufferBytes/4 - 100

// resolve has PostgreSQL say what types the parameters of a statement have that it
// made; false: it does not.
func (x *attended) resolve(name string, p *prepared) (bool, error) {
	if p.resolved || !p.upstream {
		return true, nil
	}
	if p.text.Statements[0].Write.Parameters > describedMax {
		x.passes("statement", "it has too many parameters that PostgreSQL chose the types of")
		return false, nil
	}
	b, start := begin(nil, cDescribe)
	frames, err := x.askSoon(appendEmpty(finish(append(append(append(b, 'S'), name...), 0), start), cSync))
	if errors.Is(err, errAskLate) {
		x.passes("statement", "PostgreSQL does not describe the statement in time")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, frame := range frames {
		n, rest, ok := count(frame[headBytes:], 4)
		if frame[0] != sParameters || !ok || len(rest) != 4*n {
			continue
		}
		p.types, p.resolved = make([]uint32, n), true
		for i := range p.types {
			p.types[i] = binary.BigEndian.Uint32(rest[4*i:])
		}
		return true, nil
	}
	x.passes("statement", "PostgreSQL does not describe the statement")
	return false, nil
}

// passes takes note of why a write is not written behind.
func (x *attended) passes(reason, why string) {
	x.passesAs(why)
	x.t.m.passed.WithLabelValues(reason).Inc()
}

// passesAs is passes without a count.
func (x *attended) passesAs(why string) {
	x.settings.why = "passed through: " + why
	x.t.m.why.Store(why)
}

// unique names, in order.
func unique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
