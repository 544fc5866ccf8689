package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/walproxy/walproxy/client"
)

// Client is a small client of the REST API. Methods may be called concurrently.
type Client struct {
	base atomic.Pointer[string]
	http *http.Client
	api  *client.Client
}

// NewClient returns a client for an API that several callers use at once. It has
// no address yet: SetAddr.
func NewClient(callers int) *Client {
	c := &Client{http: &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConns:        callers,
		MaxIdleConnsPerHost: callers,
		DisableCompression:  true,
	}}}
	c.api = newStreaming(c)
	return c
}

// SetAddr says where the API is now: host:port.
func (c *Client) SetAddr(addr string) {
	base := "http://" + addr
	c.base.Store(&base)
}

// Base is the URL of the API; "" as long as it has none.
func (c *Client) Base() string {
	if base := c.base.Load(); base != nil {
		return *base
	}
	return ""
}

// Close frees idle connections.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	_ = c.api.Close() // never fails
}

// APIError is an error that the proxy answered with.
type APIError struct {
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Message   string `json:"message"`
	Field     string `json:"field"`
	Retryable bool   `json:"retryable"`
}

func (e *APIError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// Answer to one write.
type Answer struct {
	LSN    uint64    `json:"lsn"`
	Repeat bool      `json:"repeat"`
	Error  *APIError `json:"error"`
}

// ErrNotSent says that a request never left.
var ErrNotSent = errors.New("ledger: not sent")

// Refused reports that what err answers was surely not written.
func Refused(err error) bool {
	var answered *APIError
	if errors.As(err, &answered) {
		return answered.Code != "unknown_outcome"
	}
	return errors.Is(err, ErrNotSent)
}

// do sends a request and returns the answer's body, which the caller closes. A
// status of 400 and up is an *APIError.
func (c *Client) do(ctx context.Context, method, path, contentType, id string, body []byte) (io.ReadCloser, error) {
	base := c.base.Load()
	if base == nil {
		return nil, ErrNotSent
	}
	req, err := http.NewRequestWithContext(ctx, method, *base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // every attempt is noted: the transport must not make its own
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if id != "" {
		req.Header.Set("Idempotency-Key", id)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, err
	}
	if resp.StatusCode < 400 {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	answered := &APIError{}
	if err := json.NewDecoder(resp.Body).Decode(answered); err != nil {
		return nil, fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	return nil, answered
}

// get decodes the answer to a GET.
func (c *Client) get(ctx context.Context, path string, into any) error {
	body, err := c.do(ctx, http.MethodGet, path, "", "", nil)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return json.NewDecoder(body).Decode(into)
}

// Status is a part of GET /v1/status.
type Status struct {
	Stream string `json:"stream"`
	Log    struct {
		Appended uint64 `json:"appended"`
		Durable  uint64 `json:"durable"`
		First    uint64 `json:"first"`
		Bytes    int64  `json:"bytes"`
		Error    string `json:"error"`
	} `json:"log"`
	Sinks []SinkStatus `json:"sinks"`
}

// SinkStatus is a part of one sink's.
type SinkStatus struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Error       string `json:"error"`
	Applied     uint64 `json:"applied"`
	Lag         uint64 `json:"lag"`
	Records     uint64 `json:"records"` // applied since the start
	HeldRecords uint64 `json:"held_records"`
	DeadLetters int    `json:"dead_letters"`
}

// Lag is the most that any sink has still to apply.
func (s Status) Lag() uint64 {
	var lag uint64
	for _, sink := range s.Sinks {
		lag = max(lag, sink.Lag)
	}
	return lag
}

// Status asks for the watermarks.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	return s, err
}

// pollInterval between two looks at the status.
const pollInterval = 20 * time.Millisecond

// WaitDrained waits until every sink has applied the whole log. It returns at
// once if a sink has halted.
func (c *Client) WaitDrained(ctx context.Context) error {
	for {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		for _, sink := range s.Sinks {
			if sink.State == "halted" {
				return fmt.Errorf("sink %s has halted: %s", sink.Name, sink.Error)
			}
		}
		if s.Lag() == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d records are not applied: %w", s.Lag(), context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

// Import logs a line of an export of dead letters, and returns when that is durable.
func (c *Client) Import(ctx context.Context, sink string, line []byte) error {
	body, err := c.do(ctx, http.MethodPost, "/v1/dlq/"+sink+":import", "application/x-ndjson", "", line)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	var a Answer
	if err := json.NewDecoder(body).Decode(&a); err != nil {
		return err
	}
	if a.Error != nil {
		return a.Error
	}
	return nil
}

func notFound(err error) bool {
	var answered *APIError
	return errors.As(err, &answered) && answered.Code == "not_found"
}

// Record reads a counter or register: Client is a Store.
func (c *Client) Record(ctx context.Context, collection, key string) (*Record, error) {
	var doc struct {
		Version uint64 `json:"version"`
		Fields  struct {
			Count, Sum int64
			Token      string
		} `json:"fields"`
	}
	err := c.get(ctx, "/v1/"+collection+"/"+url.PathEscape(key), &doc)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Record{Version: doc.Version, Count: doc.Fields.Count, Sum: doc.Fields.Sum, Token: doc.Fields.Token}, nil
}

// Events reads a whole stream, page by page.
func (c *Client) Events(ctx context.Context, collection, key string) ([]StoredEvent, error) {
	var all []StoredEvent
	for from := uint64(1); from > 0; {
		var page struct {
			Events []struct {
				Number uint64 `json:"number"`
				LSN    uint64 `json:"lsn"`
				Fields struct{ Token string }
			} `json:"events"`
			Next uint64 `json:"next"`
		}
		path := "/v1/" + collection + "/" + url.PathEscape(key) + "/events?limit=100&from=" + strconv.FormatUint(from, 10)
		err := c.get(ctx, path, &page)
		if notFound(err) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		for _, e := range page.Events {
			all = append(all, StoredEvent{Number: e.Number, LSN: e.LSN, Token: e.Fields.Token})
		}
		from = page.Next
	}
	return all, nil
}

// Resume starts a sink that is paused or has halted.
func (c *Client) Resume(ctx context.Context, sink string) error {
	body, err := c.do(ctx, http.MethodPost, "/v1/sinks/"+sink+":resume", "", "", nil)
	if err != nil {
		return err
	}
	return body.Close()
}
