package rpc

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	"github.com/walproxy/walproxy/internal/streamcodec"
)

// procedures serves Connect, gRPC and gRPC-Web.
type procedures struct{ *Server }

// isProcedure tells the paths of procedures from those of REST.
func isProcedure(path string) bool {
	return strings.HasPrefix(path, "/walproxy.v1.") || strings.HasPrefix(path, "/grpc.")
}

// newProcedures returns their handler.
func (s *Server) newProcedures(itemBytes int64) http.Handler {
	most := connect.WithHandlerOptions(connect.WithReadMaxBytes(int(itemBytes)), withZstd(), connect.WithCodec(streamcodec.Codec{}))
	mux := http.NewServeMux()
	mux.Handle(walproxyv1connect.NewWriteServiceHandler(procedures{s}, most, connect.WithCompressMinBytes(encodeOutcomesFrom)))
	mux.Handle(walproxyv1connect.NewReadServiceHandler(procedures{s}, most, connect.WithCompressMinBytes(encodeFrom)))
	services := []string{walproxyv1connect.WriteServiceName, walproxyv1connect.ReadServiceName}
	mux.Handle(grpchealth.NewHandler(health{s, services}, most))
	reflector := grpcreflect.NewStaticReflector(append(services, grpchealth.HealthV1ServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, most))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, most))
	return mux
}

// health is gRPC's: serving while writes are taken.
type health struct {
	*Server
	services []string
}

// Check implements grpchealth.Checker.
func (h health) Check(_ context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch {
	case r.Service != "" && !slices.Contains(h.services, r.Service):
		return nil, connect.NewError(connect.CodeNotFound, errUnknownService)
	case h.core.Err() != nil || h.stopping.Err() != nil || h.core.Status().Draining:
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// serveProcedure serves one call and returns its name for the metrics.
func (s *Server) serveProcedure(w http.ResponseWriter, r *http.Request) (route string) {
	if s.origins.Check(r) != nil {
		s.turnAway(w, r, crossOrigin())
		return "none"
	}
	r, failed := s.admit(r, procedureRight(r.URL.Path))
	if failed != nil {
		s.turnAway(w, r, failed)
		return "none"
	}
	body := s.messages(w, r)
	defer body.end()
	r.Body = body
	s.limits.Load().procedures.ServeHTTP(&procedureWriter{s.answerWriter(w), s.options.BodyTimeout},
		r.WithContext(context.WithValue(r.Context(), bodyKey{}, body)))
	return procedureRoute(r.URL.Path)
}

// procedureRoute is a path of ours, or what stands for all others: a client must
// not make up labels.
func procedureRoute(path string) string {
	service, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch service {
	case walproxyv1connect.WriteServiceName, walproxyv1connect.ReadServiceName, grpchealth.HealthV1ServiceName:
		return service
	}
	return "none"
}

// bodyKey of a context: the messageBody of the call.
type bodyKey struct{}

// messageBody is the body of a call. A message gets room among what all requests
// may hold when its first byte is there, and the client some time for each read
// of the rest; between messages a stream may rest.
type messageBody struct {
	in     *patientReader
	server *Server
	r      *http.Request
	give   func() // gives the room back; nil: none is held
	page   *page  // of the answer; nil: none is held
}

func (s *Server) messages(w http.ResponseWriter, r *http.Request) *messageBody {
	b := &messageBody{in: s.patient(w, r.Body), server: s, r: r}
	b.in.timeout = 0
	return b
}

func messagesOf(ctx context.Context) *messageBody { return ctx.Value(bodyKey{}).(*messageBody) }

// Read implements io.Reader.
func (b *messageBody) Read(p []byte) (int, error) {
	if b.give == nil && b.server.stopping.Err() != nil { // whatever has come meanwhile
		return 0, b.closing(errStopping)
	}
	n, err := b.in.Read(p)
	if n == 0 || b.give != nil {
		return n, b.closing(err)
	}
	give, failed := b.server.reserve(b.r, b.server.limits.Load().MaxItemBytes)
	if failed != nil {
		return 0, failed.procedure()
	}
	b.give, b.in.timeout = give, b.server.options.BodyTimeout
	return n, b.closing(err)
}

func (b *messageBody) closing(err error) error {
	if err == nil || err == io.EOF || b.server.stopping.Err() == nil {
		return err
	}
	return translate(walproxy.ErrClosed, refused).procedure()
}

// done lets go of the message that was read.
func (b *messageBody) done() {
	b.in.timeout = 0
	if b.give != nil {
		b.give()
		b.give = nil
	}
}

// Close implements io.Closer.
func (b *messageBody) Close() error { return nil } // net/http does it behind the call

func (b *messageBody) end() {
	b.in.end()
	b.done()
	if b.page != nil {
		b.page.end()
	}
}

// procedureWriter gives the client some time for every part of the answer.
type procedureWriter struct {
	answerWriter
	timeout time.Duration
}

func (w *procedureWriter) Write(p []byte) (int, error) {
	w.bound()
	defer w.unbound()
	return w.answerWriter.Write(p)
}

// FlushError is what http.ResponseController calls, and Flush what others do.
func (w *procedureWriter) FlushError() error {
	w.bound()
	defer w.unbound()
	return w.answerWriter.FlushError()
}

func (w *procedureWriter) Flush() { _ = w.FlushError() } // the next write has the error

func (w *procedureWriter) bound()   { _ = w.SetWriteDeadline(time.Now().Add(w.timeout)) }
func (w *procedureWriter) unbound() { _ = w.SetWriteDeadline(time.Time{}) }

// bounded is ctx for what nothing that happens to the connection decides over any
// more: with its deadline, or the default one.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadline(context.WithoutCancel(ctx), deadline(ctx))
}

// deadline of a call, or the default one.
func deadline(ctx context.Context) time.Time {
	if until, ok := ctx.Deadline(); ok {
		return until
	}
	return time.Now().Add(defaultTimeout)
}

// level that an answer waits for.
func level(ack walproxyv1.Ack) (walproxy.Level, *Error) {
	switch ack {
	case walproxyv1.Ack_ACK_UNSPECIFIED, walproxyv1.Ack_ACK_LOGGED:
		return walproxy.Logged, nil
	case walproxyv1.Ack_ACK_APPLIED:
		return walproxy.Applied, nil
	}
	return 0, invalid("ack", "%d is none", ack)
}

var states = map[string]walproxyv1.State{
	walproxy.StateLogged: walproxyv1.State_STATE_LOGGED, walproxy.StateApplied: walproxyv1.State_STATE_APPLIED,
	walproxy.StateParked: walproxyv1.State_STATE_PARKED, walproxy.StateDead: walproxyv1.State_STATE_DEAD,
	walproxy.StateLost: walproxyv1.State_STATE_LOST, walproxy.StateUnrouted: walproxyv1.State_STATE_UNROUTED,
}

// message is the answer as one.
func (a written) message() *walproxyv1.WriteResponse {
	m := &walproxyv1.WriteResponse{}
	a.set(m)
	return m
}

// set sets every field of m.
func (a written) set(m *walproxyv1.WriteResponse) {
	m.Lsn, m.State, m.Repeat, m.EventCount = uint64(a.LSN), states[a.state], a.Repeat, a.EventCount
}
