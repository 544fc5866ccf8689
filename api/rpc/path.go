package rpc

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// Routes, as the metrics name them.
const (
	routeRecord    = "record"
	routeRecords   = "records"
	routeVerb      = "verb"
	routeEvents    = "events"
	routeMutations = "mutations"
	routeWrite     = "write"
	routeStatus    = "status"
	routeDrain     = "drain"
	routeLetters   = "dlq"
	routeLetter    = "dlq_letter"
	routeRetry     = "dlq_retry"
	routeEdit      = "dlq_edit"
	routeRetryAll  = "dlq_retry_all"
	routeDiscard   = "dlq_discard"
	routeImport    = "dlq_import"
	routeSinks     = "sinks"
	routePause     = "sink_pause"
	routeResume    = "sink_resume"
	routeAccept    = "sink_accept"
	routeBackup    = "backup"
	routeOpenAPI   = "openapi"
)

// target is what a path names.
type target struct {
	route      string
	collection string
	key        string // decoded; any bytes
	verb       string
	lsn        string
	sink       string
}

// rawPath is the path as the client sent it. r.URL cannot say it: it forgets
// which colons were written %3A as soon as the path holds a byte that should
// have been escaped.
func rawPath(r *http.Request) string {
	raw := r.RequestURI
	if raw == "" { // a request that did not come over a connection
		raw = r.URL.EscapedPath()
	}
	if _, rest, ok := strings.Cut(raw, "://"); ok && raw[0] != '/' { // absolute form
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			return "/"
		}
		raw = rest[slash:]
	}
	raw, _, _ = strings.Cut(raw, "?")
	return raw
}

// parsePath reads /v1/{collection}/{key}[:verb] and the paths beside it. Names
// and keys are percent-encoded; the verb follows the last plain colon.
func parsePath(raw string) (target, *Error) {
	if raw == "/openapi.json" {
		return target{route: routeOpenAPI}, nil
	}
	rest, ok := strings.CutPrefix(raw, "/v1/")
	if !ok {
		return target{}, noSuchPath()
	}
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) == 1 && (parts[0] == routeStatus || parts[0] == routeMutations || parts[0] == routeSinks || parts[0] == routeDrain || parts[0] == routeBackup):
		return target{route: parts[0]}, nil
	case len(parts) == 1 && parts[0] != "" && parts[0] != "writes" && parts[0] != "dlq":
		collection, failed := parseCollection(parts[0])
		return target{route: routeRecords, collection: collection}, failed
	case len(parts) == 2 && parts[0] == "writes":
		return target{route: routeWrite, lsn: parts[1]}, nil
	case parts[0] == "dlq":
		return parseLetter(parts[1:])
	case parts[0] == "sinks":
		return parseSink(parts[1:])
	case len(parts) == 2:
		return parseRecord(parts[0], parts[1])
	case len(parts) == 3 && parts[2] == "events":
		t, err := parseRecord(parts[0], parts[1])
		if err == nil && t.route == routeVerb {
			return target{}, invalid("key", "a colon that is part of the key is written %%3A")
		}
		t.route = routeEvents
		return t, err
	}
	return target{}, noSuchPath()
}

// parseLetter reads what follows /v1/dlq/: {sink}[:retry|:discard|:import] or
// {sink}/{lsn}[:retry|:edit].
func parseLetter(parts []string) (target, *Error) {
	if len(parts) < 1 || len(parts) > 2 {
		return target{}, noSuchPath()
	}
	name, verb, found := strings.Cut(parts[0], ":")
	sink, err := url.PathUnescape(name)
	if err != nil {
		return target{}, invalid("sink", "is not percent-encoded")
	}
	t := target{route: routeLetters, sink: sink}
	if found {
		routes := map[string]string{"retry": routeRetryAll, "discard": routeDiscard, "import": routeImport}
		if t.route = routes[verb]; t.route == "" || len(parts) == 2 {
			return target{}, invalid("sink", "%q is no verb of a sink's dead letters (retry, discard, import)", clip(verb))
		}
	}
	if len(parts) == 1 {
		return t, nil
	}
	t.route = routeLetter
	t.lsn, verb, found = strings.Cut(parts[1], ":")
	if found {
		routes := map[string]string{"retry": routeRetry, "edit": routeEdit}
		if t.route = routes[verb]; t.route == "" {
			return target{}, invalid("lsn", "%q is no verb of a dead letter (retry, edit)", clip(verb))
		}
	}
	return t, nil
}

// parseSink reads what follows /v1/sinks/: {sink}:pause, {sink}:resume
// or {sink}:accept.
func parseSink(parts []string) (target, *Error) {
	if len(parts) != 1 {
		return target{}, noSuchPath()
	}
	name, verb, _ := strings.Cut(parts[0], ":")
	sink, err := url.PathUnescape(name)
	if err != nil {
		return target{}, invalid("sink", "is not percent-encoded")
	}
	switch verb {
	case "pause":
		return target{route: routePause, sink: sink}, nil
	case "resume":
		return target{route: routeResume, sink: sink}, nil
	case "accept":
		return target{route: routeAccept, sink: sink}, nil
	case "":
		return target{}, noSuchPath()
	}
	return target{}, invalid("sink", "%q is no verb of sinks (pause, resume, accept)", clip(verb))
}

func parseRecord(collection, key string) (target, *Error) {
	t := target{route: routeRecord}
	if colon := strings.LastIndexByte(key, ':'); colon >= 0 {
		t.route = routeVerb
		key, t.verb = key[:colon], key[colon+1:]
	}
	var failed *Error
	if t.collection, failed = parseCollection(collection); failed != nil {
		return target{}, failed
	}
	var err error
	if t.key, err = url.PathUnescape(key); err != nil {
		return target{}, invalid("key", "is not percent-encoded: a %% must be followed by two hex digits")
	}
	if t.key == "" {
		return target{}, invalid("key", "is empty")
	}
	return t, nil
}

func parseCollection(raw string) (string, *Error) {
	name, err := url.PathUnescape(raw)
	if err != nil || !utf8.ValidString(name) {
		return "", invalid("collection", "is not percent-encoded UTF-8")
	}
	return name, nil
}

func noSuchPath() *Error {
	return &Error{Status: http.StatusNotFound, Code: "no_such_path",
		Message: "paths are /v1/{collection}, /v1/{collection}/{key}, /v1/{collection}/{key}:verb, /v1/{collection}/{key}/events, " +
			"/v1/mutations, /v1/writes/{lsn}, /v1/dlq/{sink}[:retry|:discard|:import], /v1/dlq/{sink}/{lsn}[:retry|:edit], /v1/sinks, /v1/sinks/{sink}:pause, /v1/sinks/{sink}:resume, /v1/sinks/{sink}:accept, /v1/backup, /v1/drain, /v1/status and /openapi.json; a slash in a key is written %2F"}
}

// recordKey is the key that a path names, in its canonical form. A composite
// key stands in the path as a JSON array, percent-encoded.
func (s *Server) recordKey(t target) (*walproxyv1.Key, *Error) {
	kind := s.options.KeyType(t.collection)
	var key *walproxyv1.Key
	switch {
	case kind == mutation.KeyComposite:
		var err error
		if key, err = jsonform.DecodeKey([]byte(t.key)); err != nil {
			return nil, invalid("key", "want a JSON array, percent-encoded: %s", err)
		}
	case utf8.ValidString(t.key):
		key = mutation.String(t.key)
	default:
		key = mutation.Bytes([]byte(t.key))
	}
	canonical, err := mutation.CanonicalKey(key, kind)
	if err != nil {
		return nil, translate(err, refused)
	}
	return canonical, nil
}

func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
