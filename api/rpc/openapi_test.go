package rpc

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// callsIn are the calls of docs/rest.md's table: method and path, braces and all.
func callsIn(t *testing.T) (calls []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/rest.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Calls\n")
	table, _, _ = strings.Cut(table, "\n## ")
	call := regexp.MustCompile("`(?:([A-Z]+) (/[^?`]*)|(:[a-z]+))[^`]*`")
	for row := range strings.Lines(table) {
		if !strings.HasPrefix(row, "| `") {
			continue
		}
		first, _, _ := strings.Cut(row[2:], "| ")
		method, path := "", ""
		for _, c := range call.FindAllStringSubmatch(first, -1) {
			if c[3] != "" { // another verb of the same
				path = path[:strings.LastIndexByte(path, ':')] + c[3]
			} else {
				method, path = c[1], c[2]
			}
			calls = append(calls, method+" "+path)
		}
	}
	slices.Sort(calls)
	return slices.Compact(calls)
}

// TestOpenAPI: the document is a valid one, and has what is served and documented, no
// more and no less.
func TestOpenAPI(t *testing.T) {
	text, err := openAPI()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &Server{}
	s.routes = s.newRoutes()
	served := map[string]bool{}
	for route, methods := range s.routes {
		for method := range methods {
			served[route+" "+method] = false
		}
	}
	plain := strings.NewReplacer("{collection}", "orders", "{key}", "42", "{sink}", "main", "{lsn}", "7")
	documented := callsIn(t)
	var described []string
	verbsSeen := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			if strings.HasPrefix(path, "/walproxy.v1.") {
				continue
			}
			described = append(described, method+" "+path)
			target, failed := parsePath(plain.Replace(path))
			if failed != nil {
				t.Errorf("%s: %v", path, failed)
				continue
			}
			if _, failed := s.handler(target, method); failed != nil {
				t.Errorf("%s %s: %v", method, path, failed)
			}
			served[target.route+" "+method] = true
			verbsSeen[target.verb] = true
			for _, p := range operation.Parameters {
				if p.Value.Description == "" || p.Value.Schema == nil {
					t.Errorf("%s %s: %s is no parameter that is described", method, path, p.Value.Name)
				}
			}
		}
	}
	for call, seen := range served {
		if !seen {
			t.Errorf("%s is served, and in no operation", call)
		}
	}
	for verb := range verbs {
		if !verbsSeen[verb] {
			t.Errorf(":%s is served, and in no operation", verb)
		}
	}
	for _, call := range described {
		if !slices.Contains(documented, call) {
			t.Errorf("%s is in no row of docs/rest.md", call)
		}
	}
	for _, call := range documented {
		if !slices.Contains(described, call) {
			t.Errorf("%s is in docs/rest.md, and no operation", call)
		}
	}
	for _, procedure := range []string{"/walproxy.v1.WriteService/Write", "/walproxy.v1.ReadService/Scan"} {
		if doc.Paths.Value(procedure) == nil {
			t.Errorf("%s is missing", procedure)
		}
	}
}
