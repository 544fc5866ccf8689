package codec

import "fmt"

// Result is a result code of the protocol; it is an error but for OK.
type Result byte

// Result codes that this endpoint answers with (proto.h of the server).
const (
	OK                Result = 0
	Unknown           Result = 1 // also: the outcome of a write is not known
	NotFound          Result = 2
	Generation        Result = 3
	Parameter         Result = 4
	RecordExists      Result = 5
	BinExists         Result = 6
	OutOfSpace        Result = 8
	Timeout           Result = 9
	Unavailable       Result = 11
	IncompatibleType  Result = 12
	RecordTooBig      Result = 13
	KeyBusy           Result = 14
	QueryAborted      Result = 15
	Unsupported       Result = 16
	BinNotFound       Result = 17
	DeviceOverload    Result = 18
	KeyMismatch       Result = 19
	NamespaceNotFound Result = 20
	BinName           Result = 21
	Forbidden         Result = 22
	ElementNotFound   Result = 23
	ElementExists     Result = 24
	EnterpriseOnly    Result = 25
	NotApplicable     Result = 26
	FilteredOut       Result = 27
	SecurityNone      Result = 51
	BatchTooLarge     Result = 151
	InvalidGeoJSON    Result = 160
	IndexFound        Result = 200
	IndexNotFound     Result = 201
)

var resultNames = map[Result]string{
	OK: "ok", Unknown: "unknown", NotFound: "not found", Generation: "generation", Parameter: "parameter",
	RecordExists: "record exists", BinExists: "bin exists", OutOfSpace: "out of space", Timeout: "timeout",
	Unavailable: "unavailable", IncompatibleType: "incompatible type", RecordTooBig: "record too big",
	KeyBusy: "key busy", QueryAborted: "query aborted", Unsupported: "unsupported feature",
	BinNotFound: "bin not found", DeviceOverload: "device overload", KeyMismatch: "key mismatch",
	NamespaceNotFound: "no such namespace", BinName: "bin name", Forbidden: "forbidden",
	ElementNotFound: "element not found", ElementExists: "element exists", EnterpriseOnly: "enterprise only",
	NotApplicable: "operation not applicable", FilteredOut: "filtered out",
	SecurityNone: "security not supported", BatchTooLarge: "batch too large", InvalidGeoJSON: "invalid GeoJSON",
	IndexFound: "index exists", IndexNotFound: "no such index",
}

// Name of r; ok: it is one that this endpoint knows.
func (r Result) Name() (name string, ok bool) {
	name, ok = resultNames[r]
	return name, ok
}

// Error implements error.
func (r Result) Error() string {
	if name, ok := resultNames[r]; ok {
		return "aerowire: " + name
	}
	return fmt.Sprintf("aerowire: result %d", byte(r))
}
