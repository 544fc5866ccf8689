package wal

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// aloneWriter opens a log whose only writer has written enough to count as alone.
func aloneWriter(t *testing.T) (*Log, *hookEngine) {
	t.Helper()
	o, hook := hooked(testOptions())
	l := mustOpen(t, t.TempDir(), o)
	beAlone(t, l)
	return l, hook
}

func beAlone(t *testing.T, l *Log) {
	t.Helper()
	for range aloneMin {
		if err := toLead(t, l).Wait(testContext(t)); err != nil {
			t.Fatal(err)
		}
		awaitRest(l)
	}
}

// awaitRest returns when nobody is at a group any more.
func awaitRest(l *Log) {
	for at := true; at; runtime.Gosched() {
		l.mu.Lock()
		at = l.mu.committing
		l.mu.Unlock()
	}
}

func toLead(t *testing.T, l *Log) Ticket {
	t.Helper()
	ticket, err := l.EnqueueToLead(testContext(t), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func isDone(t Ticket) bool {
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

// TestLead: who is alone makes his record durable himself, before Lead returns, with one
// fsync, and nobody does it before.
func TestLead(t *testing.T) {
	l, hook := aloneWriter(t)
	syncs := hook.syncs.Load()
	ticket := toLead(t, l)
	if ticket.leads == nil {
		t.Fatal("a writer that is alone does not lead")
	}
	if isDone(ticket) || hook.syncs.Load() != syncs {
		t.Error("it was made durable before")
	}
	ticket.Lead()
	if !isDone(ticket) || ticket.Err() != nil || l.Durable() != ticket.LSN {
		t.Errorf("behind Lead: durable %d of %d, %v", l.Durable(), ticket.LSN, ticket.Err())
	}
	ticket.Lead()
	if n := hook.syncs.Load() - syncs; n != 1 {
		t.Errorf("%d syncs", n)
	}
}

// TestLeadHoldsNobodyUp: what somebody wants to lead is made durable with what comes
// behind it, whether he does or not, and by Seal and Prove.
func TestLeadHoldsNobodyUp(t *testing.T) {
	for name, f := range map[string]func(*Log) error{
		"a record": func(l *Log) error {
			_, err := l.Append(testContext(t), []byte("y"))
			return err
		},
		"Seal":  func(l *Log) error { return l.Seal(testContext(t)) },
		"Prove": func(l *Log) error { return l.Prove(testContext(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := aloneWriter(t)
			ticket := toLead(t, l)
			if err := f(l); err != nil {
				t.Fatal(err)
			}
			if !isDone(ticket) || ticket.Err() != nil {
				t.Errorf("it is not durable: %v", ticket.Err())
			}
			ticket.Lead()
		})
	}
}

// TestBehindLead: what comes while somebody leads is settled behind it, and he is not
// alone any more.
func TestBehindLead(t *testing.T) {
	for name, f := range map[string]func(*Log) error{
		"a record": func(l *Log) error {
			_, err := l.Append(testContext(t), []byte("y"))
			return err
		},
		"Close": (*Log).Close,
		"Prove": func(l *Log) error { return l.Prove(testContext(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			l, hook := aloneWriter(t)
			hold, held := make(chan struct{}), make(chan struct{}, 100)
			hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
			ticket := toLead(t, l)
			var both sync.WaitGroup
			both.Go(ticket.Lead)
			<-held
			appended, began := l.Appended(), make(chan struct{})
			both.Go(func() {
				close(began)
				if err := f(l); err != nil {
					t.Error(err)
				}
			})
			<-began
			eventually(t, "it has come in", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.mu.appended > appended || l.mu.sealed || l.mu.queue.filling.prove
			})
			if isDone(ticket) {
				t.Error("acknowledged before its fsync")
			}
			hook.arm(func(h *hookEngine) { h.hold = nil })
			close(hold)
			both.Wait()
			if ticket.Err() != nil {
				t.Error(ticket.Err())
			}
			if name != "a record" {
				return
			}
			awaitRest(l)
			if toLead(t, l).leads != nil {
				t.Error("he counts as alone")
			}
		})
	}
}

// TestLeadFails: a failure at who leads poisons the log like any other.
func TestLeadFails(t *testing.T) {
	l, hook := aloneWriter(t)
	hook.arm(func(h *hookEngine) { h.failSync = hook.syncs.Load() + 1 })
	ticket := toLead(t, l)
	ticket.Lead()
	if err := ticket.Wait(testContext(t)); !errors.Is(err, ErrPoisoned) {
		t.Errorf("he gets %v", err)
	}
	if _, err := l.EnqueueToLead(testContext(t), nil); !errors.Is(err, ErrPoisoned) {
		t.Errorf("the next gets %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Close: %v", err)
	}
	if n := hook.late.Load(); n != 0 {
		t.Errorf("%d writes and syncs behind the failure", n)
	}
}

// TestLeadRace: one who is mostly alone races with another one and with Close; each record
// is acknowledged and there, or refused.
func TestLeadRace(t *testing.T) {
	for range 10 {
		dir := memoryDir(t)
		l := mustOpen(t, dir, testOptions())
		var mu sync.Mutex
		acked, led := map[LSN]string{}, 0
		write := func(name string, i int, enqueue func(context.Context, []byte) (Ticket, error)) bool {
			payload := fmt.Sprintf("%s %d", name, i)
			ticket, err := enqueue(testContext(t), []byte(payload))
			if errors.Is(err, ErrClosed) {
				return false
			}
			if err == nil {
				ticket.Lead()
				err = ticket.Wait(testContext(t))
			}
			if err != nil {
				t.Errorf("%s: %v", payload, err)
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			if acked[ticket.LSN] = payload; ticket.leads != nil {
				led++
			}
			return true
		}
		var both sync.WaitGroup
		turn, over := make(chan struct{}), make(chan struct{})
		both.Go(func() {
			defer close(over)
			for i := 0; write("mostly alone", i, l.EnqueueToLead); i++ {
				awaitRest(l)
				if i%(3*aloneMin) == 0 {
					turn <- struct{}{}
				}
			}
		})
		both.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-turn:
					write("beside", i, l.Enqueue)
				case <-over:
					return
				}
				if i == 20 {
					both.Go(func() {
						if err := l.Close(); err != nil {
							t.Error(err)
						}
					})
				}
			}
		})
		both.Wait()
		if led == 0 {
			t.Error("nothing was led")
		}
		l = mustOpen(t, dir, testOptions())
		payloads, err := readAll(l, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(payloads) != len(acked) {
			t.Errorf("%d records, %d were acknowledged", len(payloads), len(acked))
		}
		for lsn, want := range acked {
			if got := string(payloads[lsn-1]); got != want {
				t.Errorf("LSN %d is %q, want %q", lsn, got, want)
			}
		}
		mustClose(t, l)
	}
}

// TestAppendLeads: an Append that is alone syncs by itself where its context does not
// end. Where it does, its end ends the wait during an fsync, too.
func TestAppendLeads(t *testing.T) {
	for name, ends := range map[string]bool{"no end": false, "ends": true} {
		t.Run(name, func(t *testing.T) {
			l, hook := aloneWriter(t)
			goOn, held := make(chan struct{}), make(chan struct{}, 100)
			hook.arm(func(h *hookEngine) { h.hold, h.held = goOn, held })
			ctx, cancel := context.Background(), func() {}
			if ends {
				ctx, cancel = context.WithCancel(ctx)
			}
			result := make(chan error, 1)
			go func() {
				_, err := l.Append(ctx, []byte("x"))
				result <- err
			}()
			<-held
			l.mu.Lock()
			leading := l.mu.leading
			l.mu.Unlock()
			cancel()
			var err error
			if ends {
				err = <-result
			}
			hook.arm(func(h *hookEngine) { h.hold = nil })
			close(goOn)
			if !ends {
				err = <-result
			}
			if leading == ends || errors.Is(err, context.Canceled) != ends {
				t.Errorf("it leads: %v; %v", leading, err)
			}
			mustClose(t, l)
		})
	}
}
