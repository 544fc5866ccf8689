package mutation

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// documentFormat is the first byte of a stored document; the protobuf message
// Document follows.
const documentFormat = 1

// ExpiredAt reports whether d has ended at t.
func (d *Document) ExpiredAt(t time.Time) bool {
	return d != nil && !d.ExpiresAt.IsZero() && !d.ExpiresAt.After(t)
}

// EncodeDocument appends the stored form of d to dst. A document larger than
// MaxDocumentBytes is a *RejectedError: its write can never apply. Other errors
// are ErrEncoding.
func EncodeDocument(dst []byte, d *Document) ([]byte, error) {
	if d == nil {
		return dst, malformed("document", "is missing")
	}
	if err := checkFields(d.Fields); err != nil {
		return dst, err
	}
	out, err := deterministic.MarshalAppend(append(dst, documentFormat), d.Message())
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	if size := len(out) - len(dst); size > MaxDocumentBytes {
		return dst, &RejectedError{"document", fmt.Sprintf("would be %d bytes; at most %d", size, MaxDocumentBytes)}
	}
	return out, nil
}

// Message returns d as one; it shares d's fields.
func (d *Document) Message() *walproxyv1.Document {
	m := &walproxyv1.Document{Version: uint64(d.Version), Fields: d.Fields, EventCount: d.EventCount}
	if !d.ExpiresAt.IsZero() {
		m.ExpiresAt = timestamppb.New(d.ExpiresAt)
	}
	return m
}

// DecodeDocument is the inverse of EncodeDocument; errors are ErrEncoding.
func DecodeDocument(enc []byte) (*Document, error) {
	if len(enc) == 0 || enc[0] != documentFormat {
		return nil, malformed("document", "is not of format %d", documentFormat)
	}
	m := &walproxyv1.Document{}
	if err := proto.Unmarshal(enc[1:], m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	if err := known("document", m); err != nil {
		return nil, err
	}
	if err := checkFields(m.GetFields()); err != nil {
		return nil, err
	}
	if err := checkTimestamp("document.expires_at", m.GetExpiresAt()); err != nil {
		return nil, err
	}
	d := &Document{Version: LSN(m.GetVersion()), Fields: m.GetFields(), EventCount: m.GetEventCount()}
	if m.ExpiresAt != nil {
		d.ExpiresAt = m.ExpiresAt.AsTime()
	}
	return d, nil
}
