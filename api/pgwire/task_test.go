package pgwire

import (
	"context"
	"errors"
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
