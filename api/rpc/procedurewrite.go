package rpc

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

const (
	// refusedBytes is about what the answer to a mutation that is refused takes.
	refusedBytes = 256
	// messageBytes is what a message takes beside its mutations.
	messageBytes = 64
)

var errUnknownService = errors.New("there is no such service")

// Write implements walproxyv1connect.WriteServiceHandler.
func (p procedures) Write(ctx context.Context, r *connect.Request[walproxyv1.WriteRequest]) (*connect.Response[walproxyv1.WriteResponse], error) {
	level, failed := level(r.Msg.GetAck())
	if failed != nil {
		return nil, failed.procedure()
	}
	call := ctx // ends with its client
	ctx, cancel := bounded(ctx)
	defer cancel()
	pending, hasID, failed := p.submit(ctx, r.Msg)
	messagesOf(ctx).done() // the log has its own copy
	if failed == nil {
		var answer written
		if answer, failed = p.await(ctx, call, pending, level, hasID); failed == nil {
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

// submitted is a mutation of a stream on its way to its answer.
type submitted struct {
	pending api.Pending // nil: refused
	failed  *Error
	hasID   bool
	since   time.Time
}

// queued is a message of a stream on its way to its answer.
type queued struct {
	sent  []submitted
	level walproxy.Level
	room  int64
}

// outcome of a mutation.
type outcome struct {
	written
	failed *Error
}

// answered is a message with its answers, which the client has yet to take.
type answered struct {
	outcomes []outcome
	room     int64
}

// intake takes the messages of a stream: their mutations get their places in the
// log in the order in which they came, and wait for their answers in a queue.
type intake struct {
	procedures
	body *messageBody
	// room for answers, from a mutation's submission until the client has its answer. No
	// message is read without.
	room    *room
	narrow  func()
	queue   queue[queued]
	answers queue[answered]
	all     bool // nothing is taken behind a mutation that is refused
	// gone ends when nobody takes answers any more.
	gone context.Context
	stop context.CancelFunc
}

func (p procedures) newIntake(ctx context.Context) *intake {
	in := &intake{procedures: p, body: messagesOf(ctx)}
	in.room, in.narrow = p.streamRoom()
	in.queue.init()
	in.answers.init()
	in.gone, in.stop = context.WithCancel(context.WithoutCancel(ctx))
	return in
}

// message is what comes on a stream.
type message struct {
	mutations []*walproxyv1.Mutation
	ack       walproxyv1.Ack
	ordered   bool // nothing is taken behind a mutation that may be sent again
}

// run takes what receive returns until that ends or nobody takes answers any more, has
// each message answered, and waits for that. An error of answer is that of a client
// that takes none.
func (in *intake) run(receive func() (message, error), answer func([]outcome) error) (err error) {
	defer in.narrow()
	defer in.stop()
	var others sync.WaitGroup
	others.Go(in.settleAll)
	others.Go(func() { in.answerAll(answer) })
	for err == nil && in.room.wait(in.gone) {
		var m message
		if m, err = receive(); err == nil {
			err = in.take(m)
			in.body.done()
		}
	}
	in.queue.close()
	others.Wait()
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
	q := queued{sent: sentPool.take(len(mutations)), level: level, room: messageBytes}
	var bound patience
	defer bound.end()
	for i, m := range mutations {
		sl := submitted{since: time.Now()}
		sl.pending, sl.hasID, sl.failed = in.submitMutation(bound.from(in.gone, sl.since, defaultTimeout), m)
		q.sent[i] = sl
		q.room += answerBytes
		if sl.failed == nil {
			continue
		}
		q.room += refusedBytes
		if in.all || msg.ordered && sl.failed.Retryable {
			q.sent, end = q.sent[:i+1], io.EOF
			break
		}
	}
	in.room.take(q.room)
	in.queue.put(q)
	return end
}

// settleAll waits for the outcomes of what was taken: they are smaller than what waits
// for them, and than the messages to send.
func (in *intake) settleAll() {
	defer in.answers.close()
	for messages := range in.queue.all() {
		for i := range messages {
			if in.gone.Err() != nil {
				break // nobody would see it
			}
			q := &messages[i]
			a := answered{outcomes: outcomePool.take(len(q.sent)), room: q.room}
			for j := range q.sent {
				a.outcomes[j].written, a.outcomes[j].failed = in.settle(&q.sent[j], q.level)
			}
			sentPool.give(q.sent)
			q.sent = nil
			in.answers.put(a)
		}
	}
}

func (in *intake) answerAll(answer func([]outcome) error) {
	for answers := range in.answers.all() {
		for i := range answers {
			if in.gone.Err() != nil {
				break
			}
			if answer(answers[i].outcomes) != nil {
				in.stop()
				in.body.in.wake()
			}
			in.room.give(answers[i].room)
			outcomePool.give(answers[i].outcomes)
			answers[i].outcomes = nil
		}
	}
}

// settle waits for the answer to one mutation of the queue.
func (in *intake) settle(sl *submitted, level walproxy.Level) (answer written, failed *Error) {
	failed = sl.failed
	if failed == nil {
		answer, failed = in.awaitUntil(in.gone, sl.since.Add(defaultTimeout), sl.pending, level, sl.hasID)
	}
	code := codeOK
	if failed != nil {
		code = failed.Code
	}
	in.metrics.item(code)
	return answer, failed
}

// WriteStream implements walproxyv1connect.WriteServiceHandler.
func (p procedures) WriteStream(ctx context.Context, stream *connect.BidiStream[walproxyv1.WriteStreamRequest, walproxyv1.WriteStreamResponse]) error {
	in := p.newIntake(ctx)
	return in.run(func() (message, error) {
		m, err := stream.Receive()
		return message{m.GetMutations(), m.GetAck(), m.GetOrdered()}, err
	}, func(outcomes []outcome) error {
		out := outMessages.Get().(*outMessage)
		defer outMessages.Put(out)
		return stream.Send(out.of(outcomes))
	})
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
	}, func(outcomes []outcome) error {
		for i := range outcomes {
			o := &outcomes[i]
			if failed = cmp.Or(failed, o.failed); failed != nil {
				continue
			}
			out.Count++
			out.Lsn = uint64(o.LSN)
			if o.state != walproxy.StateApplied {
				out.State = walproxyv1.State_STATE_LOGGED
			}
		}
		return nil
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
