package rpc

// operation is one call of the REST API, as /openapi.json tells it. A test holds the
// list to what is served and to docs/rest.md.
type operation struct {
	method, path, id, summary string
	query                     []string // names of parameters
	headers                   []string // of writes
	body, answer              string   // names of schemas; "": none
	lines                     bool     // body and answer may be NDJSON
	later                     bool     // 202 as well
}

var (
	writeQuery   = []string{"ack", "timeout", "ttl", "expires_at"}
	writeHeaders = []string{"Idempotency-Key", "If-Match", "If-None-Match"}
	filterQuery  = []string{"collection", "key", "code", "state", "since", "until", "to"}
)

func recordWrite(method, path, id, summary, body string) operation {
	return operation{method: method, path: path, id: id, summary: summary, query: writeQuery, headers: writeHeaders,
		body: body, answer: "Written", later: true}
}

var operations = []operation{
	{method: "GET", path: "/v1/{collection}", id: "listRecords", summary: "Records in the order of their keys",
		query: []string{"prefix", "limit", "page_token", "consistency", "timeout"}, answer: "Records"},
	{method: "GET", path: "/v1/{collection}/{key}", id: "getRecord", summary: "A record",
		query: []string{"consistency", "timeout"}, answer: "Record"},
	recordWrite("PUT", "/v1/{collection}/{key}", "putRecord", "Replace a record", "Fields"),
	recordWrite("PATCH", "/v1/{collection}/{key}", "patchRecord", "Set these fields, keep the others", "Fields"),
	recordWrite("DELETE", "/v1/{collection}/{key}", "deleteRecord", "Remove a record and its events", ""),
	recordWrite("POST", "/v1/{collection}/{key}:unset", "unsetFields", "Remove fields", "Names"),
	recordWrite("POST", "/v1/{collection}/{key}:increment", "incrementFields", "Add numbers", "Fields"),
	recordWrite("POST", "/v1/{collection}/{key}:append", "appendFields", "Add to the end of strings, bytes, lists", "Fields"),
	recordWrite("POST", "/v1/{collection}/{key}:prepend", "prependFields", "Add to the front of strings, bytes, lists", "Fields"),
	recordWrite("POST", "/v1/{collection}/{key}:touch", "touchRecord", "Give an existing record a new version and expiry", ""),
	{method: "GET", path: "/v1/{collection}/{key}/events", id: "getEvents", summary: "Events of a record's stream",
		query: []string{"from", "limit", "consistency", "timeout"}, answer: "Events"},
	recordWrite("POST", "/v1/{collection}/{key}/events", "appendEvents", "Append to the record's event stream", "NewEvents"),
	{method: "POST", path: "/v1/mutations", id: "writeMutations", summary: "Many writes, one answer each",
		query: []string{"ack", "timeout"}, body: "Mutations", answer: "ItemAnswers", lines: true},
	{method: "GET", path: "/v1/writes/{lsn}", id: "getWrite", summary: "How far a write has come", answer: "WriteState"},
	{method: "GET", path: "/v1/dlq/{sink}", id: "listDeadLetters", summary: "A sink's dead letters, as a page or as NDJSON with all of them",
		query: append([]string{"from", "limit", "format"}, filterQuery...), answer: "Object"},
	{method: "GET", path: "/v1/dlq/{sink}/{lsn}", id: "getDeadLetter", summary: "A dead letter with its write", answer: "Object"},
	{method: "DELETE", path: "/v1/dlq/{sink}/{lsn}", id: "discardDeadLetter", summary: "Give a dead letter up", answer: "Object"},
	{method: "POST", path: "/v1/dlq/{sink}/{lsn}:retry", id: "retryDeadLetter", summary: "Log it, and its key's queue, again",
		query: []string{"ack", "timeout"}, answer: "Object", later: true},
	{method: "POST", path: "/v1/dlq/{sink}/{lsn}:edit", id: "editDeadLetter", summary: "The same, with this write in its place",
		query: []string{"ack", "timeout"}, body: "Edit", answer: "Object", later: true},
	{method: "POST", path: "/v1/dlq/{sink}:retry", id: "retryDeadLetters", summary: "Several at once",
		query: []string{"ack", "timeout"}, body: "LSNs", answer: "Object", later: true},
	{method: "POST", path: "/v1/dlq/{sink}:discard", id: "discardDeadLetters", summary: "Give several up", body: "LSNs", answer: "Object"},
	{method: "POST", path: "/v1/dlq/{sink}:import", id: "importDeadLetters", summary: "Log the lines of an export",
		query: []string{"ack", "timeout"}, body: "Lines", answer: "ItemAnswers", lines: true},
	{method: "GET", path: "/v1/sinks", id: "listSinks", summary: "The sinks, as in the status", answer: "Object"},
	{method: "POST", path: "/v1/sinks/{sink}:pause", id: "pauseSink", summary: "Its writes stay in the log from now on",
		query: []string{"timeout"}, answer: "Object", later: true},
	{method: "POST", path: "/v1/sinks/{sink}:resume", id: "resumeSink", summary: "Undo that; start a halted sink again",
		query: []string{"timeout"}, answer: "Object"},
	{method: "GET", path: "/v1/sinks/{sink}:accept", id: "planAccept", summary: "What it would mean to go on with a refused sink",
		query: []string{"after", "timeout"}, answer: "Object"},
	{method: "POST", path: "/v1/sinks/{sink}:accept", id: "acceptSink", summary: "Go on with it, as it was shown",
		query: []string{"after", "token", "timeout"}, answer: "Object"},
	{method: "POST", path: "/v1/backup", id: "backup", summary: "A copy of log, state and embedded stores, as a tar stream",
		query: []string{"rate"}, answer: "Tar"},
	{method: "POST", path: "/v1/drain", id: "drain", summary: "Take no new writes", query: []string{"timeout"}, answer: "Draining", later: true},
	{method: "DELETE", path: "/v1/drain", id: "undrain", summary: "Take writes again", query: []string{"timeout"}, answer: "Draining"},
	{method: "GET", path: "/v1/status", id: "getStatus", summary: "Log and sinks", answer: "Object"},
	{method: "GET", path: "/openapi.json", id: "getOpenAPI", summary: "This document", answer: "Object"},
}

// parameters are those of paths, queries and headers: schema and description.
var parameters = map[string]struct {
	schema object
	text   string
}{
	"collection":      {object{"type": "string", "maxLength": 255}, "A table, set or prefix; in a path percent-encoded."},
	"key":             {object{"type": "string"}, "In a path percent-encoded, colons and slashes too; of a composite key: its JSON."},
	"lsn":             {object{"type": "integer", "minimum": 1}, "A write's place in the log."},
	"sink":            {object{"type": "string"}, "The sink's name."},
	"prefix":          {object{"type": "string"}, "Only string keys that begin with it."},
	"limit":           {object{"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "At most so many."},
	"page_token":      {object{"type": "string"}, "next_page_token of the page before."},
	"from":            {object{"type": "integer", "minimum": 1, "default": 1}, "The first; next of the page before."},
	"consistency":     {object{"type": "string", "enum": []string{"latest", "applied"}, "default": "latest"}, "latest: with every write that was acknowledged; applied: what the sink has now."},
	"ack":             {object{"type": "string", "enum": []string{"logged", "applied"}, "default": "logged"}, "What the answer waits for."},
	"timeout":         {object{"type": "string", "default": "30s"}, "How long to wait, as 500ms or 30s; at most 10m."},
	"ttl":             {object{"type": "string"}, "End the record so long after the arrival."},
	"expires_at":      {object{"type": "string", "format": "date-time"}, "End the record then."},
	"format":          {object{"type": "string", "enum": []string{"ndjson"}}, "ndjson: all of them, one a line."},
	"code":            {object{"type": "string"}, "An SQLSTATE, or the two characters of its class."},
	"state":           {object{"type": "string", "enum": []string{"dead", "parked"}}, "Only these."},
	"since":           {object{"type": "string", "format": "date-time"}, "When it became a dead letter, at the earliest."},
	"until":           {object{"type": "string", "format": "date-time"}, "When it became a dead letter, at the latest."},
	"to":              {object{"type": "integer", "minimum": 1}, "The last LSN."},
	"after":           {object{"type": "integer", "minimum": 0}, "The LSN behind which the sink goes on."},
	"token":           {object{"type": "string"}, "Names what was shown."},
	"rate":            {object{"type": "integer", "minimum": 1}, "Bytes per second."},
	"Idempotency-Key": {object{"type": "string", "minLength": 1}, "The request id: a repeat under it is done once."},
	"If-Match":        {object{"type": "string", "pattern": `^"[0-9]+"$`}, "The record's version, in quotes."},
	"If-None-Match":   {object{"type": "string", "enum": []string{"*"}}, "There is no such record."},
}
