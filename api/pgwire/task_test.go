package pgwire

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTask: each round's context ends for its own reasons only, whoever comes late.
func TestTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k task
		errLate, errEnd := errors.New("late"), errors.New("end")
		first, one := k.begin(time.Second, errLate)
		time.Sleep(999 * time.Millisecond)
		k.finish()
		second, two := k.begin(time.Second, errLate)
		if second != first || one == two {
			t.Error("a context that did not end was not used again")
		}
		time.Sleep(500 * time.Millisecond) // past the first one's time
		k.end(one, errEnd)
		if second.Err() != nil {
			t.Errorf("ended by an earlier round's: %v", context.Cause(second))
		}
		k.end(two, errEnd)
		if context.Cause(second) != errEnd {
			t.Errorf("not ended: %v", context.Cause(second))
		}
		k.finish()
		third, _ := k.begin(time.Second, errLate)
		if third.Err() != nil {
			t.Fatal("it begins ended")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if context.Cause(third) != errLate {
			t.Errorf("not ended in time: %v", context.Cause(third))
		}
		k.finish()
		k.end(two, errEnd)
		if fourth, _ := k.begin(time.Hour, errLate); fourth.Err() != nil {
			t.Error("it begins ended")
		}
		k.finish()
	})
}

// TestTaskSooner: a round that is shorter than the one before ends in its own time, and so
// does the next one, behind it; a task that quits has no timer left.
func TestTaskSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k task
		var late atomic.Int64
		k.expired = func(uint64) { late.Add(1) }
		errLate := errors.New("late")
		k.begin(time.Hour, errLate)
		k.finish()
		for i, limit := range []time.Duration{time.Minute, time.Second, time.Hour} {
			ctx, _ := k.begin(limit, errLate)
			time.Sleep(limit - time.Nanosecond)
			synctest.Wait()
			if ctx.Err() != nil || int(late.Load()) != i {
				t.Errorf("%v: ended before its time: %v, %d were late", limit, context.Cause(ctx), late.Load())
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if context.Cause(ctx) != errLate || int(late.Load()) != i+1 {
				t.Errorf("%v: not ended in its time: %v, %d were late", limit, context.Cause(ctx), late.Load())
			}
			k.finish()
		}
		ctx, _ := k.begin(time.Minute, errLate)
		k.quit()
		time.Sleep(time.Hour)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Errorf("its timer was not stopped: %v", context.Cause(ctx))
		}
		k.finish()
	})
}

// TestWork: a cancel request ends what can be cancelled, and neither what cannot nor what
// comes later; the session's end ends all of it. None of it costs an allocation.
func TestWork(t *testing.T) {
	x := newAttended(&session{}, &tables{})
	defer x.task.quit()
	x.upstream, x.client = net.Pipe()
	cancel := func() {
		if end := x.session.waiting.Load(); end != nil {
			(*end)(errCancelled)
		}
	}
	errLate := errors.New("late")
	cancel()
	first, done := x.work(time.Hour, errLate, true)
	old := *x.session.waiting.Load()
	cancel()
	if context.Cause(first) != errCancelled {
		t.Errorf("not cancelled: %v", context.Cause(first))
	}
	second := x.workOn(time.Hour, errLate)
	cancel()
	old(errCancelled)
	if second.Err() != nil {
		t.Errorf("ended by a cancel request that came too late: %v", context.Cause(second))
	}
	done()
	third, done := x.work(time.Hour, errLate, false)
	cancel()
	old(errCancelled)
	if third.Err() != nil {
		t.Errorf("cancelled, what cannot be: %v", context.Cause(third))
	}
	done()
	if n := testing.AllocsPerRun(100, func() {
		_, done := x.work(time.Hour, errLate, true)
		x.workOn(time.Hour, errLate)
		done()
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	fourth, done := x.work(time.Hour, errLate, true)
	fifth := x.workOn(time.Hour, errLate)
	x.cut(endStopping())
	if context.Cause(fourth) == nil || context.Cause(fifth) == nil {
		t.Errorf("it goes on behind the session's end: %v, %v", context.Cause(fourth), context.Cause(fifth))
	}
	sixth := x.workOn(time.Hour, errLate)
	if sixth.Err() == nil {
		t.Error("more of it begins behind the session's end")
	}
	done()
	seventh, done := x.work(time.Hour, errLate, true)
	if seventh.Err() == nil {
		t.Error("it begins behind the session's end")
	}
	done()
}

// TestTaskStopped: nothing goes on, nor begins, once its parent has ended or it is stopped.
func TestTaskStopped(t *testing.T) {
	errEnd := errors.New("end")
	parent, cancel := context.WithCancelCause(context.Background())
	ended, stopped := task{parent: parent}, task{}
	for name, k := range map[string]struct {
		*task
		end func(error)
	}{"parent": {&ended, cancel}, "stop": {&stopped, stopped.stop}} {
		first, _ := k.begin(time.Hour, nil)
		k.end(errEnd)
		if context.Cause(first) != errEnd {
			t.Errorf("%s: the round goes on: %v", name, context.Cause(first))
		}
		k.finish()
		if second, _ := k.begin(time.Hour, nil); context.Cause(second) != errEnd {
			t.Errorf("%s: another one begins: %v", name, context.Cause(second))
		}
		k.finish()
	}
}
