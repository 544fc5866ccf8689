package aerowire

import (
	"context"
	"encoding/binary"
	"math/rand/v2"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// frontScan answers a message that names no record: the cluster is asked once all
// that was acknowledged is applied. Records come as they are sent.
func (s *Server) frontScan(ctx context.Context, m *codec.Message, client string, out *stream) error {
	namespace, set, err := s.names(m)
	if err != nil {
		return out.refuse(resultOf(err))
	}
	if _, udf := m.Field(codec.FieldUDFOp); udf && !background(m) {
		// The server takes no filter for an aggregation: it would count what deletions leave.
		return out.refuse(codec.Unsupported)
	}
	refuse := func(r codec.Result) error {
		if background(m) {
			return out.refuse(r)
		}
		return refuseScan(m, r, out)
	}
	if err := s.o.Store.Away(); err != nil {
		return refuse(codec.Unavailable)
	}
	waiting, cancel := s.patient(ctx)
	err = s.o.Core.SeeAll(waiting, collectionOf(namespace, set))
	cancel()
	if err != nil {
		return refuse(s.late(err))
	}
	if background(m) {
		waiting, cancel := s.patient(ctx)
		defer cancel()
		if err := s.frontJob(waiting, m, namespace, set, client); err != nil {
			return out.refuse(resultOf(err))
		}
		return out.last(codec.OK)
	}
	var broken error // the client's connection
	result, err := s.o.Store.Scan(ctx, m, func(r *codec.Message) error {
		out.frame = codec.AppendMessage(out.frame, r)
		broken = out.full()
		return broken
	})
	switch {
	case broken != nil:
		return broken
	case err != nil:
		return refuse(s.replied(m, nil, err).Result)
	case result != codec.OK:
		return refuse(result)
	}
	return out.last(codec.OK)
}

// frontTruncate logs the deletion of every record that there is in a set or
// namespace, and returns when that is durable: one written meanwhile may be among
// them. The cluster's own truncate would not do: a log that is applied again would
// bring back what it had removed. An error means that an outcome is unknown.
func (s *Server) frontTruncate(ctx context.Context, namespace, set, before string) (string, error) {
	if before != "" && before != "0" {
		return infoFail(codec.Unsupported, "not before a time, in front of a cluster: when a record was applied is not when it was written"), nil
	}
	if err := s.o.Store.Away(); err != nil {
		return infoFail(codec.Unavailable, "the cluster does not answer"), nil
	}
	waiting, cancel := s.patient(ctx)
	err := s.o.Core.SeeAll(waiting, collectionOf(namespace, set))
	cancel()
	if err != nil {
		return infoFail(s.late(err), "not all records are applied"), nil
	}
	t := &truncation{s: s}
	m := &codec.Message{ // as clients send it
		Header: codec.Header{Info1: codec.Info1Read | codec.Info1NoBins, Info3: codec.Info3PartitionDone},
		Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte(namespace)},
			{Type: codec.FieldTaskID, Data: binary.BigEndian.AppendUint64(nil, rand.Uint64())}},
	}
	if set != "" {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldSet, Data: []byte(set)})
	}
	result, err := s.o.Store.Scan(ctx, m, func(r *codec.Message) error { return t.removeScanned(ctx, namespace, r) })
	if lost := t.settle(ctx); lost != nil {
		return "", lost
	}
	if err != nil && !isCore(err) {
		result = s.replied(m, nil, err).Result
	} else if err != nil {
		result = s.told(err)
	}
	if result != codec.OK {
		return infoFail(result, "not all records are truncated"), nil
	}
	return "ok", nil
}

// removeScanned logs the deletion of a record that a scan has found.
func (t *truncation) removeScanned(ctx context.Context, namespace string, r *codec.Message) error {
	digest, ok := r.Field(codec.FieldDigest)
	if !ok || r.Info3&codec.Info3PartitionDone != 0 {
		return nil
	}
	set, _ := r.Field(codec.FieldSet)
	o := &operation{namespace: namespace, set: string(set)}
	if copy(o.digest[:], digest) != len(o.digest) {
		return nil
	}
	pending, err := t.s.o.Core.Append(ctx, o.deletion())
	if err != nil {
		return coreError{err}
	}
	t.pending = append(t.pending, pending)
	if len(t.pending) < truncateWindow {
		return nil
	}
	return t.settle(ctx)
}
