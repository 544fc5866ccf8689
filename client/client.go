// Package client is the Go client of walproxy's API, over Connect.
//
// A write that returns without an error is on disk in the proxy's log. Writes are
// sent again until their outcome is known, for as long as Options.RetryFor, under a
// request id that the client makes: the proxy does them once. Writes and keys are
// made by package mutation, as in embedded mode.
//
// Where the context of a call has a span of OpenTelemetry its trace context goes with the
// request; of a Writer it is that of its first context.
//
// What a method returns as an error is an *Error, with the code of docs/rest.md; it
// can be tested by errors.Is with the sentinels of this package.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	"github.com/walproxy/walproxy/internal/streamcodec"
)

// Options of New. Zero values are the defaults.
type Options struct {
	// Token is sent as a bearer token. Empty: none.
	Token string
	// TLS of an https address. Nil: the system's certificate authorities.
	TLS *tls.Config
	// Timeout bounds one attempt. 30 s
	Timeout time.Duration
	// RetryFor is how long a call is tried, at least once, if its context does not end
	// before. It must be shorter than the proxy remembers request ids (request_ids:
	// 24 h, and 1,000,000 ids: at 20,000 writes a second with ids, 50 s). 30 s;
	// negative: one attempt.
	RetryFor time.Duration
	// Dial makes connections, as net.Dialer.DialContext does. Nil: that.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// GRPC has the client speak gRPC instead of Connect's own protocol.
	GRPC bool
}

const (
	dialTimeout = 5 * time.Second
	// firstPause before an attempt is doubled up to maxPause, unless the proxy says when
	// to come again; each is drawn from its upper half.
	firstPause = 20 * time.Millisecond
	maxPause   = 2 * time.Second
	// pingAfter so long without a frame the connection is tried, and given up when
	// nothing comes for pingTimeout.
	pingAfter   = 15 * time.Second
	pingTimeout = 15 * time.Second
)

// Client of one proxy. Its methods may be called concurrently.
type Client struct {
	*connection
	ack         walproxyv1.Ack
	consistency walproxyv1.Consistency
}

// connection is what a Client and those made of it share.
type connection struct {
	options Options
	writes  walproxyv1connect.WriteServiceClient
	reads   walproxyv1connect.ReadServiceClient
	http    *http.Transport
	ids     string // prefix of request ids, different for every client
	lastID  atomic.Uint64
	// done ends when Close is called.
	done  context.Context
	close context.CancelCauseFunc
}

// New returns a client of the proxy at address: http://HOST:PORT, or https. It does
// not connect.
func New(address string, o Options) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("client: %q is no address of a proxy: want http://HOST:PORT or https://HOST:PORT", address)
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.RetryFor == 0 {
		o.RetryFor = 30 * time.Second
	}
	random := make([]byte, 12)
	_, _ = rand.Read(random) // never fails
	c := &connection{options: o, http: newTransport(o), ids: base64.RawURLEncoding.EncodeToString(random) + "."}
	c.done, c.close = context.WithCancelCause(context.Background())
	wire := []connect.ClientOption{connect.WithCodec(streamcodec.Codec{})}
	if o.GRPC {
		wire = append(wire, connect.WithGRPC())
	}
	http := &http.Client{Transport: authorized{c.http, o.Token}}
	base := strings.TrimRight(address, "/")
	c.writes = walproxyv1connect.NewWriteServiceClient(http, base, wire...)
	c.reads = walproxyv1connect.NewReadServiceClient(http, base, wire...)
	return &Client{connection: c}, nil
}

func newTransport(o Options) *http.Transport {
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	t := &http.Transport{
		DialContext:         dial,
		TLSHandshakeTimeout: dialTimeout,
		TLSClientConfig:     o.TLS,
		Protocols:           &http.Protocols{},
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// authorized sends a token, and the trace context of the call, with every request.
type authorized struct {
	*http.Transport
	token string
}

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	traced := trace.SpanContextFromContext(r.Context()).IsValid()
	if a.token != "" || traced {
		r = r.Clone(r.Context())
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	if traced {
		propagation.TraceContext{}.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
	}
	return a.Transport.RoundTrip(r)
}

// Close ends what is under way, with ErrClosed. Streams are to be closed before. It
// may be called twice.
func (c *Client) Close() error {
	c.close(ErrClosed)
	c.http.CloseIdleConnections()
	return nil
}

// Applied returns c for writes that wait until the sinks have them too, as far as that
// is so in time: Result.State says it.
func (c *Client) Applied() *Client {
	return &Client{c.connection, walproxyv1.Ack_ACK_APPLIED, c.consistency}
}

// AsApplied returns c for reads of what the sink has now: they wait for nothing, and may
// lack writes that were acknowledged.
func (c *Client) AsApplied() *Client {
	return &Client{c.connection, c.ack, walproxyv1.Consistency_CONSISTENCY_APPLIED}
}

// newID is a request id that nobody else makes.
func (c *connection) newID() string { return c.ids + strconv.FormatUint(c.lastID.Add(1), 36) }

// identify gives an id to those of ms that have none. Their ids are parts of one string.
func (c *connection) identify(ms []*walproxyv1.Mutation) {
	lacking := 0
	for _, m := range ms {
		if m.GetRequestId() == "" {
			lacking++
		}
	}
	if lacking == 0 {
		return
	}
	const numberMost = 13 // digits of a uint64
	all := make([]byte, 0, lacking*(len(c.ids)+numberMost))
	ends := make([]int, 0, lacking)
	for n := c.lastID.Add(uint64(lacking)) - uint64(lacking); len(ends) < lacking; {
		n++
		all = strconv.AppendUint(append(all, c.ids...), n, 36)
		ends = append(ends, len(all))
	}
	text, begin := string(all), 0
	for _, m := range ms {
		if m.GetRequestId() == "" {
			m.RequestId, begin, ends = text[begin:ends[0]], ends[0], ends[1:]
		}
	}
}

// try calls attempt until it returns nil, an error that no retry changes, or the time
// for retries is over. The attempt is told the context that bounds it.
func (c *connection) try(ctx context.Context, write bool, attempt func(context.Context) error) error {
	until := time.Now().Add(c.options.RetryFor)
	var unknown *Error // an attempt whose outcome is not known
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		failed := c.once(ctx, write, attempt)
		if failed == nil {
			return nil
		}
		if write && failed.Code == codeUnknown {
			unknown = failed
		}
		if failed.Retryable && c.wait(ctx, failed.pause(pause), until) {
			continue
		}
		if unknown != nil && (failed.Retryable || failed.Code == codeCanceled || failed.Code == codeDenied || failed.Code == codeUntrusted || failed.Code == codeOther) {
			failed.Code = codeUnknown // whatever the last attempt says, an earlier one may have written
		}
		if ctx.Err() != nil && !errors.Is(failed, ctx.Err()) {
			failed.Err = errors.Join(failed.Err, ctx.Err())
		}
		return failed
	}
}

func (c *connection) once(ctx context.Context, write bool, attempt func(context.Context) error) *Error {
	bounded, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	defer context.AfterFunc(c.done, cancel)()
	err := c.done.Err()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return c.ended(ctx, codeCanceled)
	}
	if err = attempt(bounded); err == nil {
		return nil
	}
	failed := errorOf(err, write)
	if ctx.Err() != nil || c.done.Err() != nil {
		ended := c.ended(ctx, failed.Code)
		ended.LSN = failed.LSN
		return ended
	}
	return failed
}

// ended is the error of a call that its caller, or Close, has ended.
func (c *connection) ended(ctx context.Context, code string) *Error {
	cause := context.Cause(ctx)
	if c.done.Err() != nil {
		cause = ErrClosed
	}
	return &Error{Code: code, Message: cause.Error(), Err: cause}
}

// wait waits before an attempt, if that is to begin in time.
func (c *connection) wait(ctx context.Context, pause time.Duration, until time.Time) bool {
	if time.Now().Add(pause).After(until) {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-c.done.Done():
	}
	return false
}

// ErrClosed: the client, or the stream, was closed.
var ErrClosed = errors.New("client: closed")
