package mutation

import (
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// CONTRACT STUBS: replaced by the real thing.

// CanonicalKey returns key in the form that t asks for: 42 and "42" are one key
// or two, never both. It returns *InvalidError for a key that has no such form.
func CanonicalKey(key *walproxyv1.Key, t KeyType) (*walproxyv1.Key, error) { panic("stub") }

// AppendKey appends an encoding of (collection, key) that is unambiguous and
// orders as the collection, then the key: strings and bytes by their bytes,
// int64 by number, composites part by part. A string prefix is a byte prefix of
// the encoding made by AppendKeyPrefix.
func AppendKey(dst []byte, collection string, key *walproxyv1.Key) []byte { panic("stub") }

// AppendKeyPrefix appends the common prefix of AppendKey of all string keys of
// collection that start with prefix.
func AppendKeyPrefix(dst []byte, collection, prefix string) []byte { panic("stub") }

// ParseKey is the inverse of AppendKey.
func ParseKey(enc []byte) (collection string, key *walproxyv1.Key, err error) { panic("stub") }

// Hash is a stable hash of (collection, key): lanes depend on it across versions.
func Hash(collection string, key *walproxyv1.Key) uint64 { panic("stub") }

// Validate checks m against the schema's rules and limits; *InvalidError.
func Validate(m *walproxyv1.Mutation) error { panic("stub") }

// ValidateGroup checks a group and every member.
func ValidateGroup(g *walproxyv1.Group) error { panic("stub") }

// Encode appends the log payload of rec to dst. rec must be valid.
func Encode(dst []byte, rec *walproxyv1.Record) ([]byte, error) { panic("stub") }

// Decode is the inverse of Encode. An unknown format version, kind or op, and
// unknown fields of the schema, are errors: nothing is skipped.
func Decode(payload []byte) (*walproxyv1.Record, error) { panic("stub") }

// Keys calls f for each (collection, key) that rec writes, in member order.
func Keys(rec *walproxyv1.Record, f func(collection string, key *walproxyv1.Key)) { panic("stub") }

// Mutations returns the mutations of rec, one or a group's, or an error if it
// holds another kind (a sink that knows only mutations halts on it).
func Mutations(rec *walproxyv1.Record) ([]*walproxyv1.Mutation, error) { panic("stub") }

// Effect is what a mutation does to a record.
type Effect struct {
	// Document after the write; nil: it does not exist.
	Document *Document
	// Events appended, in order; the first has number FirstEvent.
	Events     []*walproxyv1.Event
	FirstEvent uint64
	// DropEvents: the events there were are removed first.
	DropEvents bool
	// Unchanged: the write did nothing (touch or delete of an absent record).
	Unchanged bool
}

// Apply says what m, accepted at the given time as lsn, does to doc (nil:
// absent). It checks the precondition first. doc is not changed and may share
// values with the effect. A record that expired before accepted is absent.
// Errors are *RejectedError.
func Apply(doc *Document, m *walproxyv1.Mutation, lsn LSN, accepted time.Time) (*Effect, error) {
	panic("stub")
}

// EncodeDocument and DecodeDocument are the stored form of a document.
func EncodeDocument(dst []byte, d *Document) ([]byte, error) { panic("stub") }

// DecodeDocument is the inverse of EncodeDocument.
func DecodeDocument(enc []byte) (*Document, error) { panic("stub") }
