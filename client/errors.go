package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"time"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// What an *Error may be, by errors.Is.
var (
	// ErrNotFound: there is no such record, event stream or write.
	ErrNotFound = mutation.ErrNotFound
	// ErrConflict: the precondition does not hold; Error.Version is the record's.
	ErrConflict = errors.New("client: version conflict")
	// ErrInvalid: the request is wrong; Error.Field names the part.
	ErrInvalid = errors.New("client: invalid request")
	// ErrTooLarge: the write is larger than the proxy takes.
	ErrTooLarge = errors.New("client: too large")
	// ErrMismatch: the request id was used for another write.
	ErrMismatch = errors.New("client: the request id was used for another write")
	// ErrParked: acknowledged writes to the key are dead letters.
	ErrParked = errors.New("client: parked")
	// ErrDenied: the token is missing, unknown, or does not allow it.
	ErrDenied = errors.New("client: denied")
	// ErrUntrusted: one side does not accept the other's certificate; nothing was done, and
	// no retry helps. With TLS 1.3 the refusal of the client's may be lost with its
	// connection: of a write that was sent on it the outcome is then unknown.
	ErrUntrusted = errors.New("client: certificate not accepted")
	// ErrUnknownOutcome: the write may be done or not. Send it again under the same
	// request id, Error.RequestID, to know.
	ErrUnknownOutcome = errors.New("client: unknown outcome")
	// ErrUnavailable: the proxy could not be reached or did not take it for now; of a
	// write nothing was done.
	ErrUnavailable = errors.New("client: unavailable")
)

// Codes that the client itself gives, beside those of docs/rest.md.
const (
	codeUnknown     = "unknown_outcome"
	codeUnreachable = "unreachable" // no connection: nothing was sent
	codeBroken      = "broken"      // the answer to a read did not come
	codeCanceled    = "canceled"    // before anything was sent
	codeDenied      = "denied"
	codeUntrusted   = "untrusted" // by certificate: no request was sent, or none was read
	codeOther       = "other"
)

var sentinels = map[string]error{
	"not_found": ErrNotFound, "version_conflict": ErrConflict, "invalid": ErrInvalid, "no_route": ErrInvalid,
	"too_large": ErrTooLarge, "idempotency_mismatch": ErrMismatch, "parked": ErrParked, codeDenied: ErrDenied, codeUntrusted: ErrUntrusted,
	codeUnknown: ErrUnknownOutcome,
}

// Error is why a call failed.
type Error struct {
	// Code is one of docs/rest.md, or unreachable, untrusted, broken, canceled, denied, other.
	Code    string
	Message string
	// Field of the request that is wrong.
	Field string
	// Retryable: the same call may succeed later. It was tried for Options.RetryFor.
	Retryable bool
	// LSN of a write that has one and whose outcome is not known.
	LSN uint64
	// Version and EventCount of the record, with ErrConflict.
	Version, EventCount uint64
	// RetryAfter is when to try again; 0: nothing is known.
	RetryAfter time.Duration
	// RequestID under which a write was sent.
	RequestID string
	// Err is what ended it, if not the proxy's answer: the connection's or the context's.
	Err error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("client: %s: %s", e.Code, e.Message)
	if e.Code == codeUnknown && e.RequestID != "" {
		text += fmt.Sprintf(" (the write may be done or not: request id %s)", e.RequestID)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Is tells the sentinels of this package.
func (e *Error) Is(target error) bool {
	if sentinel := sentinels[e.Code]; sentinel != nil {
		return sentinel == target
	}
	return target == ErrUnavailable && e.Retryable
}

// pause before the next attempt: what the proxy says, or jitter around usual.
func (e *Error) pause(usual time.Duration) time.Duration {
	return max(e.RetryAfter, usual/2+rand.N(usual/2+1))
}

// errorOf says what err means. What is not an answer of the proxy's is unknown for
// writes that were sent.
func errorOf(err error, write bool) *Error {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return &Error{Code: codeUnreachable, Message: op.Error(), Retryable: true, Err: err}
	}
	if message, ok := untrusted(err); ok {
		return &Error{Code: codeUntrusted, Message: message, Err: err}
	}
	if said, ok := errors.AsType[*connect.Error](err); ok {
		for _, detail := range said.Details() {
			if value, err := detail.Value(); err == nil {
				if f, ok := value.(*walproxyv1.Failure); ok {
					return errorFrom(f)
				}
			}
		}
		switch said.Code() {
		case connect.CodeUnauthenticated, connect.CodePermissionDenied:
			return &Error{Code: codeDenied, Message: said.Message(), Err: err}
		case connect.CodeResourceExhausted: // of the protocol's own: a message is too large
			return &Error{Code: "too_large", Message: said.Message(), Err: err}
		case connect.CodeInvalidArgument:
			return &Error{Code: "invalid", Message: said.Message(), Err: err}
		case connect.CodeUnimplemented, connect.CodeNotFound:
			return &Error{Code: codeOther, Message: said.Message() + ": is the address that of a proxy?", Err: err}
		}
	}
	code := codeBroken
	if write {
		code = codeUnknown
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{Code: code, Message: "no answer in time", Retryable: true, Err: err}
	}
	return &Error{Code: code, Message: err.Error(), Retryable: true, Err: err}
}

// untrusted says which certificate was not accepted, if that is what err means.
func untrusted(err error) (message string, ok bool) {
	if ours, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return ours.Error(), true
	}
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" { // as crypto/tls names an alert that it has received
		return "", false
	}
	// The alert's type is not exported; its number is the protocol's.
	alert := reflect.ValueOf(op.Err)
	if alert.Kind() != reflect.Uint8 || !slices.Contains(certificateAlerts, uint8(alert.Uint())) {
		return "", false
	}
	return "the proxy does not accept the client's certificate, or it has none to show: " + op.Err.Error(), true
}

// certificateAlerts (RFC 8446, 6.2) are those about a certificate, from bad_certificate to
// certificate_unknown, unknown_ca, access_denied and certificate_required: they end a
// handshake, before the server reads a request.
var certificateAlerts = []uint8{42, 43, 44, 45, 46, 48, 49, 116}

func errorFrom(f *walproxyv1.Failure) *Error {
	e := &Error{Code: f.GetCode(), Message: f.GetMessage(), Field: f.GetField(), Retryable: f.GetRetryable(),
		LSN: f.GetLsn(), Version: f.GetVersion(), EventCount: f.GetEventCount(),
		RetryAfter: time.Duration(f.GetRetryAfterSeconds()) * time.Second}
	switch e.Code {
	case "unauthenticated", "permission_denied", "forbidden", "unauthorized":
		e.Code = codeDenied
	}
	return e
}
