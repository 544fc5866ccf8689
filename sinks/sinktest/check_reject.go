package sinktest

import (
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

func rejectChecks() []check {
	return []check{
		{name: "reject/leaves-nothing", run: rejectLeavesNothing,
			why: "the loop finds a rejected record by bisection; it may only be told applied what is applied"},
		{name: "reject/preconditions", run: preconditions,
			why: "the sink checks versions again: somebody may have written around the log"},
		{name: "reject/group", lanes: 2, run: rejectGroup, skip: needsGroups,
			why: "a group is all or none, whichever member cannot apply"},
		{name: "reject/then-on", run: rejectThenOn,
			why: "after a rejection the loop applies the others and passes the record with an empty batch"},
	}
}

// mustReject applies b and wants its record at i rejected. A transactional sink
// reports the others retry.
func (r *rig) mustReject(b *sinks.Batch, i int, what string) {
	r.t.Helper()
	results, err := r.call(b)
	got := outcomes(b, results, err)
	if err != nil && results == nil && len(b.Records) > 1 {
		r.t.Fatalf("%s: Apply returned only an error, %v; a rejection needs results, to say which record it is", what, err)
	}
	if got[i] != sinks.Rejected {
		r.t.Fatalf("%s: LSN %v is %v, want rejected", what, b.Records[i].LSN, got[i])
	}
	for j, o := range got {
		if j != i && o != sinks.Retry && !(r.h.NotTransactional && o == sinks.Applied) {
			r.t.Fatalf("%s: LSN %v beside the rejected one is %v; want retry: it can apply and was not applied", what, b.Records[j].LSN, o)
		}
	}
}

func rejectLeavesNothing(r *rig) {
	if reason := needsTransactions(r.h); reason != "" {
		r.t.Logf("%s: only the single rejected record is checked", reason)
	}
	r.mustApply(r.batch(0, r.record(set("a", map[string]any{"n": "text"})), r.record(add("b"))))
	bad := func() sinks.Record { return r.record(add("a")) } // a number onto a text
	if !r.h.NotTransactional {
		b := r.batch(0, r.record(add("b")), r.record(event("b", 1)), bad(), r.record(add("b")), r.record(remove("b")))
		if r.h.NoEvents {
			b.Records[1] = sinks.Record{LSN: b.Records[1].LSN, Accepted: b.Records[1].Accepted, Body: b.Records[0].Body}
		}
		for range 2 {
			r.mustReject(b, 2, "a batch with an increment of a text")
			r.check()
		}
	}
	r.mustReject(r.batch(0, bad()), 0, "an increment of a text, alone")
	r.mustStay()
	r.crash()
	r.mustStay()
}

func preconditions(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a")), r.record(add("a"))))
	version := r.last
	for what, m := range map[string]*walproxyv1.Mutation{
		"if_version with an older version":    add("a", mutation.IfVersion(version-1)),
		"if_version with a later version":     add("a", mutation.IfVersion(version+1)),
		"if_version on an absent record":      add("absent", mutation.IfVersion(version)),
		"if_absent on a record that exists":   add("a", mutation.IfAbsent()),
		"if_version 0 on one that exists":     add("a", mutation.IfVersion(0)),
		"delete if_version with an older one": mutation.Delete(collection, key("a"), mutation.IfVersion(version-1)),
	} {
		r.mustReject(r.batch(0, r.record(m)), 0, what)
		r.check()
	}
	if !r.h.NoEvents {
		r.mustReject(r.batch(0, r.record(must(mutation.AppendEvents(collection, key("a"),
			[]map[string]any{{"n": int64(1)}}, mutation.IfEventCount(3))))), 0, "if_event_count with another count")
	}
	// The ones that hold, the last on what the same batch wrote.
	first := r.record(add("a", mutation.IfVersion(version)))
	r.mustApply(r.batch(0, first, r.record(add("new", mutation.IfAbsent())), r.record(add("a", mutation.IfVersion(first.LSN)))))
	r.mustStay()
}

func rejectGroup(r *rig) {
	r.mustApply(r.batch(0, r.record(set("text", map[string]any{"n": "text"}))))
	b := r.batch(0, r.record(add("a"), add("text"), add("c")))
	b.Moves = append(b.Moves, sinks.Move{Lane: 1, From: r.cp.Lanes[1], To: b.Moves[0].To})
	r.mustReject(b, 0, "a group whose second member cannot apply")
	r.model.touch("a", "c")
	r.mustStay()
}

func rejectThenOn(r *rig) {
	r.mustApply(r.batch(0, r.record(set("a", map[string]any{"n": "text"}))))
	good1, bad, good2 := r.record(add("b")), r.record(add("a")), r.record(add("b"))
	if !r.h.NotTransactional {
		r.mustReject(r.batch(0, good1, bad, good2), 1, "good, bad, good")
	}
	r.mustApply(r.batch(0, good1))
	r.mustReject(r.batch(0, bad), 0, "the bad one alone")
	skip := r.batch(0)
	skip.Moves[0].To = r.point(bad.LSN)
	r.mustApply(skip)
	r.mustApply(r.batch(0, good2))
	r.crash()
	r.mustStay()
}

// touch makes check look at keys that nothing was written to.
func (m model) touch(names ...string) {
	for _, name := range names {
		k := string(mutation.AppendKey(nil, collection, key(name)))
		if e := m[k]; e.key == nil {
			e.key = key(name)
			m[k] = e
		}
	}
}
