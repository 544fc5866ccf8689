package aerowire

import (
	"bytes"
	"slices"
	"strings"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/expression"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/mutation"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Limits of names, in bytes.
const (
	binNameMax = 15
	setNameMax = 63
)

// operation is what a message asks for on one record.
type operation struct {
	*codec.Message
	namespace, set string
	digest         [codec.DigestBytes]byte
	key            value.Particle // sent along to be stored
	rawFilter      []byte         // of its own, parsed when it is done
	filter         *expression.Expression
	filterError    error // of a filter that makes no sense, which counts for records that are there
	filterRoom     int64
	room           int64 // that is reserved
	there          bool  // a function is called on a record that exists only
}

// collectionOf names what holds the records of a set.
func collectionOf(namespace, set string) string {
	if set == "" {
		return namespace
	}
	return namespace + "." + set
}

// splitCollection is the inverse of collectionOf; namespaces have no dots.
func splitCollection(collection string) (namespace, set string) {
	namespace, set, _ = strings.Cut(collection, ".")
	return namespace, set
}

func (o *operation) collection() string { return collectionOf(o.namespace, o.set) }

func (o *operation) documentKey() *walproxyv1.Key { return mutation.Bytes(slices.Clone(o.digest[:])) }

// names reads namespace and set of a message.
func (s *Server) names(m *codec.Message) (namespace, set string, err error) {
	field, ok := m.Field(codec.FieldNamespace)
	if !ok {
		return "", "", codec.NamespaceNotFound
	}
	namespace = string(field)
	if !slices.Contains(s.o.Namespaces, namespace) {
		return "", "", codec.NamespaceNotFound
	}
	field, _ = m.Field(codec.FieldSet)
	if m.Info2&codec.Info2Write != 0 && len(field) > setNameMax || bytes.ContainsAny(field, ":;\x00") {
		return "", "", codec.Parameter
	}
	return namespace, string(field), nil
}

// operation reads a message for one record. digest is nil but for a batch's row.
func (s *Server) operation(m *codec.Message, digest *[codec.DigestBytes]byte) (*operation, error) {
	o := &operation{Message: m}
	var err error
	if o.namespace, o.set, err = s.names(m); err != nil {
		return nil, err
	}
	key, keyed := m.Field(codec.FieldKey)
	if keyed {
		if len(key) < 1 {
			return nil, codec.Parameter
		}
		o.key = value.Particle{Type: key[0], Data: key[1:]}
	}
	sent, ok := m.Field(codec.FieldDigest)
	switch {
	case digest != nil:
		o.digest = *digest
	case ok && len(sent) == codec.DigestBytes:
		copy(o.digest[:], sent)
	case !ok && keyed:
		return nil, codec.Unsupported // no known client leaves the digest to the server
	default:
		return nil, codec.Parameter
	}
	if _, udf := m.Field(codec.FieldUDFPackage); udf && s.o.Store == nil {
		return nil, codec.Unsupported
	}
	if _, transaction := m.Field(codec.FieldTransaction); transaction {
		return nil, codec.Unsupported
	}
	if filter, ok := m.Field(codec.FieldFilter); ok {
		o.rawFilter = filter
	}
	return o, nil
}

// linearized reports whether o asks for a linearized read, which a namespace without
// strong consistency refuses.
func (o *operation) linearized() bool {
	return o.Info1&codec.Info1Read != 0 && o.Info3&(codec.Info3ReadType|codec.Info3ReadRelax) == codec.Info3ReadType
}

// parseFilter parses o's own filter, if it has one.
func (o *operation) parseFilter() error {
	if o.rawFilter == nil || o.filter != nil || o.filterError != nil {
		return nil
	}
	n := value.Room(o.rawFilter)
	if err := o.need(n); err != nil {
		return err
	}
	o.filterRoom = n
	o.filter, o.filterError = expression.Parse(o.rawFilter)
	return nil
}

// forgetFilter is before a wait for room.
func (o *operation) forgetFilter() {
	if o.rawFilter != nil {
		o.filter, o.filterError, o.filterRoom = nil, nil, 0
	}
}

// partitionOf is the number of the partition that a digest belongs to.
func partitionOf(digest []byte) int { return int(digest[0]) | int(digest[1]&0x0f)<<8 }

// partitions is how many there are.
const partitions = 4096

func badBinName(name []byte) bool {
	return len(name) == 0 || len(name) > binNameMax || bytes.IndexByte(name, 0) >= 0
}
