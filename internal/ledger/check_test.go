package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a right or wrong answer to Check.
type store struct {
	records map[string]ledger.Record
	events  map[string][]ledger.StoredEvent
}

func (s *store) Record(_ context.Context, collection, key string) (*ledger.Record, error) {
	if r, ok := s.records[collection+"/"+key]; ok {
		return &r, nil
	}
	return nil, nil
}

func (s *store) Events(_ context.Context, collection, key string) ([]ledger.StoredEvent, error) {
	return s.events[collection+"/"+key], nil
}

// history is a ledger of 30 acked writes, 2 of unknown outcome, one of which was
// written (LSN 31), and one refused; and the store that agrees with it.
func history() (*ledger.Ledger, *store) {
	l := ledger.New()
	s := &store{records: map[string]ledger.Record{}, events: map[string][]ledger.StoredEvent{}}
	counter, register := ledger.Record{}, ledger.Record{}
	var journal []ledger.StoredEvent
	for lsn := uint64(1); lsn <= 30; lsn++ {
		w := ledger.Write{Kind: ledger.Kind(lsn % 3), Key: "k", Token: fmt.Sprint("t", lsn), Delta: int64(lsn)}
		l.Attempt(w)
		l.Ack(w.Token, lsn, false)
		switch w.Kind {
		case ledger.Increment:
			counter = ledger.Record{Version: lsn, Count: counter.Count + 1, Sum: counter.Sum + w.Delta}
		case ledger.Set:
			register = ledger.Record{Version: lsn, Token: w.Token}
		case ledger.Event:
			journal = append(journal, ledger.StoredEvent{Number: uint64(len(journal)) + 1, LSN: lsn, Token: w.Token})
		}
	}
	for _, token := range []string{"written", "not written", "refused"} {
		l.Attempt(ledger.Write{Kind: ledger.Event, Key: "k", Token: token})
	}
	l.Refuse("refused")
	journal = append(journal, ledger.StoredEvent{Number: uint64(len(journal)) + 1, LSN: 31, Token: "written"})
	s.records["counters/k"], s.records["registers/k"], s.events["journals/k"] = counter, register, journal
	return l, s
}

// TestCheckSees breaks the store in every way and looks whether Check sees it.
func TestCheckSees(t *testing.T) {
	counter := func(change func(*ledger.Record)) func(*ledger.Ledger, *store) {
		return func(_ *ledger.Ledger, s *store) {
			r := s.records["counters/k"]
			change(&r)
			s.records["counters/k"] = r
		}
	}
	register := func(change func(*ledger.Record)) func(*ledger.Ledger, *store) {
		return func(_ *ledger.Ledger, s *store) {
			r := s.records["registers/k"]
			change(&r)
			s.records["registers/k"] = r
		}
	}
	journal := func(change func([]ledger.StoredEvent) []ledger.StoredEvent) func(*ledger.Ledger, *store) {
		return func(_ *ledger.Ledger, s *store) { s.events["journals/k"] = change(s.events["journals/k"]) }
	}
	for _, c := range []struct {
		name  string
		wrong func(*ledger.Ledger, *store)
		want  string
	}{
		{"nothing is wrong", func(*ledger.Ledger, *store) {}, "lost 0, doubled 0, out of order 0, alien 0"},
		{"an increment lost", counter(func(r *ledger.Record) { r.Count--; r.Sum -= 3 }), "lost 1,"},
		{"an increment doubled", counter(func(r *ledger.Record) { r.Count++; r.Sum += 3 }), "doubled 1,"},
		{"one lost, one doubled", counter(func(r *ledger.Record) { r.Sum += 3 }), "lost 1,"},
		{"a counter of an old version", counter(func(r *ledger.Record) { r.Version = 1 }), "out of order 1,"},
		{"a counter missing", func(_ *ledger.Ledger, s *store) { delete(s.records, "counters/k") }, "lost 10,"},
		{"a register missing", func(_ *ledger.Ledger, s *store) { delete(s.records, "registers/k") }, "lost 1,"},
		{"the last set lost", register(func(r *ledger.Record) { *r = ledger.Record{Version: 25, Token: "t25"} }), "lost 1,"},
		{"an older set won", register(func(r *ledger.Record) { r.Token = "t25" }), "out of order 1,"},
		{"a set that nobody sent", register(func(r *ledger.Record) { r.Token = "?" }), "alien 1"},
		{"an acked event lost", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent {
			return renumber(slices.Delete(e, 3, 4))
		}), "lost 1,"},
		{"an event doubled", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent {
			return renumber(append(e, ledger.StoredEvent{LSN: 40, Token: "t29"}))
		}), "doubled 1,"},
		{"two events swapped", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent {
			e[2], e[3] = e[3], e[2]
			return renumber(e)
		}), "out of order 1,"},
		{"a gap in the numbers", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent {
			e[len(e)-1].Number++
			return e
		}), "out of order 1,"},
		{"an unknown one lost", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent { return e[:len(e)-1] }), "lost 0, doubled 0, out of order 0, alien 0"},
		{"an unknown one below what was acked before it", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent {
			e[len(e)-1].LSN = 29
			return slices.Delete(e, len(e)-2, len(e)-1)
		}), "out of order 2,"},
		{"a refused one written", journal(func(e []ledger.StoredEvent) []ledger.StoredEvent {
			return renumber(append(e, ledger.StoredEvent{LSN: 40, Token: "refused"}))
		}), "alien 1"},
		{"one LSN acked twice", func(l *ledger.Ledger, _ *store) {
			l.Ack("not written", 7, false)
		}, "lost 1,"},
		{"an LSN that goes back", func(l *ledger.Ledger, s *store) {
			l.Attempt(ledger.Write{Kind: ledger.Increment, Key: "other", Token: "a", Delta: 1})
			l.Ack("a", 100, false)
			l.Attempt(ledger.Write{Kind: ledger.Increment, Key: "other", Token: "b", Delta: 1})
			l.Ack("b", 99, false)
			s.records["counters/other"] = ledger.Record{Version: 100, Count: 2, Sum: 2}
		}, "out of order 1,"},
		{"two answers to one write", func(l *ledger.Ledger, _ *store) { l.Ack("t30", 41, true) }, "doubled 1,"},
		{"refused after an attempt without an answer", func(l *ledger.Ledger, s *store) {
			w := ledger.Write{Kind: ledger.Event, Key: "k", Token: "unsure"}
			l.Attempt(w)
			l.Attempt(w)
			l.Refuse("unsure")
			s.events["journals/k"] = renumber(append(s.events["journals/k"], ledger.StoredEvent{LSN: 40, Token: "unsure"}))
		}, "lost 0, doubled 0, out of order 0, alien 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, s := history()
			c.wrong(l, s)
			report, err := l.Check(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(report.String(), c.want) {
				t.Errorf("got %s\nwant %s", report, c.want)
			}
			if clean := strings.HasPrefix(c.want, "lost 0, doubled 0"); report.OK() != clean {
				t.Errorf("OK is %t", report.OK())
			}
		})
	}
}

func renumber(events []ledger.StoredEvent) []ledger.StoredEvent {
	for i := range events {
		events[i].Number = uint64(i) + 1
	}
	return events
}
