package aerospike

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/sinks"
)

// rule is what a result code means for the record that it was said of, and what to
// do about it where a person has to.
type rule struct {
	outcome sinks.Outcome
	remedy  string
}

// codes: what every result code means of a guarded write. Source: the server's
// as/include/base/proto.h (AS_ERR_...) of 8.0 for the positive ones, the Go client's
// types/result_code.go (v7.10.2) for the negative ones, which no server sends: the
// client gives them what happened before, or instead of, an answer. Rejected is
// said where the record itself is to blame: the loop takes it for true only once it
// was tried alone, after everything before it. A code that is not here halts.
var codes = map[types.ResultCode]rule{
	// The client: something went wrong around the message, which may have arrived.
	types.NO_RESPONSE:          {sinks.Unknown, ""},
	types.BATCH_FAILED:         {sinks.Unknown, ""},
	types.NETWORK_ERROR:        {sinks.Unknown, ""},
	types.COMMON_ERROR:         {sinks.Unknown, ""},
	types.MAX_RETRIES_EXCEEDED: {sinks.Unknown, ""},
	types.SERVER_NOT_AVAILABLE: {sinks.Unknown, ""},
	types.PARSE_ERROR:          {sinks.Unknown, ""},
	// The client: it was not sent.
	types.MAX_ERROR_RATE:                   {sinks.Retry, ""},
	types.NO_AVAILABLE_CONNECTIONS_TO_NODE: {sinks.Retry, ""},
	types.INVALID_NODE_ERROR:               {sinks.Retry, ""},
	types.COMMAND_REJECTED:                 {sinks.Retry, ""},
	types.INVALID_CLUSTER_PARTITION_MAP:    {sinks.Retry, ""},
	types.CLUSTER_NAME_MISMATCH_ERROR:      {sinks.Halt, "the cluster has another name: correct hosts or cluster_name"},
	types.SERIALIZE_ERROR:                  {sinks.Rejected, ""},
	types.TYPE_NOT_SUPPORTED:               {sinks.Rejected, ""},

	// The server could not do it now.
	types.SERVER_ERROR:          {sinks.Unknown, ""}, // AS_ERR_UNKNOWN
	types.TIMEOUT:               {sinks.Unknown, ""}, // also: waiting for a replica
	types.CLUSTER_KEY_MISMATCH:  {sinks.Retry, ""},
	types.SERVER_MEM_ERROR:      {sinks.Retry, ""}, // AS_ERR_OUT_OF_SPACE: stop-writes too
	types.PARTITION_UNAVAILABLE: {sinks.Retry, ""},
	types.KEY_BUSY:              {sinks.Retry, ""},
	types.DEVICE_OVERLOAD:       {sinks.Retry, ""},
	types.XDR_KEY_BUSY:          {sinks.Retry, ""},
	types.LOST_CONFLICT:         {sinks.Retry, ""},
	types.GENERATION_ERROR:      {sinks.Retry, ""}, // somebody wrote between our read and write
	types.KEY_EXISTS_ERROR:      {sinks.Retry, ""}, // the same, of a record that was absent
	types.KEY_NOT_FOUND_ERROR:   {sinks.Retry, ""}, // the same, of one that was there
	types.FILTERED_OUT:          {sinks.Retry, ""}, // the guard has moved since it was read
	types.QUOTA_EXCEEDED:        {sinks.Retry, ""},
	types.BATCH_QUEUES_FULL:     {sinks.Retry, ""},
	types.EXPIRED_SESSION:       {sinks.Retry, ""}, // the client logs in again

	// The target is wrong.
	types.ALWAYS_FORBIDDEN:              {sinks.Halt, "the cluster's configuration does not allow it"},
	types.UNSUPPORTED_FEATURE:           {sinks.Halt, "the server cannot do this: 6.0 is the oldest that works"},
	types.INVALID_NAMESPACE:             {sinks.Halt, "create the namespace on every node, or correct its name"},
	types.FAIL_FORBIDDEN:                {sinks.Halt, "the namespace does not allow it: for records that expire it needs nsup-period, or allow-ttl-without-nsup"},
	types.ENTERPRISE_ONLY:               {sinks.Halt, "the server is no Enterprise Edition"},
	types.BATCH_DISABLED:                {sinks.Halt, "allow batches on the server (batch-max-buffers-per-queue)"},
	types.BATCH_MAX_REQUESTS_EXCEEDED:   {sinks.Halt, "lower batch_keys, or raise the server's batch-max-requests"},
	types.SECURITY_NOT_SUPPORTED:        {sinks.Halt, "the server knows no users: leave user and password out"},
	types.SECURITY_NOT_ENABLED:          {sinks.Halt, "the server knows no users: leave user and password out"},
	types.SECURITY_SCHEME_NOT_SUPPORTED: {sinks.Halt, "the server does not log in that way"},
	types.INVALID_COMMAND:               {sinks.Halt, ""},
	types.INVALID_FIELD:                 {sinks.Halt, ""},
	types.ILLEGAL_STATE:                 {sinks.Halt, ""},
	types.INVALID_USER:                  {sinks.Halt, "correct user"},
	types.INVALID_PASSWORD:              {sinks.Halt, "correct password"},
	types.EXPIRED_PASSWORD:              {sinks.Halt, "give the user a new password"},
	types.FORBIDDEN_PASSWORD:            {sinks.Halt, "correct password"},
	types.INVALID_CREDENTIAL:            {sinks.Halt, "correct user and password"},
	types.NOT_AUTHENTICATED:             {sinks.Halt, "the server wants a user and a password"},
	types.ROLE_VIOLATION:                {sinks.Halt, "grant the user the role read-write on the namespaces"},
	types.NOT_WHITELISTED:               {sinks.Halt, "allow this host in the user's role"},

	// The record is wrong.
	types.PARAMETER_ERROR:     {sinks.Rejected, ""},
	types.BIN_EXISTS_ERROR:    {sinks.Rejected, ""},
	types.BIN_TYPE_ERROR:      {sinks.Rejected, ""},
	types.RECORD_TOO_BIG:      {sinks.Rejected, ""},
	types.BIN_NOT_FOUND:       {sinks.Rejected, ""},
	types.KEY_MISMATCH:        {sinks.Rejected, ""}, // two user keys with one digest
	types.BIN_NAME_TOO_LONG:   {sinks.Rejected, ""},
	types.OP_NOT_APPLICABLE:   {sinks.Rejected, ""},
	types.GEO_INVALID_GEOJSON: {sinks.Rejected, ""},

	types.FAIL_ELEMENT_NOT_FOUND: {sinks.Rejected, ""},
	types.FAIL_ELEMENT_EXISTS:    {sinks.Rejected, ""},
}

func ruleOf(code types.ResultCode) rule {
	if r, ok := codes[code]; ok {
		return r
	}
	return rule{sinks.Halt, "walproxy does not know this result code"}
}

// ServerError is what the server, or the client in its place, said.
type ServerError struct {
	Code   types.ResultCode
	Remedy string // empty: nothing
	Err    error  // with the node; nil: there is no more than the code
}

func (e *ServerError) Error() string {
	text := fmt.Sprintf("sink aerospike: result %d, %s", e.Code, types.ResultCodeToString(e.Code))
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	return text
}

func (e *ServerError) Unwrap() error { return e.Err }

// Details implements sinks.Detailed.
func (e *ServerError) Details() map[string]string {
	return map[string]string{"result_code": strconv.Itoa(int(e.Code)), "message": types.ResultCodeToString(e.Code)}
}

// What is known of a message that ended in an error.
const (
	notSent = false // or it could not have changed anything: a read
	sent    = true
)

// judge gives an error of the client its outcome. sent says that it was a write:
// without an answer it may have been done.
func judge(err error, sent bool) error {
	if err == nil {
		return nil
	}
	if _, marked := errors.AsType[*sinks.OutcomeError](err); marked {
		return err
	}
	var said *as.AerospikeError
	if !errors.As(err, &said) {
		return sinks.WithOutcome(unless(sent, sinks.Unknown, sinks.Retry), fmt.Errorf("sink aerospike: %w", err))
	}
	// What the client wraps says more than what it wrapped it in: that a node
	// refused the login, say, behind "failed to connect".
	code := said.ResultCode
	for inner := said; inner != nil; {
		if r, ok := codes[inner.ResultCode]; ok && r.outcome == sinks.Halt {
			code = inner.ResultCode
		}
		var next *as.AerospikeError
		if !errors.As(inner.Unwrap(), &next) {
			break
		}
		inner = next
	}
	r := ruleOf(code)
	if r.outcome == sinks.Unknown && !sent {
		r.outcome = sinks.Retry
	}
	if remedy := untrusted(err); remedy != "" && !sent {
		r = rule{sinks.Halt, remedy}
	}
	return sinks.WithOutcome(r.outcome, &ServerError{Code: code, Remedy: r.remedy, Err: said})
}

// untrusted says what to do about a connection that ended because one side does
// not trust the other's certificate; "": it ended otherwise.
func untrusted(err error) string {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	switch {
	case name:
		return "the node's certificate is for another name: correct cluster.tls.name"
	case verification:
		return "the node's certificate is not trusted: name the authority that signed it (cluster.tls.ca), or this is not the cluster you mean"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // crypto/tls: an alert of the server
		return "the node does not accept the client's certificate: name one that it knows (cluster.tls.cert and key)"
	}
	return ""
}

// judgeEntry is judge for one entry of a batch; nil: it was done.
func judgeEntry(e *as.BatchRecord, whole error, sent bool) error {
	switch {
	case e.ResultCode == types.OK:
		return nil
	case e.ResultCode == types.NO_RESPONSE && whole != nil:
		return judge(whole, sent) // its node, or the whole batch, failed
	case e.Err != nil:
		return judge(e.Err, sent)
	}
	r := ruleOf(e.ResultCode)
	if r.outcome == sinks.Unknown && !sent {
		r.outcome = sinks.Retry
	}
	return sinks.WithOutcome(r.outcome, &ServerError{Code: e.ResultCode, Remedy: r.remedy})
}

// codeOf is the result code of an error, or OK.
func codeOf(err error) types.ResultCode {
	if said, ok := errors.AsType[*ServerError](err); ok {
		return said.Code
	}
	return types.OK
}

func unless[T any](cond bool, yes, no T) T {
	if cond {
		return yes
	}
	return no
}

// gaveUp is the error of a call whose context ended while an answer was awaited.
func gaveUp(ctx context.Context, sent bool) error {
	return sinks.WithOutcome(unless(sent, sinks.Unknown, sinks.Retry), context.Cause(ctx))
}
