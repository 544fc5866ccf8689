package rpc

import (
	"errors"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// procedureCodes are the codes of Connect and gRPC for the statuses of REST. A
// client may send again by itself what is unavailable: of that nothing was done.
var procedureCodes = map[int]connect.Code{
	http.StatusBadRequest:            connect.CodeInvalidArgument,
	http.StatusUnauthorized:          connect.CodeUnauthenticated,
	http.StatusForbidden:             connect.CodePermissionDenied,
	http.StatusNotFound:              connect.CodeNotFound,
	http.StatusConflict:              connect.CodeFailedPrecondition,
	http.StatusRequestEntityTooLarge: connect.CodeResourceExhausted,
	http.StatusUnprocessableEntity:   connect.CodeFailedPrecondition,
	http.StatusTooManyRequests:       connect.CodeResourceExhausted,
	http.StatusNotImplemented:        connect.CodeUnimplemented,
	http.StatusServiceUnavailable:    connect.CodeUnavailable,
	http.StatusGatewayTimeout:        connect.CodeDeadlineExceeded,
	http.StatusInsufficientStorage:   connect.CodeResourceExhausted,
}

// procedureCode of e, which does not say that nothing was done where that is not known.
func (e *Error) procedureCode() connect.Code {
	switch e.Code {
	case codeUnknownOutcome:
		return connect.CodeUnknown
	case codeConflict:
		return connect.CodeAborted
	}
	if code, ok := procedureCodes[e.Status]; ok {
		return code
	}
	return connect.CodeInternal
}

// failure is e as a message.
func (e *Error) failure() *walproxyv1.Failure {
	number := func(name string) uint64 {
		n, _ := e.Details[name].(uint64)
		return n
	}
	return &walproxyv1.Failure{
		Code: e.Code, Message: e.Message, Field: e.Field, Retryable: e.Retryable,
		Lsn: number("lsn"), Version: number("version"), EventCount: number("event_count"), Written: number("written"),
		RetryAfterSeconds: uint32(e.after),
	}
}

// procedure is e as the end of a procedure.
func (e *Error) procedure() *connect.Error {
	out := connect.NewError(e.procedureCode(), errors.New(e.Message))
	if detail, err := connect.NewErrorDetail(e.failure()); err == nil { // a message without its type's registration fails
		out.AddDetail(detail)
	}
	if e.after > 0 {
		out.Meta().Set("Retry-After", strconv.Itoa(e.after))
	}
	return out
}
