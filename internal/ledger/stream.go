package ledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/mutation"
)

// newStreaming is the Go client of wherever c's API is at the time.
func newStreaming(c *Client) *client.Client {
	made, err := client.New("http://localhost", client.Options{
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			base := c.base.Load()
			if base == nil {
				return nil, &net.OpError{Op: "dial", Net: network, Err: ErrNotSent}
			}
			return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(*base, "http://"))
		},
	})
	if err != nil {
		panic(err) // of a constant
	}
	return made
}

// streamed sends the writes by a stream of their own.
func (c *Client) streamed(ctx context.Context, writes []Write) ([]Answer, []error) {
	answers, errs := make([]Answer, len(writes)), make([]error, len(writes))
	mutations := make([]*walproxyv1.Mutation, len(writes))
	for i, w := range writes {
		m, err := w.mutation()
		if err != nil {
			panic(fmt.Sprintf("ledger: %+v: %v", w, err)) // its own
		}
		mutations[i] = m
	}
	s := c.api.Stream(client.StreamOptions{})
	sent, err := s.Send(ctx, mutations...)
	_ = s.Close(ctx) // the outcomes say it
	if err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return answers, errs
	}
	<-sent.Done() // closed with the stream
	outcomes, err := sent.Wait(context.WithoutCancel(ctx))
	if err != nil {
		panic(err) // it is done
	}
	for i, o := range outcomes {
		answers[i] = Answer{LSN: o.LSN, Repeat: o.Repeat}
		errs[i] = answeredBy(o.Err)
	}
	return answers, errs
}

// answeredBy is err as the REST API would say it.
func answeredBy(err error) error {
	failed, ok := errors.AsType[*client.Error](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, client.ErrUnknownOutcome):
		return errors.Join(errUnknown, failed.Err)
	case failed.Retryable || failed.Err != nil:
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return &APIError{Status: 400, Code: failed.Code, Message: failed.Message, Field: failed.Field}
}

// mutation is the write as the proxy gets it.
func (w Write) mutation() (*walproxyv1.Mutation, error) {
	key, id := mutation.String(w.Key), mutation.WithRequestID(w.Token)
	fields := map[string]any{"token": w.Token}
	if w.Pad > 0 {
		fields["pad"] = strings.Repeat("x", w.Pad)
	}
	switch w.Kind {
	case Increment:
		return mutation.Increment(w.Kind.Collection(), key, map[string]any{"count": 1, "sum": w.Delta}, id)
	case Event:
		return mutation.AppendEvents(w.Kind.Collection(), key, []map[string]any{fields}, id)
	}
	return mutation.Set(w.Kind.Collection(), key, fields, id)
}

var errUnknown = errors.New("ledger: the client does not know the outcome")
