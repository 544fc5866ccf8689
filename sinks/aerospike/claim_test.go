package aerospike

import (
	"errors"
	"strings"
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/sinks"
)

// TestSetOfAnotherLog: a log whose checkpoints are elsewhere is kept out of a set that
// another one writes to, whoever of them restarts, until that one is given up.
func TestSetOfAnotherLog(t *testing.T) {
	t.Parallel()
	o := quick(t)
	first := mustOwn(t, open(t, o), uuid.New(), true)
	first.must(bump("k"))
	other := o
	other.State.Set += "-other"
	second := mustOwn(t, open(t, other), uuid.New(), true)
	refused := func(own *ownership) {
		t.Helper()
		err := own.apply(bump("k"))
		said, ok := errors.AsType[*SetError](err)
		if !ok || sinks.OutcomeOf(err) != sinks.Halt || said.Place.Set != o.Collections[1].Set || !strings.Contains(err.Error(), t.Name()) {
			t.Fatalf("Apply: %v, want a *SetError that halts and names the owner", err)
		}
	}
	refused(second)
	refused(second)
	if got := (forwarder{t, second.s}).one(message(t, second.s, "k", 0, wr, 0, intOp(codec.OpIncrement, "n", 1))); got != said(t, refusal(codec.Forbidden)) {
		t.Errorf("a forwarded write: %s", got)
	}
	m := message(t, second.s, "k", 0, wr, 0, intOp(codec.OpIncrement, "n", 1))
	if result, _ := second.s.Foresee(t.Context(), m); result != codec.Forbidden {
		t.Errorf("a write is foreseen as %v", result)
	}
	first = mustOwn(t, first.s, first.cp.Stream, false)
	refused(mustOwn(t, second.s, second.cp.Stream, false))
	first.must(bump("k")) // again, unless it is settled by now
	first.must(bump("k"))
	if n, want := first.count("k"), int64(first.cp.Lanes[0].LSN); n != want {
		t.Errorf("the owner's counter is %d, want %d", n, want)
	}
	// The first log is given up.
	client := works(t, first.s)
	key, err := o.Collections[1].place(o.Namespace).claim().asKey()
	if err != nil {
		t.Fatal(err)
	}
	if there, err := client.Delete(nil, key); err != nil || !there {
		t.Fatalf("the record that the error names: %v, %v", there, err)
	}
	second = mustOwn(t, second.s, second.cp.Stream, false)
	second.must(bump("k"))
	refused(mustOwn(t, first.s, first.cp.Stream, false)) // should it come back all the same
}

// TestSetAfterRebase: a person has the sink go on with another log: its sets follow.
func TestSetAfterRebase(t *testing.T) {
	t.Parallel()
	s := open(t, quick(t))
	first := mustOwn(t, s, uuid.New(), true)
	first.must(bump("k"))
	from, err := s.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range maxFormer + 2 {
		to := sinks.Checkpoint{Stream: uuid.New(), Lanes: []sinks.Point{{}}}
		if err := s.Rebase(t.Context(), "a person", from, to); err != nil {
			t.Fatal(err)
		}
		from = to
	}
	refusedOrNot := mustOwn(t, s, from.Stream, false)
	if err := refusedOrNot.apply(bump("k")); err == nil {
		t.Fatal("a set is taken from a log that the state record remembers no more")
	}
	key, err := s.o.Collections[1].place(s.o.Namespace).claim().asKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := works(t, s).Delete(nil, key); err != nil {
		t.Fatal(err)
	}
	second := mustOwn(t, s, from.Stream, false)
	second.must(bump("k"))
	to := sinks.Checkpoint{Stream: uuid.New(), Lanes: []sinks.Point{{}}}
	if from, err = s.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Rebase(t.Context(), "a person", from, to); err != nil {
		t.Fatal(err)
	}
	mustOwn(t, s, to.Stream, false).must(bump("k"))
}

func (c *Collection) place(namespace string) Place { return Place{namespace, c.Set} }

// TestClaimDamaged: what cannot be read is never taken for no claim.
func TestClaimDamaged(t *testing.T) {
	t.Parallel()
	o := quick(t)
	own := mustOwn(t, open(t, o), uuid.New(), true)
	key, err := o.Collections[1].place(o.Namespace).claim().asKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"format":2}`, `{"format":1}`} {
		if err := works(t, own.s).PutBins(nil, key, as.NewBin(claimBin, text)); err != nil {
			t.Fatal(err)
		}
		if err := own.apply(bump("k")); sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), claimsSet) {
			t.Errorf("Apply with %q: %v, want halt", text, err)
		}
	}
}
