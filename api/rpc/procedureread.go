package rpc

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// limitOf is a limit as asked for, or missing.
func limitOf(asked, missing, most uint32) (uint64, *Error) {
	switch {
	case asked == 0:
		return uint64(missing), nil
	case asked > most:
		return 0, invalid("limit", "is %d; at most %d", asked, most)
	}
	return uint64(asked), nil
}

// messagePage is a page of at most so many bytes of a call's answer. While the client takes
// it there is the message and what it is on the wire: it has room for both, and until the
// call has ended.
func (p procedures) messagePage(ctx context.Context, most int) *page {
	page := p.page(2 * most)
	messagesOf(ctx).page = page
	return page
}

// GetWrite implements walproxyv1connect.WriteServiceHandler.
func (p procedures) GetWrite(_ context.Context, r *connect.Request[walproxyv1.GetWriteRequest]) (*connect.Response[walproxyv1.GetWriteResponse], error) {
	ws, failed := p.writeState(sinks.LSN(r.Msg.GetLsn()))
	if failed != nil {
		return nil, p.fails(r.Spec().Procedure, failed)
	}
	out := &walproxyv1.GetWriteResponse{State: states[ws.State], Sinks: make(map[string]walproxyv1.State, len(ws.Sinks))}
	for sink, state := range ws.Sinks {
		out.Sinks[sink] = states[state]
	}
	return connect.NewResponse(out), nil
}

// Get implements walproxyv1connect.ReadServiceHandler.
func (p procedures) Get(ctx context.Context, r *connect.Request[walproxyv1.GetRequest]) (*connect.Response[walproxyv1.GetResponse], error) {
	from, failed := p.readerOf(r.Msg.GetConsistency())
	if failed != nil {
		return nil, failed.procedure()
	}
	ctx, cancel := p.untilStop(ctx, deadline(ctx))
	defer cancel()
	doc, err := from.record(ctx, r.Msg.GetCollection(), r.Msg.GetKey())
	if err != nil {
		return nil, p.fails(r.Spec().Procedure, p.readError(err))
	}
	return connect.NewResponse(&walproxyv1.GetResponse{Document: doc.Message()}), nil
}

// GetEvents implements walproxyv1connect.ReadServiceHandler.
func (p procedures) GetEvents(ctx context.Context, r *connect.Request[walproxyv1.GetEventsRequest]) (*connect.Response[walproxyv1.GetEventsResponse], error) {
	limit, failed := limitOf(r.Msg.GetLimit(), defaultEvents, maxEvents)
	if failed != nil {
		return nil, failed.procedure()
	}
	reader, failed := p.readerOf(r.Msg.GetConsistency())
	if failed != nil {
		return nil, failed.procedure()
	}
	ctx, cancel := p.untilStop(ctx, deadline(ctx))
	defer cancel()
	out, size := &walproxyv1.GetEventsResponse{}, 0
	from := min(max(r.Msg.GetFrom(), 1), 1<<62)
	page := p.messagePage(ctx, eventBytes)
	next, err := reader.eachEvent(ctx, r.Msg.GetCollection(), r.Msg.GetKey(), from, limit, page.size/2, func(e mutation.StoredEvent) int {
		out.Events = append(out.Events, &walproxyv1.GetEventsResponse_StoredEvent{
			Number: e.Number, Lsn: uint64(e.LSN), Fields: e.Event.GetFields()})
		size += proto.Size(e.Event)
		return size
	})
	if err != nil {
		return nil, p.fails(r.Spec().Procedure, p.readError(err))
	}
	out.Next = next
	page.made(2 * size)
	return connect.NewResponse(out), nil
}

// Scan implements walproxyv1connect.ReadServiceHandler.
func (p procedures) Scan(ctx context.Context, r *connect.Request[walproxyv1.ScanRequest]) (*connect.Response[walproxyv1.ScanResponse], error) {
	limit, failed := limitOf(r.Msg.GetLimit(), defaultEntries, maxEntries)
	if failed != nil {
		return nil, failed.procedure()
	}
	from, failed := p.readerOf(r.Msg.GetConsistency())
	if failed != nil {
		return nil, failed.procedure()
	}
	ctx, cancel := p.untilStop(ctx, deadline(ctx))
	defer cancel()
	out, size := &walproxyv1.ScanResponse{}, 0
	page := p.messagePage(ctx, entryBytes)
	next, err := from.eachEntry(ctx, r.Msg.GetCollection(), r.Msg.GetPrefix(), r.Msg.GetAfter(), int(limit), page.size/2, func(e sinks.Entry) int {
		out.Entries = append(out.Entries, &walproxyv1.ScanResponse_Entry{Key: e.Key, Document: e.Document.Message()})
		size += proto.Size(out.Entries[len(out.Entries)-1])
		return size
	})
	if err != nil {
		return nil, p.fails(r.Spec().Procedure, p.readError(err))
	}
	out.Next = next
	page.made(2 * size)
	return connect.NewResponse(out), nil
}
