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
	batchBufferIn = 16 << 10
	// batchFlush so many bytes of answers are on their way while more are made.
	batchFlush = 32 << 10
)

// postMutations takes an array or lines of mutations and answers each, in order,
// while it reads on: many of them share a fsync. At most Window of them are
// under way; a client that does not take its answers is not read any further, and
// of what it sent only the answers are kept.
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

	var others sync.WaitGroup
	others.Go(b.answer)
	others.Go(b.write)
	b.read(first, err)
	b.bound.end()
	b.slots.close()
	others.Wait()
	return nil
}

// batch is one POST /v1/mutations. Three goroutines have a part in it: read submits
// items, answer turns what became of them into text, write hands that to the client.
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
	bound  patience    // read's
	room   *room       // for answers, from an item's submission until the client has its answer
	slots  queue[slot] // from read to answer
	texts  queue[text] // from answer to write
	out    text        // answer's
	count  int         // answer's: items answered
}

// slot is one item on its way to its answer.
type slot struct {
	pending api.Pending // nil: refused
	refused []byte      // why, as JSON: an Error is several times as large
	code    string      // of refused
	hasID   bool
	since   time.Time
}

// text is a part of the answer, and the room that it takes.
type text struct {
	bytes []byte
	room  int64
}

// newBatch is a batch of items of at most so many bytes. It holds nothing of what all
// requests may hold but a decoder, and while an item is large.
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
	}
	b.slots.init()
	b.texts.init()
	if q.failed != nil {
		return nil, q.failed
	}
	bodyMax := s.limits.Load().MaxBodyBytes
	if r.ContentLength > bodyMax {
		w.Header().Set("Connection", "close")
		return nil, bodyError(&http.MaxBytesError{Limit: bodyMax})
	}
	release, failed := s.reserve(r, encodingBytes(encoding))
	if failed != nil {
		return nil, failed
	}
	var narrow func()
	b.room, narrow = s.streamRoom()
	_ = b.conn.EnableFullDuplex() // HTTP/2 needs no asking
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	b.body = s.patient(w, http.MaxBytesReader(w, r.Body, bodyMax))
	plain, done := decoded(b.body, encoding)
	if encoding != "" {
		plain = &boundedReader{plain, bodyMax, bodyMax}
	}
	b.items = itemReader{in: bufio.NewReaderSize(plain, batchBufferIn), most: int(most), lines: b.lines}
	b.items.large = func() (func(), error) {
		release, failed := s.reserveFor(b.ctx, s.options.BodyTimeout, most)
		if failed != nil {
			return nil, errNoRoom
		}
		return release, nil
	}
	b.end = func() {
		done()
		b.items.end()
		b.body.end()
		b.cancel()
		narrow()
		release()
	}
	return b, nil
}

// broken says why the rest of the body is not read.
func (b *batch) broken(err error) *Error {
	var syntax *syntaxError
	switch {
	case errors.Is(err, errNoRoom):
		return tooManyRequests()
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
	for err == nil {
		b.push(b.submit(item))
		if !b.room.wait(b.ctx) {
			return // nobody takes answers any more
		}
		item, err = b.items.next()
	}
	if !errors.Is(err, io.EOF) {
		b.push(refusedSlot(b.broken(err)))
	}
}

func (b *batch) push(sl slot) {
	b.room.take(sl.room())
	b.slots.put(sl)
}

// room that the answer takes.
func (sl *slot) room() int64 { return answerBytes + int64(len(sl.refused)) }

func refusedSlot(failed *Error) slot {
	return slot{refused: marshal(failed), code: failed.Code}
}

func (b *batch) submit(item []byte) slot {
	since := time.Now()
	pending, hasID, failed := b.accept(b.bound.from(b.ctx, since, b.wait.timeout), item)
	if failed != nil {
		return refusedSlot(failed)
	}
	return slot{pending: pending, hasID: hasID, since: since}
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

// answer makes one answer per slot, in order, until read closes the queue.
// After the client has gone it goes on taking slots.
func (b *batch) answer() {
	defer b.texts.close()
	if !b.lines {
		b.out.bytes = append(b.out.bytes, '[')
	}
	for slots := range b.slots.all() {
		for i := range slots {
			if b.ctx.Err() != nil {
				break
			}
			if sl := &slots[i]; sl.pending != nil && !b.settled(sl.pending) {
				b.flush() // the client gets what is known while we wait
			}
			b.one(&slots[i])
			if len(b.out.bytes) >= batchFlush {
				b.flush()
			}
		}
		b.flush()
	}
	if !b.lines {
		b.out.bytes = append(b.out.bytes, ']', '\n')
	}
	b.flush()
}

// settled reports whether the answer is there without waiting.
func (b *batch) settled(p api.Pending) bool {
	if done := isDone(p); !done || b.wait.level == walproxy.Logged {
		return done
	}
	ws, err := b.server.core.WriteState(p.LSN())
	return err == nil && ws.State == walproxy.StateApplied
}

// one appends the answer to one item.
func (b *batch) one(sl *slot) {
	out := b.out.bytes
	if b.count > 0 && !b.lines {
		out = append(out, ",\n"...)
	}
	out = strconv.AppendInt(append(out, `{"index":`...), int64(b.count), 10)
	b.count++
	code, refused := sl.code, sl.refused
	if sl.pending != nil {
		answer, failed := b.server.awaitUntil(b.ctx, sl.since.Add(b.wait.timeout), sl.pending, b.wait.level, sl.hasID)
		if code = codeOK; failed != nil {
			code, refused = failed.Code, marshal(failed)
		} else {
			out = answer.appendMembers(append(out, ','))
		}
	}
	if refused != nil {
		out = append(append(out, `,"error":`...), refused...)
	}
	b.server.metrics.item(code)
	out = append(out, '}')
	if b.lines {
		out = append(out, '\n')
	}
	b.out = text{out, b.out.room + sl.room()}
}

// flush hands over what there is.
func (b *batch) flush() {
	if len(b.out.bytes) > 0 {
		b.texts.put(b.out)
		b.out = text{bytes: textPool.take(0)}
	}
}

// write sends what answer makes. A client that does not take it is given up: its
// writes stand.
func (b *batch) write() {
	for texts := range b.texts.all() {
		for i := range texts {
			if b.ctx.Err() != nil {
				break
			}
			_ = b.conn.SetWriteDeadline(time.Now().Add(b.server.options.BodyTimeout))
			_, err := b.w.Write(texts[i].bytes)
			if err == nil && i == len(texts)-1 {
				err = b.conn.Flush()
			}
			b.room.give(texts[i].room)
			if err == nil { // else net/http may not be done with it
				textPool.give(texts[i].bytes)
			}
			texts[i].bytes = nil
			if err != nil {
				b.cancel()
				b.body.wake() // nobody would see the answers to what comes
			}
		}
	}
}
