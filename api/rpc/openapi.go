package rpc

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// object is one of a JSON document.
type object = map[string]any

// openAPI is the document, made once.
var openAPI = sync.OnceValues(func() ([]byte, error) { return json.Marshal(newOpenAPI()) })

func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request, _ target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	out, err := openAPI()
	if err != nil {
		return &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "the document could not be made", cause: err}
	}
	writeJSON(w, http.StatusOK, slices.Clone(out)) // it appends
	return nil
}

// newOpenAPI makes the document: REST of the list of operations, procedures of the
// schema in api/proto.
func newOpenAPI() object {
	schemas, paths := restSchemas(), object{}
	for _, o := range operations {
		at, ok := paths[o.path].(object)
		if !ok {
			at = object{}
			paths[o.path] = at
		}
		at[strings.ToLower(o.method)] = o.document()
	}
	addProcedures(paths, schemas)
	return object{
		"openapi": "3.0.3",
		"info": object{"title": "walproxy", "version": "v1",
			"description": "A write that is answered with 200 is fsync'd in the log. See docs/rest.md; the paths with a dot are procedures of docs/rpc.md, by Connect's unary protocol."},
		"paths":      paths,
		"components": object{"schemas": schemas, "securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}}},
		"security":   []object{{}, {"token": []string{}}},
	}
}

func ref(schema string) object { return object{"$ref": "#/components/schemas/" + schema} }

var inBraces = regexp.MustCompile(`\{(\w+)\}`)

// document is the operation as the document has it.
func (o operation) document() object {
	params := []object{}
	add := func(where, name string) {
		p := parameters[name]
		params = append(params, object{"name": name, "in": where, "required": where == "path", "schema": p.schema, "description": p.text})
	}
	for _, name := range inBraces.FindAllStringSubmatch(o.path, -1) {
		add("path", name[1])
	}
	for _, name := range o.query {
		add("query", name)
	}
	for _, name := range o.headers {
		add("header", name)
	}
	answers := object{"200": o.ok(), "default": object{"description": "An error: see the table in docs/rest.md.", "content": content("Error", "application/json")}}
	if o.later {
		answers["202"] = o.ok()
	}
	d := object{"operationId": o.id, "summary": o.summary, "parameters": params, "responses": answers}
	if o.body != "" {
		kinds := []string{"application/json"}
		if o.lines {
			kinds = append(kinds, contentLines)
		}
		d["requestBody"] = object{"required": true, "content": content(o.body, kinds...)}
	}
	return d
}

func (o operation) ok() object {
	kinds := []string{"application/json"}
	switch {
	case o.answer == "Tar":
		return object{"description": o.summary, "content": object{"application/x-tar": object{"schema": object{"type": "string", "format": "binary"}}}}
	case o.lines || slices.Contains(o.query, "format"):
		kinds = append(kinds, contentLines)
	}
	return object{"description": o.summary, "content": content(o.answer, kinds...)}
}

// content is a schema as JSON; of lines each is whatever the schema's items are.
func content(schema string, kinds ...string) object {
	c := object{}
	for _, kind := range kinds {
		if c[kind] = (object{"schema": ref(schema)}); kind == contentLines {
			c[kind] = object{"schema": object{"type": "string"}}
		}
	}
	return c
}

func members(required []string, properties object) object {
	m := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		m["required"] = required
	}
	return m
}

func list(of any) object { return object{"type": "array", "items": of} }

// restSchemas are the forms of REST, in JSON of their own: see docs/rest.md.
func restSchemas() object {
	text, flag := object{"type": "string"}, object{"type": "boolean"}
	number := object{"type": "integer", "minimum": 0}
	fields := ref("Fields")
	written := object{"lsn": number, "version": number, "state": object{"type": "string", "enum": []string{"logged", "applied", "parked", "dead"}}, "event_count": number, "repeat": flag}
	record := object{"key": ref("Key"), "version": number, "event_count": number, "expires_at": object{"type": "string", "format": "date-time"}, "fields": fields}
	item := maps.Clone(written)
	item["index"], item["error"] = number, ref("Error")
	mutation := object{"collection": text, "key": ref("Key"), "unset": ref("Names"), "append_event": list(fields), "if_version": number,
		"if_event_count": number, "request_id": text, "expires_at": object{"type": "string", "format": "date-time"}}
	for _, op := range []string{"set", "merge", "increment", "append", "prepend"} {
		mutation[op] = fields
	}
	for _, name := range []string{"touch", "delete", "if_absent"} {
		mutation[name] = object{"type": "boolean", "enum": []bool{true}}
	}
	m := members([]string{"collection", "key"}, mutation)
	m["additionalProperties"] = false
	codes := object{"type": "string", "description": "For programs: see the table in docs/rest.md."}
	return object{
		"Object":      object{"type": "object"},
		"Value":       object{"nullable": true, "description": `JSON's own, or {"$bytes": "base64"}, {"$decimal": "1.23"}, {"$timestamp": "RFC 3339"}, {"$map": {}}.`},
		"Key":         object{"description": `Text, a whole number, {"$bytes": "base64"}, or an array of these.`},
		"Fields":      object{"type": "object", "additionalProperties": ref("Value")},
		"Names":       list(text),
		"NewEvents":   members([]string{"events"}, object{"expected_version": number, "events": list(fields)}),
		"Event":       members([]string{"number", "lsn", "fields"}, object{"number": number, "lsn": number, "fields": fields}),
		"Events":      members([]string{"key", "events"}, object{"key": ref("Key"), "events": list(ref("Event")), "next": number}),
		"Record":      members([]string{"key", "version", "fields"}, record),
		"Records":     members([]string{"records"}, object{"records": list(ref("Record")), "next_page_token": text}),
		"Written":     members([]string{"lsn", "version", "state"}, written),
		"Mutation":    m,
		"Mutations":   list(ref("Mutation")),
		"ItemAnswers": list(members([]string{"index"}, item)),
		"WriteState":  members([]string{"lsn", "state", "sinks"}, object{"lsn": number, "state": text, "sinks": object{"type": "object", "additionalProperties": text}}),
		"LSNs":        members([]string{"lsns"}, object{"lsns": object{"type": "array", "maxItems": 1000, "items": object{"type": "integer", "minimum": 1}}}),
		"Edit":        object{"description": "A mutation, an array of them for a group, or {\"statement\": ...}."},
		"Lines":       object{"description": "Lines of an export of dead letters."},
		"Draining":    members([]string{"draining"}, object{"draining": flag, "busy": flag}),
		"Error": members([]string{"status", "code", "message", "retryable"}, object{"status": object{"type": "integer"}, "code": codes, "message": text,
			"field": text, "retryable": flag, "details": object{"type": "object"}}),
	}
}

// addProcedures adds the unary procedures of the schema, with its messages as protobuf's
// JSON has them.
func addProcedures(paths, schemas object) {
	services := walproxyv1.File_walproxy_v1_service_proto.Services()
	for i := range services.Len() {
		service := services.Get(i)
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			if m.IsStreamingClient() || m.IsStreamingServer() {
				continue
			}
			addMessage(schemas, m.Input())
			addMessage(schemas, m.Output())
			addMessage(schemas, (&walproxyv1.Failure{}).ProtoReflect().Descriptor())
			of := func(d protoreflect.MessageDescriptor) object {
				return object{"application/json": object{"schema": ref(string(d.FullName()))}}
			}
			paths["/"+string(service.FullName())+"/"+string(m.Name())] = object{"post": object{
				"operationId": string(service.Name()) + "_" + string(m.Name()), "summary": string(service.Name()) + "." + string(m.Name()),
				"requestBody": object{"required": true, "content": of(m.Input())},
				"responses": object{"200": object{"description": string(m.Output().Name()), "content": of(m.Output())},
					"default": object{"description": "Connect's error, with a walproxy.v1.Failure as its detail.",
						"content": object{"application/json": object{"schema": ref("Object")}}}},
			}}
		}
	}
}

// addMessage adds a message, and what it is made of.
func addMessage(schemas object, d protoreflect.MessageDescriptor) {
	name := string(d.FullName())
	if schemas[name] != nil {
		return
	}
	switch name {
	case "google.protobuf.Timestamp":
		schemas[name] = object{"type": "string", "format": "date-time"}
		return
	}
	properties := object{}
	schemas[name] = members(nil, properties) // before what may refer to it
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		switch {
		case f.IsMap():
			properties[f.JSONName()] = object{"type": "object", "additionalProperties": fieldSchema(schemas, f.MapValue())}
		case f.IsList():
			properties[f.JSONName()] = list(fieldSchema(schemas, f))
		default:
			properties[f.JSONName()] = fieldSchema(schemas, f)
		}
	}
}

func fieldSchema(schemas object, f protoreflect.FieldDescriptor) object {
	switch f.Kind() {
	case protoreflect.MessageKind:
		addMessage(schemas, f.Message())
		return ref(string(f.Message().FullName()))
	case protoreflect.EnumKind:
		if f.Enum().FullName() == "google.protobuf.NullValue" {
			return object{"nullable": true}
		}
		var names []string
		for i := range f.Enum().Values().Len() {
			names = append(names, string(f.Enum().Values().Get(i).Name()))
		}
		return object{"type": "string", "enum": names}
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.StringKind:
		return object{"type": "string"}
	case protoreflect.BytesKind:
		return object{"type": "string", "format": "byte"}
	case protoreflect.DoubleKind:
		return object{"type": "number"}
	case protoreflect.Uint32Kind:
		return object{"type": "integer", "minimum": 0}
	}
	return object{"type": "string", "pattern": `^-?[0-9]{1,20}$`} // 64 bits are text in protobuf's JSON
}
