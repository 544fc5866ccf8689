package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/audit"
)

const (
	dialTimeout = 5 * time.Second
	// callTimeout bounds a call whose context has no deadline.
	callTimeout = 30 * time.Second
	// answerBytesMax bounds the answer of a call that is read whole.
	answerBytesMax = 64 << 20
)

// remote is a running server. Calls may be concurrent.
type remote struct {
	api   string // URL without a slash at the end
	admin string // URL likewise; empty: not known
	token string
	tls   *tls.Config // nil: as the system has it
	http  http.Client
}

// newRemote checks the addresses and loads the credentials; it does not connect.
func newRemote(api, admin string, c credentials) (*remote, error) {
	r := &remote{api: strings.TrimRight(api, "/"), admin: strings.TrimRight(admin, "/"), token: c.token}
	u, err := url.Parse(r.api)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--server %q is no address of a server: want http://HOST:PORT or https://HOST:PORT", api)
	}
	secure, err := c.tls()
	if err != nil {
		return nil, err
	}
	r.tls = secure
	r.http.Transport = &http.Transport{
		TLSClientConfig:     secure,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		DisableKeepAlives:   true, // a command makes a few calls, and leaves nothing behind
	}
	return r, nil
}

// remoteError is what a server answered instead of doing it.
type remoteError struct {
	URL    string
	Answer rpc.Error
}

func (e *remoteError) Error() string {
	text := fmt.Sprintf("the server at %s says %d %s: %s", e.URL, e.Answer.Status, e.Answer.Code, e.Answer.Message)
	if e.Answer.Retryable {
		text += " (try again)"
	}
	return text
}

// unreachableError says that a server did not answer.
type unreachableError struct {
	URL string
	Err error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("the server at %s does not answer: %v; whether it did what it was asked is not known if the connection broke meanwhile", e.URL, e.Err)
}

func (e *unreachableError) Unwrap() error { return e.Err }

// call sends in, unless it is nil, as JSON to a path of the API and decodes the
// answer into out, unless that is nil. Without a deadline of ctx it takes 30 s at
// most.
//
// Errors carry exit codes: *remoteError (the server refused, exitUsage for what is
// not there, else exitFailed), *unreachableError (exitFailed).
func (r *remote) call(ctx context.Context, method, path string, in, out any) error {
	return r.exchange(ctx, r.api, method, path, in, out)
}

// callAdmin is call on the admin port.
func (r *remote) callAdmin(ctx context.Context, method, path string, in, out any) error {
	if r.admin == "" {
		return exitWith(exitUsage, errors.New("--server names the API; this needs the admin port, which is known for --data-dir alone"))
	}
	return r.exchange(ctx, r.admin, method, path, in, out)
}

func (r *remote) exchange(ctx context.Context, base, method, path string, in, out any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	answer, err := r.request(ctx, base, method, path, "application/json", body)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // it was read
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytesMax+1))
	switch {
	case err != nil:
		return exitWith(exitFailed, &unreachableError{URL: base, Err: err})
	case len(text) > answerBytesMax:
		return exitWith(exitFailed, fmt.Errorf("the answer of %s%s is longer than %d bytes", base, path, answerBytesMax))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return exitWith(exitFailed, fmt.Errorf("the answer of %s%s cannot be read: %w", base, path, err))
	}
	return nil
}

// stream sends body, which may be nil, to a path of the API and returns the answer,
// whose body the caller reads and closes. Only ctx bounds it. Errors are call's; an
// answer of 300 or above is one.
func (r *remote) stream(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	return r.request(ctx, r.api, method, path, contentType, body)
}

func (r *remote) request(ctx context.Context, base, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set(rpc.ActorHeader, audit.Who())
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	answer, err := r.http.Do(req)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err // the address is said once
		}
		return nil, exitWith(exitFailed, &unreachableError{URL: base, Err: err})
	}
	if answer.StatusCode < 300 {
		return answer, nil
	}
	defer func() { _ = answer.Body.Close() }() // of an error
	return nil, refusal(base+path, answer)
}

// refusal is the error that an answer says.
func refusal(address string, answer *http.Response) error {
	e := &remoteError{URL: address}
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil || json.Unmarshal(text, &e.Answer) != nil || e.Answer.Code == "" {
		return exitWith(exitFailed, fmt.Errorf("%s answered %s and not what an API of walproxy says: is the address right?", address, answer.Status))
	}
	code := exitFailed
	if answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusBadRequest {
		code = exitUsage
	}
	return exitWith(code, e)
}
