package pgwire

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// keyBytesMax of a cancel key: the process number and a secret, which protocol
// 3.2 made longer.
const keyBytesMax = 4 + 256

// cancelTimeout bounds what one cancel request may take.
const cancelTimeout = 10 * time.Second

// keys finds sessions by the cancel keys that their clients know: PostgreSQL's
// own, for a client may compare the process number.
type keys struct {
	mu sync.Mutex
	by map[uint32][]*session // by process number: several servers may have one in common
}

func (k *keys) add(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pid := binary.BigEndian.Uint32(s.key)
	k.by[pid] = append(k.by[pid], s)
}

func (k *keys) remove(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pid := binary.BigEndian.Uint32(s.key)
	rest := k.by[pid][:0]
	for _, other := range k.by[pid] {
		if other != s {
			rest = append(rest, other)
		}
	}
	if k.by[pid] = rest; len(rest) == 0 {
		delete(k.by, pid)
	}
}

func (k *keys) find(key []byte) *session {
	if len(key) < 8 || len(key) > keyBytesMax {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.by[binary.BigEndian.Uint32(key)] {
		if subtle.ConstantTimeCompare(s.key, key) == 1 {
			return s
		}
	}
	return nil
}

// cancel passes a cancel request on. As PostgreSQL does it tells the client
// nothing but that it is done, by closing the connection.
func (s *Server) cancel(ctx context.Context, key []byte) error {
	found := s.keys.find(key)
	if found == nil {
		s.metrics.cancels.WithLabelValues("unknown").Inc()
		return nil
	}
	if end := found.waiting.Load(); end != nil { // for the endpoint, not for PostgreSQL
		(*end)(errCancelled)
		s.metrics.cancels.WithLabelValues("answered").Inc()
		return nil
	}
	address := found.address
	if l := found.link.Load(); l != nil {
		var arrived func()
		if address, key, arrived = l.target(); arrived == nil {
			s.metrics.cancels.WithLabelValues("passed").Inc() // to nobody: nothing is under way
			return nil
		}
		defer arrived()
	}
	ctx, stop := context.WithTimeout(ctx, cancelTimeout)
	defer stop()
	if err := s.passCancel(ctx, address, key); err != nil {
		s.metrics.cancels.WithLabelValues("failed").Inc()
		return fmt.Errorf("cancel request to %s: %w", address, err)
	}
	s.metrics.cancels.WithLabelValues("passed").Inc()
	return nil
}

// passCancel returns once PostgreSQL has closed the connection: it has sent the
// signal then.
func (s *Server) passCancel(ctx context.Context, a Address, key []byte) error {
	c, err := s.dialOne(ctx, a)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it said all it has to
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	packet := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
	packet = binary.BigEndian.AppendUint32(packet, codeCancel)
	if _, err := c.Write(append(packet, key...)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil && !endedByPostgres(err) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
