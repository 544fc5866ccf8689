package value

import (
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// Formats of a parameter.
const (
	Text   int16 = 0
	Binary int16 = 1
)

// Datum is a value that was read, in the member that its type uses.
type Datum struct {
	Int      int64   // of integers; of dates (days) and timestamps (microseconds) since 2000, if Timed
	Float    float64 // of floats
	Number   number  // of numerics
	Bool     bool
	Text     string  // of text, varchar, bpchar, json, enums, and of uuid its canonical form
	Bytes    []byte  // of bytea
	Elements []Datum // of arrays
	// Timed: Int is known of a date, timestamp or timestamptz. A timestamptz without
	// a zone depends on the session's.
	Timed bool
}

// reader reads a value of one type. Text is valid UTF-8 already.
type reader struct {
	text   func(t *catalogue.Type, text string) (Datum, Verdict, *Error)
	binary func(t *catalogue.Type, raw []byte) (Datum, Verdict, *Error)
}

// readers by the names of built-in types.
var readers = map[string]reader{
	"bool": {readBool, fixed(1, func(raw []byte) (Datum, Verdict) { return Datum{Bool: raw[0] != 0}, Good })},
	"int2": {readInteger, integerBinary(2)}, "int4": {readInteger, integerBinary(4)}, "int8": {readInteger, integerBinary(8)},
	"float4": {readFloat, fixed(4, float4Binary)}, "float8": {readFloat, fixed(8, float8Binary)},
	"numeric": {readNumeric, numericBinary},
	"text":    {readText, textBinary}, "varchar": {readText, textBinary}, "bpchar": {readText, textBinary},
	"bytea": {readBytea, func(_ *catalogue.Type, raw []byte) (Datum, Verdict, *Error) { return Datum{Bytes: raw}, Good, nil }},
	"uuid":  {readUUID, fixed(16, uuidBinary)},
	"date":  {readDate, fixed(4, dateBinary)}, "time": {readTime, fixed(8, timeBinary)},
	"timestamp": {readTimestamp, fixed(8, timestampBinary)}, "timestamptz": {readTimestamp, fixed(8, timestampBinary)},
	"interval": {readInterval, fixed(16, func([]byte) (Datum, Verdict) { return Datum{}, Good })},
	"json":     {readJSON, jsonBinary}, "jsonb": {readJSON, jsonBinary},
	"inet": {readInet, inetBinary}, "cidr": {readInet, inetBinary},
}

// Input reads a parameter or the text of a literal as PostgreSQL's input functions
// do. raw is not nil; the result may share its memory. path is the session's
// search path, by which messages name types.
func Input(t *catalogue.Type, format int16, raw []byte, path []string) (Datum, Verdict, *Error) {
	if format == Text {
		if err := checkEncoding(raw); err != nil {
			return Datum{}, Bad, err
		}
	} else if format != Binary {
		return Datum{}, Unknown, nil
	}
	return input(t, format, raw, path)
}

func input(t *catalogue.Type, format int16, raw []byte, path []string) (Datum, Verdict, *Error) {
	switch t.Kind {
	case catalogue.DomainType:
		if t.Checked {
			return Datum{}, Unknown, nil
		}
		d, verdict, err := input(t.Base, format, raw, path)
		if verdict != Good {
			return d, verdict, err
		}
		return fit(d, t.Base, t.BaseModifier)
	case catalogue.EnumType:
		return readEnum(t, format, raw, path)
	case catalogue.ArrayType:
		if format == Binary {
			return arrayBinary(t, raw, path)
		}
		return readArray(t, string(raw), path)
	case catalogue.BaseType:
		r, ok := readers[t.Name]
		switch {
		case !ok || t.Schema != "pg_catalog":
		case format == Binary:
			return r.binary(t, raw)
		default:
			return r.text(t, string(raw))
		}
	}
	return Datum{}, Unknown, nil
}

// fixed reads binary values of one size. A value that read finds Bad is out of its
// type's range.
func fixed(size int, read func(raw []byte) (Datum, Verdict)) func(*catalogue.Type, []byte) (Datum, Verdict, *Error) {
	return func(t *catalogue.Type, raw []byte) (Datum, Verdict, *Error) {
		switch {
		case len(raw) == 0 && size == 1:
			return Datum{}, Bad, refuse(codeProtocol, "no data left in message")
		case len(raw) < size:
			return Datum{}, Bad, refuse(codeProtocol, "insufficient data left in message")
		}
		d, verdict := read(raw[:size])
		switch {
		case verdict == Bad:
			return d, Bad, refuse(codeDatetime, "%s out of range", strings.TrimSuffix(t.Name, "tz"))
		case verdict == Good && len(raw) > size:
			return d, Bad, &Error{Code: codeBinary, Message: tooLong}
		}
		return d, verdict, nil
	}
}

// builtin are the types that a parameter can be declared to be of, or cast to.
var builtin = []catalogue.Type{
	{OID: 16, Name: "bool"}, {OID: 17, Name: "bytea"}, {OID: 20, Name: "int8"}, {OID: 21, Name: "int2"}, {OID: 23, Name: "int4"},
	{OID: 25, Name: "text"}, {OID: 114, Name: "json"}, {OID: 650, Name: "cidr"}, {OID: 700, Name: "float4"}, {OID: 701, Name: "float8"},
	{OID: 869, Name: "inet"}, {OID: 1042, Name: "bpchar"}, {OID: 1043, Name: "varchar"}, {OID: 1082, Name: "date"}, {OID: 1083, Name: "time"},
	{OID: 1114, Name: "timestamp"}, {OID: 1184, Name: "timestamptz"}, {OID: 1186, Name: "interval"}, {OID: 1700, Name: "numeric"},
	{OID: 2950, Name: "uuid"}, {OID: 3802, Name: "jsonb"},
}

// arrays of them.
var arrayOIDs = map[string]uint32{"bool": 1000, "bytea": 1001, "int8": 1016, "int2": 1005, "int4": 1007, "text": 1009, "json": 199, "cidr": 651,
	"float4": 1021, "float8": 1022, "inet": 1041, "bpchar": 1014, "varchar": 1015, "date": 1182, "time": 1183, "timestamp": 1115,
	"timestamptz": 1185, "interval": 1187, "numeric": 1231, "uuid": 2951, "jsonb": 3807}

var byOID, byName = indexTypes()

func indexTypes() (map[uint32]*catalogue.Type, map[string]*catalogue.Type) {
	oids, names := map[uint32]*catalogue.Type{}, map[string]*catalogue.Type{}
	for i := range builtin {
		t := &builtin[i]
		t.Schema, t.Display, t.BaseModifier = "pg_catalog", displays[t.Name], -1
		list := &catalogue.Type{OID: arrayOIDs[t.Name], Schema: "pg_catalog", Name: "_" + t.Name, Kind: catalogue.ArrayType, Element: t, BaseModifier: -1}
		oids[t.OID], oids[list.OID] = t, list
		names[t.Name], names[t.Name+"[]"] = t, list
	}
	return oids, names
}

// displays are the types' names in messages.
var displays = map[string]string{"bool": "boolean", "bytea": "bytea", "int8": "bigint", "int2": "smallint", "int4": "integer", "text": "text",
	"json": "json", "cidr": "cidr", "float4": "real", "float8": "double precision", "inet": "inet", "bpchar": "character",
	"varchar": "character varying", "date": "date", "time": "time", "timestamp": "timestamp", "timestamptz": "timestamp with time zone",
	"interval": "interval", "numeric": "numeric", "uuid": "uuid", "jsonb": "jsonb"}

// ByOID returns a built-in type that is known here, or nil.
func ByOID(oid uint32) *catalogue.Type { return byOID[oid] }

// ByName returns one by its name as package statement has it, "int4" or "text[]".
func ByName(name string) *catalogue.Type { return byName[name] }
