package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

const (
	// messageMost is how many mutations the proxy takes in one message.
	messageMost = 1024
	// defaultMessageBytes is half of the proxy's own bound, api.max_item_bytes.
	defaultMessageBytes = 512 << 10
	defaultInFlight     = 8192
	// answerGrace is how much longer than Options.Timeout a stream waits for an answer.
	answerGrace = 5 * time.Second
)

// StreamOptions of Client.Stream. Zero values are the defaults.
type StreamOptions struct {
	// InFlight is how many mutations may wait for their answers: Send blocks beyond. 8192
	InFlight int
	// MessageBytes bounds a message unless it holds one mutation; it must be less than
	// the proxy's api.max_item_bytes. 512 KiB
	MessageBytes int
}

// Outcome of one mutation of a stream: an error, or its result.
type Outcome struct {
	Result
	Err error
}

// Pending are mutations of one Send on their way.
type Pending struct {
	mutations []*walproxyv1.Mutation
	sizes     []int
	outcomes  []Outcome // as many as are known
	// doubtful: so many of mutations were sent on a connection that broke.
	doubtful int
	done     chan struct{}
}

// Done is closed when all outcomes are known.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait returns the outcomes in the order of the mutations. It returns an error if ctx
// ends first, and then nothing is known; the mutations stay on their way.
func (p *Pending) Wait(ctx context.Context) ([]Outcome, error) {
	select {
	case <-p.done:
		return p.outcomes, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Stream writes in order over one connection, and takes the answers meanwhile: many
// writes share a message and an fsync. When the connection breaks, or the proxy refuses a
// write for now, it begins again with the first write that has no answer, under the same
// request ids: every write is done once, and no write overtakes one that was sent before
// it. Its methods may be called concurrently.
type Stream struct {
	c       *Client
	options StreamOptions
	ctx     context.Context
	cancel  context.CancelCauseFunc
	ended   chan struct{} // closed when run has returned
	mu      sync.Mutex
	work    sync.Cond // of mu: there is something to send, or closing has changed
	room    sync.Cond // of mu: mutations have their outcomes, or closing or err has changed
	// queue is in the order of Send: what has no outcome yet. Of the first ones, next
	// mutations are sent on the present connection.
	queue    []*Pending
	next     place
	messages []int     // mutations of each message that waits for its answer
	since    time.Time // when the first of them began to wait
	inFlight int
	alone    bool // messages of one mutation: a larger one was refused
	closing  bool
	err      error // why nothing is taken any more
}

// place is the next mutation to send: of the queue's entry, and within it.
type place struct{ entry, mutation int }

// Stream begins a stream. Close it.
func (c *Client) Stream(o StreamOptions) *Stream {
	if o.InFlight <= 0 {
		o.InFlight = defaultInFlight
	}
	if o.MessageBytes <= 0 {
		o.MessageBytes = defaultMessageBytes
	}
	s := &Stream{c: c, options: o, ended: make(chan struct{})}
	s.work.L, s.room.L = &s.mu, &s.mu
	s.ctx, s.cancel = context.WithCancelCause(c.done)
	go s.run()
	return s
}

// Send puts mutations on their way, in their order, and returns before they have
// arrived. It waits while InFlight mutations have no answer. The stream owns the
// mutations until their outcome is known, and gives request ids to those without.
//
// An error says that nothing was sent: ctx ended, the stream is closed or has failed.
func (s *Stream) Send(ctx context.Context, ms ...*walproxyv1.Mutation) (*Pending, error) {
	p := &Pending{mutations: ms, sizes: make([]int, len(ms)), outcomes: make([]Outcome, 0, len(ms)), done: make(chan struct{})}
	if len(ms) == 0 {
		close(p.done)
		return p, nil
	}
	s.c.identify(ms)
	for i, m := range ms {
		p.sizes[i] = proto.Size(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crowded(len(ms)) {
		defer context.AfterFunc(ctx, s.wake)()
	}
	for s.err == nil && !s.closing && ctx.Err() == nil && s.crowded(len(ms)) {
		s.room.Wait()
	}
	switch {
	case s.err != nil:
		return nil, s.err
	case s.closing:
		return nil, ErrClosed
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	s.queue = append(s.queue, p)
	s.inFlight += len(ms)
	s.work.Signal() // one goroutine waits for it
	return p, nil
}

// crowded reports whether n more have to wait. One Send always fits, however large. s.mu is
// held.
func (s *Stream) crowded(n int) bool { return s.inFlight > 0 && s.inFlight+n > s.options.InFlight }

func (s *Stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
}

// wakeAll is wake under s.mu.
func (s *Stream) wakeAll() {
	s.work.Broadcast()
	s.room.Broadcast()
}

// Flush waits until everything that was sent before has an outcome. It returns an error if
// ctx ends first or the stream has failed, not for what the outcomes are.
func (s *Stream) Flush(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.wake)()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return s.err
	}
	last := s.queue[len(s.queue)-1]
	for {
		select {
		case <-last.done:
			return s.err
		default:
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.room.Wait()
	}
}

// Close takes nothing more, waits until everything that was sent has an outcome, or ctx
// ends, and ends the stream: what has no outcome then has an unknown one. It returns
// why writes have none. It may be called twice.
func (s *Stream) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.wakeAll()
	s.mu.Unlock()
	select {
	case <-s.ended:
	case <-ctx.Done():
		s.cancel(context.Cause(ctx))
		<-s.ended
	}
	s.cancel(ErrClosed)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// run serves the stream, on one connection after the other.
func (s *Stream) run() {
	defer close(s.ended)
	defer s.cancel(ErrClosed)
	defer context.AfterFunc(s.ctx, s.wake)()
	var until time.Time
	pause := firstPause
	for s.idle() {
		progressed, err := s.serve()
		if err == nil {
			continue // the proxy has ended it in order, or we have
		}
		failed := errorOf(err, true)
		if progressed || until.IsZero() {
			pause, until = firstPause, time.Now().Add(s.c.options.RetryFor)
		}
		if s.ctx.Err() == nil && !failed.Retryable && s.isolate(failed) {
			continue
		}
		if !failed.Retryable || s.ctx.Err() != nil || !s.c.wait(s.ctx, failed.pause(pause), until) {
			s.fail(failed)
			return
		}
		pause = min(2*pause, maxPause)
	}
	if s.ctx.Err() != nil {
		s.fail(&Error{Code: codeUnknown, Message: context.Cause(s.ctx).Error(), Err: context.Cause(s.ctx)})
	}
}

// idle waits until there is something to send, and reports whether there is: false when
// the stream is closed and everything has its outcome.
func (s *Stream) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.ctx.Err() == nil && len(s.queue) == 0 && !s.closing {
		s.work.Wait()
	}
	return s.ctx.Err() == nil && len(s.queue) > 0
}

// isolate deals with a message that the proxy does not take: of several mutations each is
// tried alone, and one that is alone is refused. It reports whether the stream goes on.
func (s *Stream) isolate(failed *Error) bool {
	if failed.Code != "too_large" && failed.Code != "invalid" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return false
	}
	if s.alone {
		s.settle(Outcome{Err: failed})
		s.room.Broadcast()
	}
	s.alone = true
	return true
}

// fail ends the stream: what was sent has an unknown outcome, what was not is refused.
func (s *Stream) fail(failed *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = failed
	for len(s.queue) > 0 {
		p, e := s.queue[0], *failed
		if len(p.outcomes) < p.doubtful {
			e.Code = codeUnknown
		} else if e.Code == codeUnknown {
			e.Code = codeCanceled // nothing of it was done
		}
		e.RequestID = p.mutations[len(p.outcomes)].GetRequestId()
		s.settle(Outcome{Err: &e})
	}
	s.wakeAll()
}

// settle gives the first mutation of the queue its outcome; the caller tells who waits for
// room. s.mu is held.
func (s *Stream) settle(o Outcome) {
	p := s.queue[0]
	p.outcomes = append(p.outcomes, o)
	s.inFlight--
	if len(p.outcomes) == len(p.mutations) {
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.next.entry--
		close(p.done)
	}
}

// take makes out the next message; false: there will be none on this connection.
func (s *Stream) take(ctx context.Context, out *walproxyv1.WriteStreamRequest) bool {
	clear(out.Mutations)
	out.Mutations = out.Mutations[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil && s.next.entry == len(s.queue) && !s.closing {
		s.work.Wait()
	}
	if ctx.Err() != nil || s.next.entry == len(s.queue) {
		return false
	}
	most, bytes := messageMost, 0
	if s.alone {
		most = 1
	}
	for s.next.entry < len(s.queue) && len(out.Mutations) < most {
		p := s.queue[s.next.entry]
		if bytes += p.sizes[s.next.mutation]; bytes > s.options.MessageBytes && len(out.Mutations) > 0 {
			break
		}
		out.Mutations = append(out.Mutations, p.mutations[s.next.mutation])
		s.next.mutation++
		if s.next.mutation == len(p.mutations) {
			s.next = place{s.next.entry + 1, 0}
		}
	}
	if len(s.messages) == 0 {
		s.since = time.Now()
	}
	s.messages = append(s.messages, len(out.Mutations))
	return true
}

var errStalled = errors.New("client: no answer in time")

// serve is one connection. err is nil if it ended in order, with nothing left.
func (s *Stream) serve() (progressed bool, err error) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer context.AfterFunc(ctx, s.wake)()
	s.begin()
	wire := s.c.writes.WriteStream(ctx)
	var sender sync.WaitGroup
	sender.Go(func() {
		m := &walproxyv1.WriteStreamRequest{Ack: s.c.ack, Ordered: true}
		for s.take(ctx, m) {
			if wire.Send(m) != nil {
				return // Receive says why
			}
		}
		_ = wire.CloseRequest() // likewise
	})
	stalled := s.watch(ctx, cancel)
	defer func() {
		stalled.Stop()
		cancel(nil)
		sender.Wait()
		_ = wire.CloseResponse() // it was read, or is given up
	}()
	for {
		out, err := wire.Receive()
		if errors.Is(err, io.EOF) && s.done() {
			return progressed, nil
		}
		if err != nil {
			if code := errorOf(err, true).Code; code != codeUnreachable && code != codeUntrusted && code != codeDenied {
				s.doubt()
			}
			if cause := context.Cause(ctx); cause != nil {
				err = &Error{Code: codeUnknown, Message: cause.Error(), Retryable: errors.Is(cause, errStalled), Err: cause}
			}
			return progressed, err
		}
		n, refused := s.answered(out.GetOutcomes())
		progressed = progressed || n > 0
		if refused != nil {
			if refused.Code == codeUnknown {
				s.doubt()
			}
			return progressed, refused
		}
	}
}

// begin starts with the first mutation that has no outcome.
func (s *Stream) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.messages = place{}, nil
	if len(s.queue) > 0 {
		s.next.mutation = len(s.queue[0].outcomes)
	}
}

// done reports whether nothing is left to send or to be answered.
func (s *Stream) done() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) == 0
}

// doubt notes that whatever was sent on this connection may be done.
func (s *Stream) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range min(s.next.entry+1, len(s.queue)) {
		p, n := s.queue[i], s.next.mutation
		if i < s.next.entry {
			n = len(p.mutations)
		}
		p.doubtful = max(p.doubtful, n)
	}
}

// watch gives the connection up when what was sent gets no answer in time.
func (s *Stream) watch(ctx context.Context, cancel context.CancelCauseFunc) *time.Timer {
	limit := s.c.options.Timeout + answerGrace
	var timer *time.Timer
	var armed sync.Mutex // until timer is set
	armed.Lock()
	defer armed.Unlock()
	timer = time.AfterFunc(limit, func() {
		armed.Lock()
		defer armed.Unlock()
		s.mu.Lock()
		left := limit
		if len(s.messages) > 0 {
			left -= time.Since(s.since)
		}
		s.mu.Unlock()
		if left <= 0 {
			cancel(errStalled)
		} else if ctx.Err() == nil {
			timer.Reset(left)
		}
	})
	return timer
}

// answered takes the answer to a message. n mutations have their outcome; refused is what
// the next one is to be sent again for.
func (s *Stream) answered(outcomes []*walproxyv1.WriteStreamResponse_Outcome) (n int, refused *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) == 0 || len(outcomes) > s.messages[0] {
		return 0, &Error{Code: codeOther, Message: "the answers do not fit what was sent"}
	}
	defer s.room.Broadcast() // once for the message
	sent := s.messages[0]
	s.messages, s.since, s.alone = s.messages[1:], time.Now(), false
	for _, o := range outcomes {
		switch kind := o.GetKind().(type) {
		case *walproxyv1.WriteStreamResponse_Outcome_Written:
			s.settle(Outcome{Result: resultOf(kind.Written)})
		case *walproxyv1.WriteStreamResponse_Outcome_Failure:
			failed := errorFrom(kind.Failure)
			p := s.queue[0]
			failed.RequestID = p.mutations[len(p.outcomes)].GetRequestId()
			if failed.Retryable {
				return n, failed
			}
			s.settle(Outcome{Err: failed})
		default:
			return n, &Error{Code: codeOther, Message: "an answer says neither that it is written nor why not"}
		}
		n++
	}
	if n < sent {
		return n, &Error{Code: codeOther, Message: "the answers do not fit what was sent"}
	}
	return n, nil
}
