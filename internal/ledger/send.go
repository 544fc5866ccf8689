package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// Form in which writes are sent.
type Form int

const (
	// Single sends each write alone, by PUT or POST.
	Single Form = iota
	// Array sends a JSON array to /v1/mutations.
	Array
	// Lines sends NDJSON there.
	Lines
	// Streamed sends them by the Go client's stream, which tries again by itself.
	Streamed
	forms
)

// Send sends the writes and returns what is known of each: its answer, or an
// error of which Refused tells whether it surely was not written. Single takes
// one write.
func (c *Client) Send(ctx context.Context, form Form, writes []Write) ([]Answer, []error) {
	answers, errs := make([]Answer, len(writes)), make([]error, len(writes))
	if form == Streamed {
		return c.streamed(ctx, writes)
	}
	var err error
	answered := 0
	if form == Single {
		answered, err = c.single(ctx, writes[0], &answers[0])
	} else {
		answered, err = c.batch(ctx, form, writes, answers)
	}
	for i := range writes {
		switch {
		case i >= answered:
			errs[i] = err
		case answers[i].Error != nil:
			errs[i] = answers[i].Error
		}
	}
	return answers, errs
}

func (c *Client) single(ctx context.Context, w Write, answer *Answer) (answered int, err error) {
	path, method := "/v1/"+w.Kind.Collection()+"/"+url.PathEscape(w.Key), http.MethodPost
	var body []byte
	switch w.Kind {
	case Increment:
		path, body = path+":increment", w.appendFields(nil)
	case Event:
		path, body = path+"/events", append(w.appendFields([]byte(`{"events":[`)), "]}"...)
	default:
		method, body = http.MethodPut, w.appendFields(nil)
	}
	reply, err := c.do(ctx, method, path, "application/json", w.Token, body)
	if err != nil {
		return 0, err
	}
	defer func() { _ = reply.Close() }()
	if err := decodeAnswer(json.NewDecoder(reply), answer); err != nil {
		return 0, err
	}
	return 1, nil
}

func (c *Client) batch(ctx context.Context, form Form, writes []Write, answers []Answer) (answered int, err error) {
	kind, body, between, end := "application/json", []byte{'['}, byte(','), "]"
	if form == Lines {
		kind, body, between, end = "application/x-ndjson", nil, '\n', "\n"
	}
	for i, w := range writes {
		if i > 0 {
			body = append(body, between)
		}
		body = w.appendMutation(body)
	}
	reply, err := c.do(ctx, http.MethodPost, "/v1/mutations", kind, "", append(body, end...))
	if err != nil {
		return 0, err
	}
	defer func() { _ = reply.Close() }()
	in := json.NewDecoder(reply)
	if form == Array {
		if _, err := in.Token(); err != nil {
			return 0, cutShort(err)
		}
	}
	for i := range answers {
		// An answer that arrived is known, even if the connection ends behind it.
		if err := decodeAnswer(in, &answers[i]); err != nil {
			return i, err
		}
	}
	_, err = io.Copy(io.Discard, reply) // so that the connection can be used again
	return len(answers), err
}

func decodeAnswer(in *json.Decoder, answer *Answer) error {
	if err := in.Decode(answer); err != nil {
		return cutShort(err)
	}
	if answer.Error == nil && answer.LSN == 0 {
		return errors.New("ledger: an answer has neither an LSN nor an error")
	}
	return nil
}

func cutShort(err error) error { return fmt.Errorf("the answer ended early: %w", err) }

// appendFields writes the fields of the op.
func (w Write) appendFields(dst []byte) []byte {
	if w.Kind == Increment {
		dst = append(dst, `{"count":1,"sum":`...)
		return append(strconv.AppendInt(dst, w.Delta, 10), '}')
	}
	dst = strconv.AppendQuote(append(dst, `{"token":`...), w.Token)
	if w.Pad > 0 {
		dst = append(dst, `,"pad":"`...)
		dst = append(append(dst, bytes.Repeat([]byte{'x'}, w.Pad)...), '"')
	}
	return append(dst, '}')
}

// appendMutation writes a member of /v1/mutations. Keys and tokens are plain ASCII.
func (w Write) appendMutation(dst []byte) []byte {
	dst = strconv.AppendQuote(append(dst, `{"collection":`...), w.Kind.Collection())
	dst = strconv.AppendQuote(append(dst, `,"key":`...), w.Key)
	dst = strconv.AppendQuote(append(dst, `,"request_id":`...), w.Token)
	switch w.Kind {
	case Increment:
		dst = w.appendFields(append(dst, `,"increment":`...))
	case Event:
		dst = append(w.appendFields(append(dst, `,"append_event":[`...)), ']')
	default:
		dst = w.appendFields(append(dst, `,"set":`...))
	}
	return append(dst, '}')
}
