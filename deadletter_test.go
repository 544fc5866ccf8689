package walproxy_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestFullDeadLetters: a sink whose dead letters are full is halted and says so;
// writes are still acknowledged; a stop does not wait for it, and says what stays;
// a discard lets it go on, without a new start.
func TestFullDeadLetters(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	full := options(dir, store)
	full.Sinks[0].Loop.DeadLetters.Age = time.Nanosecond // the first fits, the second does not
	p := open(t, full)
	appendOne(t, p, text("a"))
	appendOne(t, p, text("b"))
	first := appendOne(t, p, increment("a"))
	if err := p.Wait(t.Context(), first, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
		t.Fatalf("Wait = %v, want ErrDead", err)
	}
	second := appendOne(t, p, increment("b"))
	last := appendOne(t, p, set("c", 1))
	if err := p.Wait(t.Context(), last, walproxy.Applied); !errors.Is(err, walproxy.ErrHalted) || !errors.Is(err, replay.ErrDeadLettersFull) {
		t.Fatalf("Wait = %v, want ErrHalted because of ErrDeadLettersFull", err)
	}
	if st := p.Status().Sinks[0]; st.State != replay.Halted || !errors.Is(st.Err, replay.ErrDeadLettersFull) || st.DeadLetters != 1 {
		t.Errorf("Status = %+v, want it halted with one dead letter", st)
	}
	began := time.Now()
	var remaining *walproxy.RemainingError
	if err := p.Close(context.Background()); !errors.As(err, &remaining) || remaining.Records["main"] == 0 {
		t.Errorf("Close = %v, want *RemainingError", err)
	}
	if took := time.Since(began); took > full.DrainTimeout/2 {
		t.Errorf("Close took %s: it waited for a sink that is halted", took)
	}

	full.Sinks[0].Sink = store.Reopen()
	p = open(t, full)
	if err := p.Wait(t.Context(), last, walproxy.Applied); !errors.Is(err, replay.ErrDeadLettersFull) {
		t.Fatalf("Wait after a start = %v, want ErrDeadLettersFull", err)
	}
	letters, err := p.DeadLetters("main", 1, 10)
	if err != nil || len(letters) != 1 || letters[0].LSN != first {
		t.Fatalf("DeadLetters of a halted sink = %+v, %v", letters, err)
	}
	if err := p.DiscardDeadLetter("main", first); err != nil {
		t.Fatal(err)
	}
	for {
		err := p.Wait(t.Context(), last, walproxy.Applied)
		if err == nil {
			break
		}
		if !errors.Is(err, walproxy.ErrHalted) { // it may not have seen it yet
			t.Fatalf("Wait after the discard = %v", err)
		}
	}
	for lsn, want := range map[walproxy.LSN]string{first: walproxy.StateDead, second: walproxy.StateDead, last: walproxy.StateApplied} {
		if ws := stateOf(t, p, lsn); ws.State != want {
			t.Errorf("LSN %d is %s, want %s", lsn, ws.State, want)
		}
	}
	closeProxy(t, p)
}
