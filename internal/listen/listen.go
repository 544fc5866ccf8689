// Package listen takes connections, no more at once than are allowed.
package listen

import (
	"errors"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/slots"
)

// Loop is a listener whose connections are served one goroutine each.
type Loop struct {
	Listener net.Listener
	// Slots are as many connections as are allowed; those beyond wait in the kernel's
	// queue.
	Slots *slots.Pool
	// Stop is closed before the listener is.
	Stop   <-chan struct{}
	Joined *sync.WaitGroup // counts the goroutines
	Logger *zap.Logger
}

// Run serves connections until Stop is closed, then it returns nil; else the error
// that ended it. What passes, as being out of file descriptors does, is waited out.
func (l Loop) Run(serve func(net.Conn)) error {
	for {
		if !l.Slots.Take(l.Stop) {
			return nil
		}
		c, err := l.Listener.Accept()
		if err == nil {
			l.Joined.Go(func() {
				defer l.Slots.Free()
				serve(c)
			})
			continue
		}
		l.Slots.Free()
		select {
		case <-l.Stop:
			return nil
		default:
		}
		if !isTemporary(err) {
			return err
		}
		l.Logger.Warn("accept failed", zap.Error(err))
		select {
		case <-time.After(100 * time.Millisecond):
		case <-l.Stop:
			return nil
		}
	}
}

func isTemporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}
