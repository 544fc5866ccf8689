package sinktest

import (
	"context"
	"errors"
	"fmt"

	"github.com/walproxy/walproxy/sinks"
)

func closeChecks() []check {
	return []check{
		{name: "close/twice", run: closeTwice,
			why: "every exit path closes; some exit paths meet"},
		{name: "close/calls-after", run: closedCalls,
			why: "a late call gets sinks.ErrClosed, never a panic or a write behind the owner's back"},
		{name: "close/during-apply", run: closeDuring,
			why: "Close waits for what runs; afterwards data and checkpoint agree"},
	}
}

func closeTwice(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.close()
	ctx, cancel := r.ctx()
	defer cancel()
	if err := r.sink.Close(ctx); err != nil {
		r.t.Fatalf("the second Close: %v; want nil", err)
	}
	r.reopen()
	r.mustStay()
}

func closedCalls(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	b := r.batch(0, r.record(add("a")))
	reader := r.reader()
	r.close()
	ctx, cancel := r.ctx()
	defer cancel()
	calls := map[string]func() error{
		"Apply":  func() error { _, err := r.sink.Apply(ctx, b); return err },
		"Resume": func() error { _, err := r.sink.Resume(ctx, r.claim); return err },
		"Read":   func() error { _, err := reader.Read(ctx, collection, key("a")); return err },
		"ReadEvents": func() error {
			_, err := reader.ReadEvents(ctx, collection, key("a"), 1, 1)
			return err
		},
	}
	if id, ok := r.sink.(sinks.Identifier); ok {
		calls["Identity"] = func() error { _, err := id.Identity(ctx); return err }
	}
	if r.h.Reader != nil { // the suite's own reader need not close with the sink
		delete(calls, "Read")
		delete(calls, "ReadEvents")
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, sinks.ErrClosed) {
			r.t.Fatalf("%s after Close: %v; want sinks.ErrClosed", name, err)
		}
	}
	r.reopen()
	r.mustStay()
}

func closeDuring(r *rig) {
	for range 5 {
		ended, running := make(chan error, 1), make(chan struct{})
		sink, epoch, from, lsn := r.sink, r.cp.Epoch, r.cp.Lanes[0], r.cp.Lanes[0].LSN
		go func() {
			ended <- func() error {
				for n := 0; ; n++ {
					if n == 3 {
						close(running)
					}
					lsn++
					b := counter(r, epoch, from, lsn)
					if _, err := sink.Apply(context.Background(), b); err != nil {
						return err
					}
					from = b.Moves[0].To
				}
			}()
		}()
		select {
		case <-running:
		case err := <-ended:
			r.t.Fatalf("Apply before Close: %v", err)
		}
		r.close()
		select {
		case err := <-ended:
			if !errors.Is(err, sinks.ErrClosed) {
				r.t.Fatalf("the Apply that Close cut short: %v; want sinks.ErrClosed", err)
			}
		case <-afterTimeout():
			r.t.Fatalf("Apply still runs %v after Close", callTimeout)
		}
		r.reopen()
		r.claims()
		at := r.cp.Lanes[0].LSN
		if r.settles() && at <= from.LSN {
			r.countTo(lsn, "once all is applied again that was tried before Close")
			continue
		}
		// from is the loop's last confirmed point; the store may be one ahead.
		if at < from.LSN || at > lsn {
			r.t.Fatalf("after Close the checkpoint is at %v; applied was up to %v, tried up to %v", at, from.LSN, lsn)
		}
		r.mustCount("a", at, fmt.Sprintf("after Close with the checkpoint at %v", at))
	}
}
