package looptest

import (
	"cmp"
	"maps"
	"slices"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// model is what applying the log one record after the other comes to.
type model struct {
	rows map[string]row // by mutation.AppendKey
	dead map[wal.LSN]letter
	// fates of the records routed to the sink. Retried: the retry's LSN.
	fates   map[wal.LSN]replay.Fate
	retried map[wal.LSN]wal.LSN
	last    map[string]wal.LSN // of a key: the last record
}

type row struct {
	collection string
	key        *walproxyv1.Key
	document   *mutation.Document
	events     []wal.LSN // of each event
}

// letter is a dead letter.
type letter struct {
	lsn, position wal.LSN
	kind          state.Kind
	parks         bool
	attempts      uint64
	keys          []string
	mutations     []*walproxyv1.Mutation
}

func newModel() *model {
	return &model{rows: map[string]row{}, dead: map[wal.LSN]letter{}, fates: map[wal.LSN]replay.Fate{}, retried: map[wal.LSN]wal.LSN{}, last: map[string]wal.LSN{}}
}

// policy by collection: skip, or park_key. A group takes the stricter.
func policy(collection string) replay.Policy {
	if collection == collections[1] {
		return replay.Skip
	}
	return replay.ParkKey
}

// record takes one record; origin is what it retries, or 0.
func (m *model) record(lsn, origin wal.LSN, accepted time.Time, ms []*walproxyv1.Mutation) {
	l := letter{lsn: lsn, position: lsn, mutations: ms}
	for _, mu := range ms {
		if key := encode(mu.GetCollection(), mu.GetKey()); !slices.Contains(l.keys, key) {
			l.keys = append(l.keys, key)
		}
		m.last[l.keys[len(l.keys)-1]] = lsn
	}
	m.fates[lsn] = replay.Applied
	if origin != 0 {
		named, ok := m.dead[origin]
		if !ok {
			return // retried before, or given up
		}
		l.position, l.attempts = named.position, named.attempts
		delete(m.dead, origin)
		m.retried[origin] = lsn
	}
	switch {
	case m.parked(l):
		l.kind, l.parks = state.Parked, true
		m.fates[lsn] = replay.Parked
	case m.apply(lsn, accepted, ms) != nil:
		l.kind = state.Rejected
		l.attempts++
		l.parks = slices.ContainsFunc(ms, func(mu *walproxyv1.Mutation) bool { return policy(mu.GetCollection()) == replay.ParkKey })
		m.fates[lsn] = replay.Dead
	default:
		return
	}
	m.dead[lsn] = l
}

// parked reports whether a dead letter before l parks one of its keys.
func (m *model) parked(l letter) bool {
	for _, d := range m.dead {
		if d.parks && d.position < l.position && slices.ContainsFunc(d.keys, func(k string) bool { return slices.Contains(l.keys, k) }) {
			return true
		}
	}
	return false
}

// apply does all of ms or, with an error, nothing.
func (m *model) apply(lsn wal.LSN, accepted time.Time, ms []*walproxyv1.Mutation) error {
	staged := map[string]row{}
	for _, mu := range ms {
		name := encode(mu.GetCollection(), mu.GetKey())
		r, ok := staged[name]
		if !ok {
			r = m.rows[name]
		}
		r.collection, r.key = mu.GetCollection(), mu.GetKey()
		effect, err := mutation.Apply(r.document, mu, lsn, accepted)
		if err != nil {
			return err
		}
		if !effect.Unchanged {
			if effect.Document == nil || effect.DropEvents {
				r.events = nil
			}
			r.events = slices.Clip(r.events)
			for range effect.Events {
				r.events = append(r.events, lsn)
			}
			r.document = effect.Document
		}
		staged[name] = r
	}
	maps.Copy(m.rows, staged)
	return nil
}

// queue is the dead letters of a key in the order of their queue.
func (m *model) queue(key string) (queue []letter) {
	for _, d := range m.dead {
		if slices.Contains(d.keys, key) {
			queue = append(queue, d)
		}
	}
	slices.SortFunc(queue, func(a, b letter) int { return cmp.Compare(a.position, b.position) })
	return queue
}

// letters in LSN order.
func (m *model) letters() (list []letter) {
	for _, lsn := range slices.Sorted(maps.Keys(m.dead)) {
		list = append(list, m.dead[lsn])
	}
	return list
}

// isLast reports whether no record of its keys came after l.
func (m *model) isLast(l letter) bool {
	return !slices.ContainsFunc(l.keys, func(key string) bool { return m.last[key] > l.lsn })
}

// keys that were written or are in the dead letters.
func (m *model) keys() map[string]bool {
	keys := map[string]bool{}
	for name := range m.rows {
		keys[name] = true
	}
	for _, l := range m.dead {
		for _, name := range l.keys {
			keys[name] = true
		}
	}
	return keys
}

// fate of a record: its retry's, if it was retried.
func (m *model) fate(lsn wal.LSN) replay.Fate {
	for m.retried[lsn] != 0 {
		lsn = m.retried[lsn]
	}
	return m.fates[lsn]
}

func encode(collection string, key *walproxyv1.Key) string {
	return string(mutation.AppendKey(nil, collection, key))
}
