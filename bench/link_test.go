package bench

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// farAway is an address behind which target is, with a round trip that takes so
// much longer; every connection may have any number of packets under way.
func farAway(b *testing.B, target string, roundTrip time.Duration) (addr string) {
	b.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp4", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
			running.Go(func() {
				defer stop()
				var both sync.WaitGroup
				both.Go(func() { carry(near, far, roundTrip/2) })
				both.Go(func() { carry(far, near, roundTrip/2) })
				both.Wait()
			})
		}
	})
	b.Cleanup(func() {
		cancel()
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

// packet is what was read at once, and is written at a time.
type packet struct {
	bytes []byte
	at    time.Time
}

// carry moves what comes from one side to the other, each packet so much later, and
// closes both when one of them ends.
func carry(from, to net.Conn, delay time.Duration) {
	packets := make(chan packet, 256)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range packets {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.bytes); err != nil {
				_ = from.Close() // the reader ends, whose packets go nowhere
			}
		}
	})
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			packets <- packet{buf[:n], time.Now().Add(delay)}
		}
		if err != nil {
			break
		}
	}
	close(packets)
	writer.Wait()
	_, _ = from.Close(), to.Close()
}
