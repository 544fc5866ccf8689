package mutation

// Limits that Validate holds every write to. They bound what a single write can
// make a lock table, a sink or a reader of the log hold in memory; the log's own
// bound on a record's size comes on top.
const (
	// MaxCollectionBytes is the longest collection name.
	MaxCollectionBytes = 255
	// MaxKeyBytes is the largest key: the bytes of a string or bytes key, 8 for
	// an int64, the sum of its parts for a composite.
	MaxKeyBytes = 1024
	// MaxKeyParts is how many parts a composite key has at most.
	MaxKeyParts = 16
	// MaxOps is how many ops a mutation has at most.
	MaxOps = 64
	// MaxFields is how many fields one op, event or map names at most.
	MaxFields = 4096
	// MaxFieldNameBytes is the longest field name.
	MaxFieldNameBytes = 255
	// MaxDepth is how deep lists and maps nest in a value; a plain value is 0 deep.
	MaxDepth = 32
	// MaxEvents is how many events one mutation appends at most.
	MaxEvents = 4096
	// MaxMembers is how many members a group has at most.
	MaxMembers = 4096
	// MaxRequestIDBytes is the longest request id.
	MaxRequestIDBytes = 255
	// MaxPrincipalBytes is the longest principal.
	MaxPrincipalBytes = 255
	// MaxSettings is how many settings a statement has at most.
	MaxSettings = 16
	// MaxParameters is how many parameters a statement has at most: as PostgreSQL.
	MaxParameters = 65_535
	// MaxDecimalBytes is the longest text of a decimal.
	MaxDecimalBytes = 1024
	// MaxDecimalExponent bounds a decimal's exponent, so that exact arithmetic
	// on a few bytes of text cannot ask for gigabytes of digits.
	MaxDecimalExponent = 1000
	// MaxDocumentBytes is the largest stored form of a document. Ops that grow
	// a record past it are rejected.
	MaxDocumentBytes = 32 << 20
)

// reserved are the collection names that the REST paths need for themselves.
var reserved = map[string]bool{"writes": true, "status": true, "mutations": true, "dlq": true}
