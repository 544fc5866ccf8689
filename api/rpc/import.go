package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/dlq"
	"github.com/walproxy/walproxy/mutation"
)

// importFactor is how much larger than a write its line in an export may be: it has
// the write twice, and once in Base64.
const importFactor = 4

// importLetters takes lines of an export, as they came or mended, and answers each, in
// order, as postMutations does.
func (s *Server) importLetters(w http.ResponseWriter, r *http.Request, t target) *Error {
	if _, err := s.core.DeadLetters(t.sink, 1, 1); err != nil {
		return translate(err, reading)
	}
	b, failed := s.newBatch(w, r, importFactor*s.limits.Load().MaxItemBytes)
	if failed != nil {
		return failed
	}
	b.accept = func(ctx context.Context, item []byte) (api.Pending, bool, *Error) {
		in, failed := s.imported(t.sink, item)
		if failed != nil {
			return nil, false, failed
		}
		pending, err := s.core.SubmitImported(ctx, t.sink, in)
		if err != nil {
			return nil, false, translate(err, refused)
		}
		return pending, true, nil
	}
	return b.serve(r)
}

// imported reads one line of an export. What it does not need of it is passed over.
func (s *Server) imported(sink string, item []byte) (in walproxy.ImportedLetter, failed *Error) {
	var line struct {
		Error    json.RawMessage `json:"error"`
		LSN      walproxy.LSN    `json:"lsn"`
		Stream   string          `json:"stream"`
		Sink     string          `json:"sink"`
		Mutation json.RawMessage `json:"mutation"`
		Group    json.RawMessage `json:"group"`
		// Statement is there for one that came over the Postgres wire.
		Statement json.RawMessage `json:"statement"`
		Record    []byte          `json:"record"`
	}
	if err := json.NewDecoder(bytes.NewReader(item)).Decode(&line); err != nil {
		return in, &Error{Status: http.StatusBadRequest, Code: codeInvalid, Message: "want a line of an export: " + err.Error()}
	}
	switch {
	case len(line.Error) > 0:
		return in, invalid("error", "the export ended with it, and is not complete")
	case line.LSN == 0 || line.Stream == "" || line.Sink == "":
		return in, invalid("lsn", "want lsn, sink and stream, which an export has")
	}
	of := &walproxyv1.Record{}
	if len(line.Record) > 0 {
		var err error
		if of, err = mutation.Decode(line.Record); err != nil {
			return in, invalid("record", "%s", err)
		}
	}
	if len(line.Statement) > 0 {
		line.Mutation = dlq.StatementText(line.Statement)
	}
	rec, failed := lineRecord(line.Mutation, line.Group, of)
	if failed != nil {
		return in, failed
	}
	if line.Stream != s.core.Status().Stream {
		rec = named(rec, fmt.Sprintf("dlq/%s/%s/%d", line.Stream, line.Sink, line.LSN))
	} else if line.Sink != sink {
		return in, invalid("sink", "it is a dead letter of sink %s of this log, not of %s", clip(line.Sink), clip(sink))
	}
	return walproxy.ImportedLetter{Stream: line.Stream, LSN: line.LSN, Record: rec}, nil
}

// lineRecord is the write of a line: its mutation or group, which may have been mended,
// or else the record as it was logged.
func lineRecord(one, group json.RawMessage, of *walproxyv1.Record) (*walproxyv1.Record, *Error) {
	text, name := one, "mutation"
	if len(one) == 0 {
		text, name = group, "group"
	}
	switch {
	case len(one) > 0 && len(group) > 0:
		return nil, invalid("group", "stands beside mutation; want one of them")
	case len(text) > 0:
		rec, err := dlq.Parse(text)
		var wrong *dlq.TextError
		if errors.As(err, &wrong) {
			field := strings.TrimSuffix(name+"."+wrong.Field, ".")
			return nil, invalid(field, "%s", wrong.Reason)
		}
		if err != nil {
			return nil, translate(err, refused)
		}
		dlq.KeepRequestID(rec, of)
		return rec, nil
	case of.GetBody() == nil:
		return nil, invalid("mutation", "want mutation, group or record, which an export has")
	}
	return of, nil
}

// named gives rec a request id unless it has one: imported again, it is a repeat.
func named(rec *walproxyv1.Record, id string) *walproxyv1.Record {
	out := &walproxyv1.Record{Body: rec.GetBody()}
	if mutation.RequestID(out) != "" {
		return out
	}
	switch body := out.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		body.Mutation.RequestId = id
	case *walproxyv1.Record_Group:
		body.Group.RequestId = id
	case *walproxyv1.Record_Statement:
		body.Statement.RequestId = id
	case *walproxyv1.Record_Command:
		body.Command.RequestId = id
	}
	return out
}
