package value

import (
	"encoding/binary"
	"math"
)

// Particle types.
const (
	ParticleNull    = 0
	ParticleInteger = 1
	ParticleFloat   = 2
	ParticleString  = 3
	ParticleBlob    = 4
	particleJava    = 7
	particleErlang  = 12
	ParticleBool    = 17
	ParticleHLL     = 18
	ParticleMap     = 19
	ParticleList    = 20
	ParticleGeoJSON = 23
)

// Particle is a value as it stands on the wire, in an op or bin.
type Particle struct {
	Type byte
	Data []byte
}

// IsBlob reports whether a particle type is bytes without a meaning here.
func IsBlob(kind byte) bool {
	return kind == ParticleBlob || kind >= particleJava && kind <= particleErlang
}

// Value decodes p. An unknown type, or data that does not fit it, is ErrMalformed.
func (p Particle) Value() (Value, error) {
	switch {
	case p.Type == ParticleNull:
		return Value{}, nil
	case p.Type == ParticleInteger:
		return decodeInteger(p.Data)
	case p.Type == ParticleFloat:
		if len(p.Data) != 8 {
			return Value{}, malformed("float of %d bytes", len(p.Data))
		}
		return Value{kind: Double, num: binary.BigEndian.Uint64(p.Data)}, nil
	case p.Type == ParticleBool:
		if len(p.Data) != 1 || p.Data[0] > 1 {
			return Value{}, malformed("bool of %d bytes", len(p.Data))
		}
		return OfBool(p.Data[0] == 1), nil
	case p.Type == ParticleString:
		return OfString(string(p.Data)), nil
	case IsBlob(p.Type), p.Type == ParticleHLL:
		return Value{kind: Bytes, sub: p.Type, text: string(p.Data)}, nil
	case p.Type == ParticleGeoJSON:
		return decodeGeoJSON(p.Data)
	case p.Type == ParticleList, p.Type == ParticleMap:
		return decodeContainer(p)
	}
	return Value{}, malformed("particle type %d", p.Type)
}

// decodeInteger: shorter ones are unsigned.
func decodeInteger(b []byte) (Value, error) {
	switch len(b) {
	case 8:
		return OfInt(int64(binary.BigEndian.Uint64(b))), nil
	case 4:
		return OfInt(int64(binary.BigEndian.Uint32(b))), nil
	case 2:
		return OfInt(int64(binary.BigEndian.Uint16(b))), nil
	case 1:
		return OfInt(int64(b[0])), nil
	}
	return Value{}, malformed("integer of %d bytes", len(b))
}

// decodeGeoJSON: a byte of flags, a number of cells, the cells, the text.
func decodeGeoJSON(b []byte) (Value, error) {
	if len(b) < 3 {
		return Value{}, malformed("GeoJSON of %d bytes", len(b))
	}
	cells := 8 * int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < 3+cells {
		return Value{}, malformed("GeoJSON of %d bytes with %d of cells", len(b), cells)
	}
	return Value{kind: GeoJSON, text: string(b[3+cells:])}, nil
}

func decodeContainer(p Particle) (Value, error) {
	v, err := Decode(p.Data)
	if err != nil {
		return Value{}, err
	}
	if p.Type == ParticleList && v.kind != List || p.Type == ParticleMap && v.kind != Map {
		return Value{}, malformed("particle type %d holds another type", p.Type)
	}
	if !v.Storable() {
		return Value{}, malformed("a wildcard or infinity is no value")
	}
	return v, nil
}

// Particle encodes v, which is Storable.
func (v Value) Particle() Particle {
	switch v.kind {
	case Int, NegInt:
		return Particle{ParticleInteger, binary.BigEndian.AppendUint64(nil, v.num)}
	case Double:
		return Particle{ParticleFloat, binary.BigEndian.AppendUint64(nil, v.num)}
	case True:
		return Particle{ParticleBool, []byte{1}}
	case False:
		return Particle{ParticleBool, []byte{0}}
	case String:
		return Particle{ParticleString, []byte(v.text)}
	case Bytes:
		if !IsBlob(v.sub) && v.sub != ParticleHLL { // text without a particle type, as names are: all of it
			raw, _ := v.Raw()
			return Particle{ParticleBlob, []byte(raw)}
		}
		return Particle{v.sub, []byte(v.text)}
	case GeoJSON:
		return Particle{ParticleGeoJSON, append([]byte{0, 0, 0}, v.text...)}
	case List:
		return Particle{ParticleList, Append(nil, v)}
	case Map:
		return Particle{ParticleMap, Append(nil, v)}
	}
	return Particle{Type: ParticleNull}
}

// Canonical checks p and returns it in the form that is stored: integers of 8
// bytes, maps sorted by key.
func (p Particle) Canonical() (Particle, error) {
	switch {
	case p.Type == ParticleString, IsBlob(p.Type), p.Type == ParticleHLL:
		return p, nil
	}
	v, err := p.Value()
	if err == nil && p.Type == ParticleGeoJSON {
		err = checkGeoJSON(v.text)
	}
	if err != nil {
		return Particle{}, err
	}
	return v.Particle(), nil
}

// IsHLL reports whether v is a HyperLogLog.
func (v Value) IsHLL() bool { return v.kind == Bytes && v.sub == ParticleHLL }

// IsFinite reports whether a double has a plain number.
func IsFinite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
