package rpc

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// queuedMessages bounds the messages of a stream that wait for their answers,
// beside Options.Window, which bounds their mutations.
const queuedMessages = 64

var errUnknownService = errors.New("there is no such service")

// Write implements walproxyv1connect.WriteServiceHandler.
func (p procedures) Write(ctx context.Context, r *connect.Request[walproxyv1.WriteRequest]) (*connect.Response[walproxyv1.WriteResponse], error) {
	level, failed := level(r.Msg.GetAck())
	if failed != nil {
		return nil, failed.procedure()
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	pending, hasID, failed := p.submit(ctx, r.Msg)
	messagesOf(ctx).done() // the log has its own copy
	if failed == nil {
		var answer written
		if answer, failed = p.await(ctx, pending, level, hasID); failed == nil {
			return connect.NewResponse(answer.message()), nil
		}
	}
	return nil, p.fails(r.Spec().Procedure, failed)
}

// fails is failed as the end of a procedure; what is ours to mend is logged.
func (p procedures) fails(procedure string, failed *Error) error {
	p.note(procedure, failed)
	return failed.procedure()
}

func (p procedures) submit(ctx context.Context, r *walproxyv1.WriteRequest) (pending api.Pending, hasID bool, failed *Error) {
	var err error
	switch write := r.GetWrite().(type) {
	case *walproxyv1.WriteRequest_Mutation:
		return p.submitMutation(ctx, write.Mutation)
	case *walproxyv1.WriteRequest_Atomic_:
		group := &walproxyv1.Group{RequestId: write.Atomic.GetRequestId()}
		for _, m := range write.Atomic.GetMutations() {
			group.Members = append(group.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
		}
		hasID = group.RequestId != ""
		pending, err = p.core.Append(ctx, &walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: group}})
	default:
		return nil, false, invalid("write", "is missing: a mutation or atomic")
	}
	if err != nil {
		return nil, false, translate(err, refused)
	}
	return pending, hasID, nil
}

func (p procedures) submitMutation(ctx context.Context, m *walproxyv1.Mutation) (api.Pending, bool, *Error) {
	pending, err := p.core.Submit(ctx, m)
	if err != nil {
		return nil, false, translate(err, refused)
	}
	return pending, m.GetRequestId() != "", nil
}

// queued is a message of a stream on its way to its answer.
type queued struct {
	slots []slot
	level walproxy.Level
}

// intake takes the messages of a stream: their mutations get their places in the
// log in the order in which they came, and wait for their answers in a queue.
type intake struct {
	procedures
	body   *messageBody
	window *semaphore.Weighted // mutations
	queue  chan queued
	all    bool // nothing is taken behind a mutation that is refused
	// gone ends when nobody takes answers any more.
	gone context.Context
	stop context.CancelFunc
}

func (p procedures) newIntake(ctx context.Context) *intake {
	in := &intake{procedures: p, body: messagesOf(ctx), window: semaphore.NewWeighted(int64(p.options.Window)),
		queue: make(chan queued, queuedMessages)}
	in.gone, in.stop = context.WithCancel(context.WithoutCancel(ctx))
	return in
}

// message is what comes on a stream.
type message struct {
	mutations []*walproxyv1.Mutation
	ack       walproxyv1.Ack
	ordered   bool // nothing is taken behind a mutation that may be sent again
}

// run takes what receive returns until that, or answer, ends, and then waits for
// answer, which must take from the queue until it is closed.
func (in *intake) run(receive func() (message, error), answer func()) (err error) {
	defer in.stop()
	var answers sync.WaitGroup
	answers.Go(answer)
	for err == nil && in.gone.Err() == nil {
		var m message
		if m, err = receive(); err == nil {
			err = in.take(m)
			in.body.done()
		}
	}
	close(in.queue)
	answers.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// take submits a message's mutations.
func (in *intake) take(msg message) (end error) {
	mutations := msg.mutations
	level, failed := level(msg.ack)
	if n := len(mutations); failed == nil && n > in.options.Window {
		failed = invalid("mutations", "are %d; at most %d in a message", n, in.options.Window)
	}
	if failed != nil {
		return failed.procedure()
	}
	if err := in.window.Acquire(in.gone, int64(len(mutations))); err != nil {
		return nil // gone: run ends
	}
	q := queued{slots: make([]slot, len(mutations)), level: level}
	for i, m := range mutations {
		sl := slot{since: time.Now()}
		ctx, cancel := context.WithTimeout(in.gone, defaultTimeout)
		sl.pending, sl.hasID, sl.failed = in.submitMutation(ctx, m)
		cancel()
		q.slots[i] = sl
		if sl.failed != nil && (in.all || msg.ordered && sl.failed.Retryable) {
			q.slots, end = q.slots[:i+1], io.EOF
			in.window.Release(int64(len(mutations) - i - 1))
			break
		}
	}
	select {
	case in.queue <- q:
	case <-in.gone.Done():
	}
	return end
}

// settle waits for the answer to one mutation of the queue.
func (in *intake) settle(sl slot, level walproxy.Level) (answer written, failed *Error) {
	failed = sl.failed
	if failed == nil {
		ctx, cancel := context.WithDeadline(in.gone, sl.since.Add(defaultTimeout))
		answer, failed = in.await(ctx, sl.pending, level, sl.hasID)
		cancel()
	}
	code := "ok"
	if failed != nil {
		code = failed.Code
	}
	in.metrics.items.WithLabelValues(code).Inc()
	in.window.Release(1)
	return answer, failed
}

// WriteStream implements walproxyv1connect.WriteServiceHandler.
func (p procedures) WriteStream(ctx context.Context, stream *connect.BidiStream[walproxyv1.WriteStreamRequest, walproxyv1.WriteStreamResponse]) error {
	in := p.newIntake(ctx)
	return in.run(func() (message, error) {
		m, err := stream.Receive()
		return message{m.GetMutations(), m.GetAck(), m.GetOrdered()}, err
	}, func() {
		for q := range in.queue {
			if in.gone.Err() != nil {
				continue // nobody would see it
			}
			out := &walproxyv1.WriteStreamResponse{Outcomes: make([]*walproxyv1.WriteStreamResponse_Outcome, len(q.slots))}
			for i, sl := range q.slots {
				out.Outcomes[i] = outcome(in.settle(sl, q.level))
			}
			if stream.Send(out) != nil {
				in.stop()
				in.body.in.wake()
			}
		}
	})
}

func outcome(answer written, failed *Error) *walproxyv1.WriteStreamResponse_Outcome {
	if failed != nil {
		return &walproxyv1.WriteStreamResponse_Outcome{Kind: &walproxyv1.WriteStreamResponse_Outcome_Failure{Failure: failed.failure()}}
	}
	return &walproxyv1.WriteStreamResponse_Outcome{Kind: &walproxyv1.WriteStreamResponse_Outcome_Written{Written: answer.message()}}
}

// WriteAll implements walproxyv1connect.WriteServiceHandler.
func (p procedures) WriteAll(ctx context.Context, stream *connect.ClientStream[walproxyv1.WriteAllRequest]) (*connect.Response[walproxyv1.WriteAllResponse], error) {
	in := p.newIntake(ctx)
	in.all = true
	out := &walproxyv1.WriteAllResponse{State: walproxyv1.State_STATE_APPLIED}
	var failed *Error
	var ack *walproxyv1.Ack
	err := in.run(func() (message, error) {
		if !stream.Receive() {
			return message{}, cmp.Or(stream.Err(), io.EOF)
		}
		if ack == nil {
			ack = new(stream.Msg().GetAck())
		}
		return message{mutations: stream.Msg().GetMutations(), ack: *ack}, nil
	}, func() {
		for q := range in.queue {
			for _, sl := range q.slots {
				answer, not := in.settle(sl, q.level)
				if failed = cmp.Or(failed, not); failed != nil {
					continue
				}
				out.Count++
				out.Lsn = uint64(answer.LSN)
				if answer.state != walproxy.StateApplied {
					out.State = walproxyv1.State_STATE_LOGGED
				}
			}
		}
	})
	switch {
	case failed != nil:
		failed.Details = map[string]any{"written": out.Count}
		return nil, in.fails(stream.Spec().Procedure, failed)
	case err != nil:
		return nil, err
	case out.Count == 0:
		out.State = walproxyv1.State_STATE_UNSPECIFIED
	}
	return connect.NewResponse(out), nil
}
