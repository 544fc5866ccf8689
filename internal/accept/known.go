package accept

import (
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

type existence uint8

const (
	unsure existence = iota
	absent
	exists
)

// known is what is known of a record without asking the store, enough to judge
// preconditions. It takes for granted that pending writes are not rejected: the
// sink checks preconditions again.
type known struct {
	exists      existence
	version     wal.LSN   // if it exists
	expires     time.Time // if it exists; zero: never
	events      uint64
	eventsKnown bool
}

var gone = known{exists: absent, eventsKnown: true}

// knownOf is what a store's answer says; nil: absent.
func knownOf(doc *mutation.Document) known {
	if doc == nil {
		return gone
	}
	return known{exists: exists, version: doc.Version, expires: doc.ExpiresAt, events: doc.EventCount, eventsKnown: true}
}

// at is k at a time: a record that has expired by then is absent.
func (k known) at(t time.Time) known {
	if k.exists == exists && !k.expires.IsZero() && !k.expires.After(t) {
		return gone
	}
	return k
}

// after is k after m was accepted as lsn; it follows mutation.Apply.
func (k known) after(m *walproxyv1.Mutation, lsn wal.LSN, accepted time.Time) known {
	k = k.at(accepted)
	expiryKnown := k.exists != unsure // while it may exist already, it may expire
	written := false
	for _, op := range m.GetOps() {
		switch op.GetKind().(type) {
		case *walproxyv1.Op_Delete_:
			k, expiryKnown = gone, true
			continue
		case *walproxyv1.Op_Touch_, *walproxyv1.Op_Unset_:
			// Nothing but a new version, if it exists.
			written = written || k.exists == exists
			continue
		case *walproxyv1.Op_Set_:
			k.expires, expiryKnown = time.Time{}, true
		}
		k.exists, written = exists, true
		k.events += uint64(len(op.GetAppendEvent().GetEvents()))
	}
	if !written {
		return k
	}
	if at := m.GetExpiresAt(); at != nil {
		k.expires, expiryKnown = at.AsTime(), true
	}
	if !expiryKnown {
		return known{}
	}
	k.version = lsn
	return k.at(accepted)
}

// judgement is a precondition held against what is known.
type judgement struct {
	decided bool
	holds   bool
	found   known
}

// judge holds p against k at time t.
func (k known) judge(p *walproxyv1.Precondition, t time.Time) judgement {
	k = k.at(t)
	j := judgement{decided: k.exists != unsure, found: k}
	switch c := p.GetKind().(type) {
	case *walproxyv1.Precondition_IfVersion:
		// A record that was not written through walproxy has no version, and exists.
		j.holds = wal.LSN(c.IfVersion) == k.version && (c.IfVersion != 0 || k.exists == absent)
	case *walproxyv1.Precondition_IfAbsent:
		j.holds = k.exists == absent
	case *walproxyv1.Precondition_IfEventCount:
		j.decided = j.decided && k.eventsKnown
		j.holds = c.IfEventCount == k.events
	}
	j.holds = j.holds && j.decided
	return j
}

// eventCountAfter is the record's event count after m, which m itself says under
// if_event_count; else 0.
func eventCountAfter(m *walproxyv1.Mutation) uint64 {
	c, ok := m.GetPrecondition().GetKind().(*walproxyv1.Precondition_IfEventCount)
	if !ok {
		return 0
	}
	count, appended := c.IfEventCount, uint64(0)
	for _, op := range m.GetOps() {
		if op.GetDelete() != nil {
			count = 0
		}
		appended += uint64(len(op.GetAppendEvent().GetEvents()))
	}
	if appended == 0 {
		return 0
	}
	return count + appended
}
