package rpc

import (
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	"github.com/walproxy/walproxy/internal/access"
)

// adminRoutes are about the proxy, or about what its sinks rejected, whatever the
// collection. What is about records needs the right to read or to write them.
var adminRoutes = map[string]bool{
	routeDrain: true, routeLetters: true, routeLetter: true, routeRetry: true, routeEdit: true, routeRetryAll: true,
	routeDiscard: true, routeImport: true, routePause: true, routeResume: true, routeAccept: true, routeBackup: true,
}

// rightFor is what a request to a route of REST needs, whatever its collection: the
// core asks again for that.
func rightFor(route, method string) access.Right {
	switch {
	case adminRoutes[route]:
		return access.Admin
	case route == routeWrite:
		return access.Known // who wrote may ask what became of it
	case method == http.MethodGet || method == http.MethodHead:
		return access.Read
	}
	return access.Write
}

// procedureRight is the same for a procedure. Health is what anybody may ask.
func procedureRight(path string) access.Right {
	service, method, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case service == grpchealth.HealthV1ServiceName:
		return access.None
	case service == walproxyv1connect.ReadServiceName:
		return access.Read
	case service == walproxyv1connect.WriteServiceName && method != "GetWrite":
		return access.Write
	}
	return access.Known
}

// admit returns r with what its sender may do, or the answer to who may not.
func (s *Server) admit(r *http.Request, right access.Right) (*http.Request, *Error) {
	if s.options.Access == nil || right == access.None {
		return r, nil
	}
	in, err := s.options.Access.Authenticate(r)
	if err == nil {
		err = access.Allow(in.Context(), right, "")
	}
	if err != nil {
		return r, translate(err, refused)
	}
	return in, nil
}

// refusal is the answer to what Access refused; nil: it was not that.
func refusal(err error) *Error {
	if r, ok := access.Refuse(err); ok {
		return &Error{Status: r.Status, Code: r.Code, Message: r.Message}
	}
	return nil
}

// turnAway answers a procedure that is not let in, in its protocol.
func (s *Server) turnAway(w http.ResponseWriter, r *http.Request, e *Error) {
	if errors := connect.NewErrorWriter(); errors.IsSupported(r) {
		_ = errors.Write(w, r, e.procedure()) // the client has gone: nobody to tell
		return
	}
	s.fail(w, r, e)
}
