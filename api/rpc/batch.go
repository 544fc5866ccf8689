package rpc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/internal/jsonform"
)

const (
	batchBufferIn  = 32 << 10
	batchBufferOut = 32 << 10
)

// postMutations takes an array or lines of mutations and answers each, in order,
// while it reads on: many of them share a fsync. At most Window of them are
// under way; a client that does not take its answers is not read any further.
func (s *Server) postMutations(w http.ResponseWriter, r *http.Request, _ target) *Error {
	b, failed := s.newBatch(w, r, s.limits.Load().MaxItemBytes)
	if failed != nil {
		return failed
	}
	b.accept = b.acceptMutation
	return b.serve(r)
}

// serve reads, accepts and answers all items.
func (b *batch) serve(r *http.Request) *Error {
	defer b.end()
	w := b.w
	first, err := b.items.next()
	if err != nil && !errors.Is(err, io.EOF) {
		return b.broken(err) // nothing was answered yet: a plain error
	}
	w.Header().Set("Content-Type", contentType(r))
	if !b.lines {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)

	var writer sync.WaitGroup
	writer.Go(b.answer)
	b.read(first, err)
	close(b.slots)
	writer.Wait()
	return nil
}

// batch is one POST /v1/mutations.
type batch struct {
	server *Server
	w      http.ResponseWriter
	conn   *http.ResponseController
	// ctx ends when answers cannot be written. It does not end with the request's
	// own: what was accepted gets its ack also while a stop ends the reading.
	ctx    context.Context
	cancel context.CancelFunc
	accept func(ctx context.Context, item []byte) (pending api.Pending, hasID bool, failed *Error)
	end    func() // once, behind everything else
	body   *patientReader
	items  itemReader
	lines  bool
	wait   wait
	slots  chan slot // from read to answer
	out    []byte    // answer's
	count  int       // answer's: items answered
	gone   bool      // answer's: the client takes nothing more
}

// slot is one item on its way to its answer.
type slot struct {
	pending api.Pending // nil: refused
	failed  *Error
	hasID   bool
	since   time.Time
}

// newBatch reserves what items of at most so many bytes take.
func (s *Server) newBatch(w http.ResponseWriter, r *http.Request, most int64) (*batch, *Error) {
	encoding, failed := checkContent(r, true)
	if failed != nil {
		return nil, failed
	}
	if r.Header.Get("Idempotency-Key") != "" {
		return nil, invalid("Idempotency-Key", "each mutation has its own: send request_id in it")
	}
	q := parseQuery(r, "ack", "timeout")
	b := &batch{
		server: s, w: w, conn: http.NewResponseController(w),
		lines: contentType(r) == contentLines,
		wait:  wait{q.level(), q.timeout()},
		slots: make(chan slot, s.options.Window),
	}
	if q.failed != nil {
		return nil, q.failed
	}
	bodyMax := s.limits.Load().MaxBodyBytes
	if r.ContentLength > bodyMax {
		w.Header().Set("Connection", "close")
		return nil, bodyError(&http.MaxBytesError{Limit: bodyMax})
	}
	need := most
	if encoding != "" {
		need += encodingBytes(encoding)
	} else if r.ContentLength >= 0 {
		need = min(need, r.ContentLength)
	}
	release, failed := s.reserve(r, need)
	if failed != nil {
		return nil, failed
	}
	_ = b.conn.EnableFullDuplex() // HTTP/2 needs no asking
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	b.body = s.patient(w, http.MaxBytesReader(w, r.Body, bodyMax))
	plain, done := decoded(b.body, encoding)
	if encoding != "" {
		plain = &boundedReader{plain, bodyMax, bodyMax}
	}
	b.end = func() { done(); b.body.end(); b.cancel(); release() }
	b.items = itemReader{in: bufio.NewReaderSize(plain, batchBufferIn), most: int(most), lines: b.lines}
	return b, nil
}

// broken says why the rest of the body is not read.
func (b *batch) broken(err error) *Error {
	var syntax *syntaxError
	switch {
	case errors.As(err, &syntax):
		return &Error{Status: http.StatusBadRequest, Code: codeInvalid, Message: "body: " + syntax.reason}
	case errors.Is(err, errItemTooLarge):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: err.Error(),
			Details: map[string]any{"max_bytes": b.items.most}}
	}
	return bodyError(err)
}

// read submits items until the body ends or breaks. item and err are what next
// returned for the first.
func (b *batch) read(item []byte, err error) {
	for ; err == nil; item, err = b.items.next() {
		b.push(b.submit(item))
		if b.ctx.Err() != nil {
			return
		}
	}
	if !errors.Is(err, io.EOF) {
		b.push(slot{failed: b.broken(err)})
	}
}

func (b *batch) push(sl slot) {
	select {
	case b.slots <- sl:
	case <-b.ctx.Done(): // answer has ended its work
	}
}

func (b *batch) submit(item []byte) slot {
	sl := slot{since: time.Now()}
	ctx, cancel := context.WithTimeout(b.ctx, b.wait.timeout)
	defer cancel()
	sl.pending, sl.hasID, sl.failed = b.accept(ctx, item)
	return sl
}

func (b *batch) acceptMutation(ctx context.Context, item []byte) (api.Pending, bool, *Error) {
	m, err := jsonform.DecodeMutation(item)
	if err != nil {
		return nil, false, translate(err, refused)
	}
	pending, err := b.server.core.Submit(ctx, m)
	if err != nil {
		return nil, false, translate(err, refused)
	}
	return pending, m.GetRequestId() != "", nil
}

// answer writes one answer per slot, in order, until read closes the channel.
// After the client has gone it goes on taking slots, so that read never hangs.
func (b *batch) answer() {
	if !b.lines {
		b.out = append(b.out, '[')
	}
	for sl := range b.slots {
		if b.gone {
			continue
		}
		if sl.pending != nil && !b.settled(sl.pending) {
			b.flush() // the client gets what is known while we wait
		}
		b.one(sl)
		if len(b.out) >= batchBufferOut || len(b.slots) == 0 {
			b.flush()
		}
	}
	if !b.lines {
		b.out = append(b.out, ']', '\n')
	}
	b.flush()
}

// settled reports whether the answer is there without waiting.
func (b *batch) settled(p api.Pending) bool {
	select {
	case <-p.Done():
	default:
		return false
	}
	if b.wait.level == walproxy.Logged {
		return true
	}
	ws, err := b.server.core.WriteState(p.LSN())
	return err == nil && ws.State == walproxy.StateApplied
}

// one appends the answer to one item.
func (b *batch) one(sl slot) {
	if b.count > 0 && !b.lines {
		b.out = append(b.out, ",\n"...)
	}
	b.out = strconv.AppendInt(append(b.out, `{"index":`...), int64(b.count), 10)
	b.count++
	var answer written
	failed := sl.failed
	if failed == nil {
		ctx, cancel := context.WithDeadline(b.ctx, sl.since.Add(b.wait.timeout))
		answer, failed = b.server.await(ctx, sl.pending, b.wait.level, sl.hasID)
		cancel()
	}
	code := "ok"
	if failed != nil {
		code = failed.Code
		b.out = append(append(b.out, `,"error":`...), marshal(failed)...)
	} else {
		b.out = answer.appendMembers(append(b.out, ','))
	}
	b.server.metrics.items.WithLabelValues(code).Inc()
	b.out = append(b.out, '}')
	if b.lines {
		b.out = append(b.out, '\n')
	}
}

// flush sends what there is. A client that does not take it is given up.
func (b *batch) flush() {
	if b.gone || len(b.out) == 0 {
		return
	}
	_ = b.conn.SetWriteDeadline(time.Now().Add(b.server.options.BodyTimeout))
	_, err := b.w.Write(b.out)
	if err == nil {
		err = b.conn.Flush()
	}
	b.out = b.out[:0]
	if err != nil {
		b.gone = true
		b.cancel()
		b.body.wake() // nobody would see the answers to what comes
	}
}
