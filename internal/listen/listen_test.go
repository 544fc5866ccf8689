package listen

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/slots"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted answers Accept with errors and connections, then waits for its end.
type scripted struct {
	net.Listener
	errs []error // nil: a connection
	end  chan struct{}
}

func (s *scripted) Accept() (net.Conn, error) {
	if len(s.errs) == 0 {
		<-s.end
		return nil, net.ErrClosed
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	if err != nil {
		return nil, err
	}
	c, _ := net.Pipe()
	return c, nil
}

// TestRun: no more are served at once than there are slots, temporary errors are
// waited out, and Stop ends it without one.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var joined sync.WaitGroup
		stop, leave := make(chan struct{}), make(chan struct{})
		s := &scripted{errs: []error{syscall.EMFILE, nil, nil, nil}, end: make(chan struct{})}
		var mu sync.Mutex
		served := 0
		ended := make(chan error, 1)
		go func() {
			ended <- Loop{Listener: s, Slots: slots.New(2), Stop: stop, Joined: &joined, Logger: zap.NewNop()}.Run(func(c net.Conn) {
				mu.Lock()
				served++
				mu.Unlock()
				<-leave
				_ = c.Close()
			})
		}()
		count := func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return served
		}
		if n := count(); n != 0 {
			t.Fatalf("%d served while out of descriptors", n)
		}
		time.Sleep(time.Second) // of the bubble's clock: the pause is over
		if n := count(); n != 2 {
			t.Errorf("%d served, want 2", n)
		}
		leave <- struct{}{}
		if n := count(); n != 3 {
			t.Errorf("%d served behind one that left, want 3", n)
		}
		close(stop)
		close(s.end)
		close(leave)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		joined.Wait()
	})
}

// TestBroken: an error that does not pass is returned.
func TestBroken(t *testing.T) {
	broken := errors.New("broken")
	var joined sync.WaitGroup
	err := Loop{Listener: &scripted{errs: []error{broken}}, Slots: slots.New(1), Stop: make(chan struct{}), Joined: &joined,
		Logger: zap.NewNop()}.Run(nil)
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
