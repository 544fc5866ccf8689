package aerowire

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/mutation"
)

// A record is stored as a document whose fields are its bins. What the log's
// values can say is stored as that: integers, finite floats, booleans, UTF-8
// strings and blobs. Everything else is a map with one field, particleField, that
// holds the particle's type and content. One more field, whose name is longer
// than a bin's can be, holds what a record has beside bins:
//
//	recordField  bytes: format 1, uvarint generation, uvarint ms since 1970 of the
//	             last write, then the user's key: particle type and content, or
//	             nothing
const (
	particleField = "$aerospike"
	recordField   = "$aerospike.record"
	recordFormat  = 1
)

// generationMax is the last generation before 1 comes again.
const generationMax = 65535

// epoch is where expiry on the wire counts from.
var epoch = time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)

// errStored: a record holds what this version cannot read.
var errStored = errors.New("aerowire: unreadable record")

// bin is one of a record's.
type bin struct {
	name     string
	particle value.Particle
}

// record is a record as clients see it. Its bins are sorted by name.
type record struct {
	bins       []bin
	generation uint32
	updated    time.Time
	expires    time.Time // zero: never
	key        value.Particle
	// beside are the fields of blind writes, which are in generation, updated and key
	// already.
	beside []string
	stored map[string]*walproxyv1.Value // the document's fields; nil: a new record
	grown  int                          // bytes that set and remove have added
}

// fromDocument reads a stored record; nil stays nil.
func fromDocument(d *mutation.Document) (*record, error) {
	if d == nil {
		return nil, nil
	}
	r := &record{generation: 1, expires: d.ExpiresAt, bins: make([]bin, 0, len(d.Fields)), stored: d.Fields}
	if !r.expires.Before(endless) {
		r.expires = time.Time{}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Fields)) {
		switch name {
		case recordField:
			if err := r.parse(d.Fields[name].GetBytes()); err != nil {
				return nil, err
			}
			continue
		case blindField, updatedField, keyField:
			r.beside = append(r.beside, name)
			continue
		}
		p, err := fromValue(d.Fields[name])
		if err != nil {
			return nil, err
		}
		if p.Type != value.ParticleNull {
			r.bins = append(r.bins, bin{name, p})
		}
	}
	r.countBlind(d.Fields)
	return r, nil
}

// countBlind takes over what blind writes left: they are all later than what the
// record field says.
func (r *record) countBlind(fields map[string]*walproxyv1.Value) {
	if n := fields[blindField].GetInt64(); n > 0 {
		r.generation = uint32((int64(r.generation)-1+n%generationMax)%generationMax) + 1
	}
	if ms := fields[updatedField].GetInt64(); ms > 0 {
		r.updated = time.UnixMilli(ms)
	}
	if key := fields[keyField].GetBytes(); len(key) > 0 && !r.hasKey() {
		r.key = value.Particle{Type: key[0], Data: key[1:]}
	}
}

func (r *record) parse(b []byte) error {
	if len(b) == 0 || b[0] != recordFormat {
		return errStored
	}
	generation, n := binary.Uvarint(b[1:])
	if n <= 0 || generation == 0 || generation > generationMax {
		return errStored
	}
	b = b[1+n:]
	updated, n := binary.Uvarint(b)
	if n <= 0 || updated > math.MaxInt64 {
		return errStored
	}
	r.generation, r.updated = uint32(generation), time.UnixMilli(int64(updated))
	if b = b[n:]; len(b) > 0 {
		r.key = value.Particle{Type: b[0], Data: b[1:]}
	}
	return nil
}

// encode returns the content of recordField.
func (r *record) encode() *walproxyv1.Value {
	b := binary.AppendUvarint([]byte{recordFormat}, uint64(r.generation))
	b = binary.AppendUvarint(b, uint64(max(0, r.updated.UnixMilli())))
	if r.hasKey() {
		b = append(append(b, r.key.Type), r.key.Data...)
	}
	return mutation.BytesValue(b)
}

func (r *record) hasKey() bool { return r.key.Type != value.ParticleNull }

// voidTime is when r ends, in seconds since 2010 as the wire has it; 0: never.
func (r *record) voidTime() uint32 {
	if r == nil || r.expires.IsZero() {
		return 0
	}
	seconds := r.expires.Unix() - epoch.Unix() - 1
	return uint32(min(max(seconds, 1), math.MaxUint32))
}

// expiry is the inverse of voidTime: a record lives through the second that the
// wire names.
func expiry(now time.Time, ttl uint32) time.Time {
	return time.Unix(now.Unix()+int64(ttl)+1, 0).UTC()
}

// find returns the position of a bin, or where it would be.
func (r *record) find(name string) (at int, ok bool) {
	return slices.BinarySearchFunc(r.bins, name, func(b bin, name string) int {
		switch {
		case b.name < name:
			return -1
		case b.name > name:
			return 1
		}
		return 0
	})
}

func (r *record) get(name string) (value.Particle, bool) {
	at, ok := r.find(name)
	if !ok {
		return value.Particle{}, false
	}
	return r.bins[at].particle, true
}

func (r *record) set(name string, p value.Particle) {
	at, ok := r.find(name)
	r.grown += len(p.Data)
	if ok {
		r.grown -= len(r.bins[at].particle.Data)
		r.bins[at].particle = p
	} else {
		r.bins = slices.Insert(r.bins, at, bin{name, p})
	}
}

func (r *record) remove(name string) {
	if at, ok := r.find(name); ok {
		r.grown -= len(r.bins[at].particle.Data)
		r.bins = slices.Delete(r.bins, at, at+1)
	}
}

// size is about what r takes on the wire.
func (r *record) size() int {
	n := codec.HeaderBytes + len(r.key.Data)
	for _, b := range r.bins {
		n += 8 + len(b.name) + len(b.particle.Data)
	}
	return n
}

// toValue returns the stored form of a particle.
func toValue(p value.Particle) *walproxyv1.Value {
	switch p.Type {
	case value.ParticleInteger:
		return mutation.Int64Value(int64(binary.BigEndian.Uint64(p.Data)))
	case value.ParticleFloat:
		if f := math.Float64frombits(binary.BigEndian.Uint64(p.Data)); value.IsFinite(f) {
			return mutation.DoubleValue(f)
		}
	case value.ParticleBool:
		return mutation.BoolValue(p.Data[0] != 0)
	case value.ParticleString:
		if utf8.Valid(p.Data) {
			return mutation.StringValue(string(p.Data))
		}
	case value.ParticleBlob:
		return mutation.BytesValue(slices.Clone(p.Data))
	}
	content := append(append(make([]byte, 0, 1+len(p.Data)), p.Type), p.Data...)
	return mutation.MapValue(map[string]*walproxyv1.Value{particleField: mutation.BytesValue(content)})
}

// fromValue returns the particle of a stored value, which may have been written
// otherwise than through here.
func fromValue(v *walproxyv1.Value) (value.Particle, error) {
	if fields := v.GetMap().GetFields(); len(fields) == 1 {
		if content, ok := fields[particleField].GetKind().(*walproxyv1.Value_Bytes); ok {
			if len(content.Bytes) == 0 {
				return value.Particle{}, errStored
			}
			return value.Particle{Type: content.Bytes[0], Data: content.Bytes[1:]}, nil
		}
	}
	if b, ok := v.GetKind().(*walproxyv1.Value_Bytes); ok {
		return value.Particle{Type: value.ParticleBlob, Data: b.Bytes}, nil
	}
	out, err := convert(v)
	if err != nil {
		return value.Particle{}, err
	}
	return out.Particle(), nil
}

// convert makes a value of the API one of Aerospike's; decimals and times become
// their text.
func convert(v *walproxyv1.Value) (value.Value, error) {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Null:
		return value.Value{}, nil
	case *walproxyv1.Value_Bool:
		return value.OfBool(k.Bool), nil
	case *walproxyv1.Value_Int64:
		return value.OfInt(k.Int64), nil
	case *walproxyv1.Value_Double:
		return value.OfDouble(k.Double), nil
	case *walproxyv1.Value_Decimal:
		return value.OfString(k.Decimal), nil
	case *walproxyv1.Value_String_:
		return value.OfString(k.String_), nil
	case *walproxyv1.Value_Bytes:
		return value.OfBytes(k.Bytes), nil
	case *walproxyv1.Value_Timestamp:
		return value.OfString(k.Timestamp.AsTime().Format(time.RFC3339Nano)), nil
	case *walproxyv1.Value_List_:
		items := make([]value.Value, 0, len(k.List.GetValues()))
		for _, item := range k.List.GetValues() {
			out, err := convert(item)
			if err != nil {
				return out, err
			}
			items = append(items, out)
		}
		return value.OfList(items, value.Unordered), nil
	case *walproxyv1.Value_Map_:
		pairs := make([]value.Pair, 0, len(k.Map.GetFields()))
		for _, name := range slices.Sorted(maps.Keys(k.Map.GetFields())) {
			out, err := convert(k.Map.Fields[name])
			if err != nil {
				return out, err
			}
			pairs = append(pairs, value.Pair{Key: value.OfString(name), Value: out})
		}
		return value.OfMap(pairs, value.Unordered), nil
	}
	return value.Value{}, errStored
}
