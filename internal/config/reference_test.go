package config

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

// TestReference: docs/configuration.md is what the code has: every key, its type, default,
// variable and whether it can change while walproxy runs, with the comments of the fields.
// Made with
//
//	go test ./internal/config -run TestReference -update
func TestReference(t *testing.T) {
	got := referencePage(t)
	const name = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/configuration.md is not current (%v): see this test's comment. It should say:\n%s", err, got)
	}
}

const referenceIntro = `# Configuration

Every key, made from the code (TestReference in ` + "`internal/config`" + ` keeps it current). How file, variables, flags and secrets
go together is in [operations.md](operations.md#configuration); ` + "`walproxy config example`" + ` prints a commented file,
` + "`config schema`" + ` a JSON Schema for editors. NAME is the name of a sink, PATTERN a collection or a pattern of collections,
TABLE a table with its schema, USER a user. Variables have NAME in capitals; what has a name that no variable can have is set in the file, or as YAML
in the variable of the map. Sizes are whole numbers with B, KiB, MiB, GiB, TiB (or kB, MB, GB, TB); durations have ns, us, ms, s, m, h. An
explicit 0 is refused: leave the key out for its default. *live* keys follow ` + "`walproxy reload`" + `, the others a restart.
`

// sections of the reference, the longest prefix decides.
var sections = []struct{ key, title string }{
	{"", "The whole"}, {"log", "Log"}, {"api", "API"}, {"admin", "Admin"}, {"pgwire", "PostgreSQL endpoint"}, {"aerowire", "Aerospike endpoint"},
	{"sinks.NAME", "Sinks"}, {"sinks.NAME.collections.PATTERN", "Collections of a sink"}, {"routes[]", "Routes"},
	{"request_ids", "Request ids"}, {"shutdown", "Shutdown"}, {"logging", "Logging"}, {"tracing", "Tracing"},
}

func referencePage(t *testing.T) []byte {
	comments := fieldComments(t)
	rows := map[string][]string{}
	defaults := map[string]reflect.Value{}
	for kind, text := range map[string]string{
		"": "", "postgres": "sinks: { main: { type: postgres, dsn: \"postgres://db/x\" } }", "aerospike": "sinks: { main: { type: aerospike, hosts: [\"a:3000\"], namespace: test } }",
	} {
		c, err := Parse("", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		defaults[kind] = reflect.ValueOf(*c)
	}
	ends := &Config{AeroWire: &AeroWire{}, PGWire: &PGWire{Away: &PGAway{}, WriteBehind: map[string]WriteBehind{"t": {}}}}
	ends.withDefaults()
	defaults["ends"] = reflect.ValueOf(*ends)
	at := func(kind, key string) (reflect.Value, bool) {
		v := defaults[kind]
		for part := range strings.SplitSeq(key, ".") {
			if v.Kind() == reflect.Pointer {
				if v.IsNil() {
					return v, false
				}
				v = v.Elem()
			}
			switch {
			case part == "NAME":
				v = v.MapIndex(reflect.ValueOf(MainSink))
			case v.Kind() == reflect.Struct:
				v, _ = fieldByKey(v, part)
			default:
				return v, false
			}
			if !v.IsValid() {
				return v, false
			}
		}
		return v, !v.IsZero() && v.Kind() != reflect.Slice && v.Kind() != reflect.Map
	}
	var walk func(typ reflect.Type, key string)
	walk = func(typ reflect.Type, key string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			k := join(key, f.Tag.Get("yaml"))
			inner, suffix := f.Type, ""
			switch {
			case inner.Kind() == reflect.Pointer:
				inner = inner.Elem()
			case inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct:
				inner, suffix = inner.Elem(), "[]"
			case inner.Kind() == reflect.Map && inner.Elem().Kind() == reflect.Struct:
				inner, suffix = inner.Elem(), "."+map[string]string{"sinks": "NAME", "collections": "PATTERN", "write_behind": "TABLE"}[f.Tag.Get("yaml")]
			}
			comment := comments[typ.Name()+"."+f.Name]
			if inner.Kind() == reflect.Struct {
				if comment != "" {
					rows[sectionOf(k)] = append(rows[sectionOf(k)], row(k+suffix, kindName(f.Type), "", "", "", comment))
				}
				walk(inner, k+suffix)
				continue
			}
			var said []string
			for _, kind := range []string{"", "ends", "postgres", "aerospike"} {
				v, ok := at(kind, k)
				if !ok {
					continue
				}
				text := fmt.Sprint(v.Interface())
				if kind == "postgres" || kind == "aerospike" {
					if !strings.HasPrefix(k, "sinks.") || slices.Contains([]string{"type", "dsn", "hosts", "namespace"}, f.Tag.Get("yaml")) {
						continue
					}
					if base, ok := at("", k); ok && fmt.Sprint(base.Interface()) == text {
						continue
					}
					text += " (" + kind + ")"
				}
				if text = "`" + text + "`"; !slices.Contains(said, text) {
					said = append(said, text)
				}
			}
			choice := choices[schemaKey(k)]
			if len(choice) > 0 {
				comment = strings.TrimSpace("One of `" + strings.Join(choice, "`, `") + "`. " + comment)
			}
			live := ""
			if Live(liveKey(k)) {
				live = "live"
			}
			rows[sectionOf(k)] = append(rows[sectionOf(k)], row(k, kindName(f.Type), strings.Join(said, ", "), variableOf(k), live, comment))
		}
	}
	walk(reflect.TypeFor[Config](), "")
	var out bytes.Buffer
	out.WriteString(referenceIntro)
	for _, s := range sections {
		fmt.Fprintf(&out, "\n## %s\n\n| Key | Is | Default | Variable | Changes | |\n|---|---|---|---|---|---|\n", s.title)
		for _, r := range rows[s.key] {
			out.WriteString(r)
		}
		delete(rows, s.key)
	}
	if len(rows) > 0 {
		t.Errorf("in no section: %v", rows)
	}
	return out.Bytes()
}

func row(key, kind, value, variable, live, comment string) string {
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s |\n", key, kind, value, variable, live, strings.ReplaceAll(comment, "|", `\|`))
}

func sectionOf(key string) (section string) {
	for _, s := range sections {
		if len(s.key) > len(section) && strings.HasPrefix(key, s.key+".") {
			section = s.key
		}
	}
	return section
}

// liveKey is the key that Changed says: of a list, or of TLS, the whole.
func liveKey(key string) string {
	key, _, _ = strings.Cut(key, "[]")
	if i := strings.Index(key+".", ".tls."); i >= 0 {
		key = key[:i+len(".tls")]
	}
	return key
}

func schemaKey(key string) string {
	return strings.NewReplacer("NAME", "*", "PATTERN", "*", "TABLE", "*", "[]", "").Replace(key)
}

func variableOf(key string) string {
	if strings.Contains(key, "[]") || strings.Contains(key, "TABLE") {
		return ""
	}
	return "`" + prefix + strings.ToUpper(strings.ReplaceAll(key, ".", "__")) + "`"
}

func kindName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Duration]():
		return "duration"
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Struct:
		return "keys"
	case reflect.Map:
		return "map of " + kindName(t.Elem())
	case reflect.Slice:
		return "list of " + kindName(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "number"
	}
	return "text"
}

// fieldComments of the structs, as Struct.Field, each as one line.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	inspect := func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		of, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range of.Fields.List {
			text := strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
			for _, name := range f.Names {
				found[spec.Name.Name+"."+name.Name] = text
			}
		}
		return true
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, inspect)
	}
	return found
}
