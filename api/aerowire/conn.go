package aerowire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// conn is one client's connection, served by one goroutine: requests are done in
// their order. What has come while a write is on its way to the disk is done as
// well before anybody waits for that, so pipelined writes share fsyncs.
type conn struct {
	s   *Server
	net net.Conn
	in  *bufio.Reader
	out []byte // answers that are not sent yet

	waiting []*answer // in order; none is in out yet
	held    int       // bytes of waiting, about
	idle    atomic.Bool
}

// window is how many answers may wait for the disk on one connection, and
// windowBytes how much they may hold.
const (
	window      = 256
	windowBytes = 1 << 20
)

// bufferBytes of input; larger messages are read around it.
const bufferBytes = 16 << 10

func newConn(s *Server, c net.Conn) *conn {
	c = counted{c, s.metrics}
	return &conn{s: s, net: c, in: bufio.NewReaderSize(c, bufferBytes)}
}

// serve returns when the connection has ended, or is to end.
func (c *conn) serve(ctx context.Context) {
	err := c.loop(ctx)
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
	default:
		c.s.log.Debug("connection ended", zap.Stringer("client", c.net.RemoteAddr()), zap.Error(err))
	}
}

func (c *conn) loop(ctx context.Context) error {
	for {
		proto, err := c.head()
		if err != nil {
			return err
		}
		body, free, err := c.body(ctx, proto)
		if err != nil {
			return err
		}
		if err := c.request(ctx, proto.Type, body, free); err != nil {
			return err
		}
		if !c.more() {
			if err := c.settle(ctx); err != nil {
				return err
			}
		}
		if c.s.stopping.Load() {
			return c.settle(ctx)
		}
	}
}

// request does one message and gives back, whatever happens, what its body took.
func (c *conn) request(ctx context.Context, kind byte, body []byte, free func()) error {
	defer free()
	return c.handle(ctx, kind, body)
}

// head waits for the next message.
func (c *conn) head() (codec.Proto, error) {
	c.idle.Store(true)
	defer c.idle.Store(false)
	if err := c.net.SetReadDeadline(time.Now().Add(c.s.o.IdleTimeout)); err != nil {
		return codec.Proto{}, err
	}
	if c.s.stopping.Load() { // after the deadline is set: Close sets its own first
		return codec.Proto{}, net.ErrClosed
	}
	var b [codec.ProtoBytes]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return codec.Proto{}, err
	}
	return codec.ParseProto(b[:], c.s.o.MaxRequestBytes)
}

// body reads a message whose size is within bounds. Memory is taken as it comes,
// not as it was announced.
func (c *conn) body(ctx context.Context, proto codec.Proto) (body []byte, free func(), err error) {
	if err := c.net.SetReadDeadline(time.Now().Add(c.s.o.RequestTimeout)); err != nil {
		return nil, nil, err
	}
	size := int64(proto.Size)
	wait, cancel := context.WithTimeout(ctx, c.s.o.RequestTimeout)
	defer cancel()
	if err := c.s.inFlight.Acquire(wait, size); err != nil {
		return nil, nil, err
	}
	free = func() { c.s.inFlight.Release(size) }
	if proto.Size <= bufferBytes {
		body = make([]byte, proto.Size)
		_, err = io.ReadFull(c.in, body)
	} else {
		var b bytes.Buffer
		_, err = io.CopyN(&b, c.in, size)
		body = b.Bytes()
	}
	if err != nil {
		free()
		return nil, nil, err
	}
	return body, free, nil
}

// more reports whether the next message is here already and may be done first.
func (c *conn) more() bool {
	if len(c.waiting) >= window || c.held >= windowBytes || c.in.Buffered() < codec.ProtoBytes {
		return false
	}
	b, err := c.in.Peek(codec.ProtoBytes)
	if err != nil {
		return false
	}
	proto, err := codec.ParseProto(b, c.s.o.MaxRequestBytes)
	return err == nil && c.in.Buffered() >= codec.ProtoBytes+proto.Size
}

// settle waits for all answers and sends them. The outcome of a write that is not
// known is not answered: the connection ends.
func (c *conn) settle(ctx context.Context) error {
	for i, a := range c.waiting {
		if err := a.wait(ctx); err != nil {
			c.count(c.waiting[:i], c.send()) // of what came before it
			c.count(c.waiting[i:], err)
			return err
		}
		c.out = a.append(c.out)
	}
	err := c.send()
	c.count(c.waiting, err)
	clear(c.waiting)
	c.waiting, c.held = c.waiting[:0], 0
	return err
}

// count counts answers that were sent, unless there is an error.
func (c *conn) count(answers []*answer, err error) {
	for _, a := range answers {
		_ = c.sent(a.kind, a.Result, a.began, err)
	}
}

// sent counts a message, which has no answer if there is an error: that is returned.
func (c *conn) sent(k kind, result codec.Result, began time.Time, err error) error {
	if err != nil {
		result = unanswered
	}
	c.s.metrics.done(k, result, began)
	return err
}

func (c *conn) send() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.write(c.out)
	if cap(c.out) > streamBytes {
		c.out = nil
	}
	c.out = c.out[:0]
	return err
}

func (c *conn) write(b []byte) error {
	if err := c.net.SetWriteDeadline(time.Now().Add(c.s.o.RequestTimeout)); err != nil {
		return err
	}
	_, err := c.net.Write(b)
	return err
}

// handle does one message.
func (c *conn) handle(ctx context.Context, kind byte, body []byte) error {
	if kind == codec.TypeCompressed {
		var err error
		if kind, body, err = codec.Inflate(body, c.s.o.MaxRequestBytes); err != nil {
			return err
		}
	}
	switch kind {
	case codec.TypeMessage:
		return c.message(ctx, body)
	case codec.TypeInfo:
		return c.info(ctx, body)
	case codec.TypeSecurity:
		// Answered as a server without security does: result in the second byte.
		began := time.Now()
		c.s.metrics.login.Inc()
		if err := c.settle(ctx); err != nil {
			return c.sent(kindLogin, unanswered, began, err)
		}
		c.out = codec.AppendProto(c.out, codec.TypeSecurity, 16)
		c.out = append(c.out, 0, byte(codec.SecurityNone))
		c.out = append(c.out, make([]byte, 14)...)
		return c.sent(kindLogin, codec.SecurityNone, began, c.send())
	}
	return codec.ErrMalformed
}

func (c *conn) message(ctx context.Context, body []byte) error {
	began := time.Now()
	m, err := codec.ParseMessage(body)
	if err != nil {
		return err
	}
	field, batch := m.Field(codec.FieldBatch)
	if !batch {
		field, batch = m.Field(codec.FieldBatchWithSet)
	}
	_, digest := m.Field(codec.FieldDigest)
	_, key := m.Field(codec.FieldKey)
	if batch || !digest && !key {
		k := kindQuery
		if batch {
			k = kindBatch
		}
		if err := c.settle(ctx); err != nil {
			return c.sent(k, unanswered, began, err)
		}
		out := newStream(ctx, c.write)
		if batch {
			err = c.s.batch(ctx, m, field, out)
		} else {
			err = c.s.scan(ctx, m, c.net.RemoteAddr().String(), out)
		}
		return c.sent(k, out.result, began, err)
	}
	a := c.single(ctx, m)
	a.kind, a.began = kindOf(m), began
	c.waiting = append(c.waiting, a)
	c.held += len(body) // which the names of its bins lie in
	for i := range a.ops {
		c.held += len(a.ops[i].Value)
	}
	return nil
}

func (c *conn) single(ctx context.Context, m *codec.Message) *answer {
	o, err := c.s.operation(m, nil)
	if err != nil {
		return failed(resultOf(err))
	}
	if m.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(m.Timeout)*time.Millisecond)
		defer cancel()
	}
	return c.s.one(ctx, o)
}
