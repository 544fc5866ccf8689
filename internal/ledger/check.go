package ledger

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Record is what the store holds of a counter or register.
type Record struct {
	Version    uint64
	Count, Sum int64  // counters
	Token      string // registers
}

// StoredEvent is one event of a journal.
type StoredEvent struct {
	Number, LSN uint64
	Token       string
}

// Store is read by Check.
type Store interface {
	// Record returns nil, without an error, if there is no such record.
	Record(ctx context.Context, collection, key string) (*Record, error)
	// Events returns all events of a stream, none if there is no such stream.
	Events(ctx context.Context, collection, key string) ([]StoredEvent, error)
}

// findings are faults, counted, and the first of them in words.
type findings struct {
	Lost, Doubled, OutOfOrder, Alien int
	Faults                           []string
}

const maxFaults = 20

func (f *findings) note(count *int, format string, args ...any) {
	f.add(count, 1, format, args...)
}

func (f *findings) add(count *int, n int, format string, args ...any) {
	*count += n
	if len(f.Faults) < maxFaults {
		f.Faults = append(f.Faults, fmt.Sprintf(format, args...))
	}
}

// Report compares a ledger with a store.
type Report struct {
	Sent, Acked, Unknown, Refused int
	// Repeats were answered from an earlier attempt under the same request id.
	Repeats int
	Records int // compared
	// Lost acked writes; Doubled ones; those in the wrong place; Alien ones, that
	// nobody sent or that were refused.
	Lost, Doubled, OutOfOrder, Alien int
	// Faults are the first of them in words.
	Faults []string
}

// OK reports that nothing is off.
func (r Report) OK() bool { return r.Lost+r.Doubled+r.OutOfOrder+r.Alien == 0 }

func (r Report) String() string {
	s := fmt.Sprintf("sent %d, acked %d, unknown %d, refused %d: lost %d, doubled %d, out of order %d, alien %d",
		r.Sent, r.Acked, r.Unknown, r.Refused, r.Lost, r.Doubled, r.OutOfOrder, r.Alien)
	if len(r.Faults) > 0 {
		s += "\n\t" + strings.Join(r.Faults, "\n\t")
	}
	return s
}

// Check compares every record of the ledger with the store, which must have
// applied everything. An error is a read that failed.
func (l *Ledger) Check(ctx context.Context, store Store) (Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := Report{Sent: len(l.mu.entries), Acked: l.mu.acked, Repeats: l.mu.repeats, Records: len(l.mu.records)}
	for _, e := range l.mu.entries {
		switch {
		case e.unknown():
			report.Unknown++
		case e.refused():
			report.Refused++
		}
	}
	found := l.mu.broken
	found.Faults = slices.Clone(found.Faults)
	for _, r := range slices.SortedFunc(maps.Keys(l.mu.records), func(a, b record) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.key, b.key))
	}) {
		if err := found.record(ctx, store, r, l.mu.records[r]); err != nil {
			return report, fmt.Errorf("%s/%s: %w", r.kind.Collection(), r.key, err)
		}
	}
	report.Lost, report.Doubled = found.Lost, found.Doubled
	report.OutOfOrder, report.Alien = found.OutOfOrder, found.Alien
	report.Faults = found.Faults
	return report, nil
}

func (f *findings) record(ctx context.Context, store Store, r record, entries []*entry) error {
	if r.kind == Event {
		events, err := store.Events(ctx, r.kind.Collection(), r.key)
		if err == nil {
			f.journal(r.key, entries, events)
		}
		return err
	}
	got, err := store.Record(ctx, r.kind.Collection(), r.key)
	if err != nil {
		return err
	}
	if got == nil {
		got = &Record{}
	}
	if r.kind == Increment {
		f.counter(r.key, entries, *got)
	} else {
		f.register(r.key, entries, *got)
	}
	return nil
}

// counter compares the sums. Deltas differ, so that a lost and a doubled
// increment do not make up for each other.
func (f *findings) counter(key string, entries []*entry, got Record) {
	var count, maybe, least, most int64
	var version uint64
	for _, e := range entries {
		switch {
		case e.acked():
			count++
			least += e.write.Delta
			most += e.write.Delta
			version = max(version, e.lsn)
		case e.unknown():
			maybe++
			most += e.write.Delta
		}
	}
	switch {
	case got.Count < count:
		f.add(&f.Lost, int(count-got.Count), "counter %s: count is %d, acked were %d", key, got.Count, count)
	case got.Count > count+maybe:
		f.add(&f.Doubled, int(got.Count-count-maybe), "counter %s: count is %d, sent were %d", key, got.Count, count+maybe)
	case got.Sum < least || got.Sum > most:
		f.note(&f.Lost, "counter %s: sum is %d, want %d to %d", key, got.Sum, least, most)
	case got.Version < version:
		f.note(&f.OutOfOrder, "counter %s: version is %d, LSN %d was acked", key, got.Version, version)
	}
}

// register: the write with the highest LSN is what is there.
func (f *findings) register(key string, entries []*entry, got Record) {
	var last *entry
	var author *entry
	for _, e := range entries {
		if e.acked() && (last == nil || e.lsn > last.lsn) {
			last = e
		}
		if e.write.Token == got.Token {
			author = e
		}
	}
	switch {
	case got.Token == "":
		if last != nil {
			f.note(&f.Lost, "register %s: absent, LSN %d was acked", key, last.lsn)
		}
	case author == nil || author.refused():
		f.note(&f.Alien, "register %s: holds %s, which was not written", key, got.Token)
	case author.acked() && author.lsn != got.Version:
		f.note(&f.OutOfOrder, "register %s: %s was acked as LSN %d and has version %d", key, got.Token, author.lsn, got.Version)
	case last != nil && got.Version < last.lsn:
		f.note(&f.Lost, "register %s: version is %d (%s), LSN %d (%s) was acked", key, got.Version, got.Token, last.lsn, last.write.Token)
	}
}

// journal: every acked event once, at its LSN, in the order of LSNs, numbered
// from 1 without a gap.
func (f *findings) journal(key string, entries []*entry, events []StoredEvent) {
	byToken := make(map[string]*entry, len(entries))
	for _, e := range entries {
		byToken[e.write.Token] = e
	}
	seen := make(map[string]bool, len(events))
	for i, ev := range events {
		e := byToken[ev.Token]
		switch {
		case e == nil || e.refused():
			f.note(&f.Alien, "journal %s: event %d is %q, which was not written", key, ev.Number, ev.Token)
		case seen[ev.Token]:
			f.note(&f.Doubled, "journal %s: %s is there again as event %d", key, ev.Token, ev.Number)
		case e.acked() && e.lsn != ev.LSN:
			f.note(&f.OutOfOrder, "journal %s: %s was acked as LSN %d and stored as %d", key, ev.Token, e.lsn, ev.LSN)
		case e.unknown() && ev.LSN <= e.floor:
			f.note(&f.OutOfOrder, "journal %s: %s has LSN %d, it was sent after %d was acked", key, ev.Token, ev.LSN, e.floor)
		}
		seen[ev.Token] = true
		if ev.Number != uint64(i)+1 || i > 0 && ev.LSN <= events[i-1].LSN {
			f.note(&f.OutOfOrder, "journal %s: event %d (LSN %d) stands at place %d", key, ev.Number, ev.LSN, i+1)
		}
	}
	for _, e := range entries {
		if e.acked() && !seen[e.write.Token] {
			f.note(&f.Lost, "journal %s: %s was acked as LSN %d and is missing", key, e.write.Token, e.lsn)
		}
	}
}
