package rpc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// codesOf are the codes of errors in the package's sources: what a Code of an Error is
// set to, what a row of the table says, and what conflict is called with.
func codesOf(t *testing.T) []string {
	t.Helper()
	var codes []string
	add := func(e ast.Expr) {
		switch e := e.(type) {
		case *ast.BasicLit:
			if code, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
				codes = append(codes, code)
			}
		case *ast.Ident:
			if constant := map[string]string{"codeInvalid": codeInvalid, "codeConflict": codeConflict, "codeUnknownOutcome": codeUnknownOutcome}[e.Name]; constant != "" {
				codes = append(codes, constant)
			}
		}
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if name, ok := n.Key.(*ast.Ident); ok && name.Name == "Code" {
					add(n.Value)
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if of, ok := left.(*ast.SelectorExpr); ok && of.Sel.Name == "Code" && i < len(n.Rhs) {
						add(n.Rhs[i])
					}
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "conflict" {
					add(n.Args[0])
				}
			}
			return true
		})
	}
	for _, row := range rows {
		codes = append(codes, row.code)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// TestCodesInDocs: the table of docs/rest.md has every code, and none else; where the
// core's errors are translated it says the same of them.
func TestCodesInDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/rest.md")
	if err != nil {
		t.Fatal(err)
	}
	type line struct{ statuses, retryable string }
	documented := map[string]line{}
	_, table, _ := strings.Cut(string(text), "\n## Errors\n")
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9, ]+) \| ([^|]+) \| [^|]+ \| ([^|]+) \|$`).FindAllStringSubmatch(table, -1) {
		for _, code := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			was := documented[code[1]]
			documented[code[1]] = line{was.statuses + " " + row[1], was.retryable + row[3]}
		}
	}
	for _, code := range codesOf(t) {
		if _, ok := documented[code]; !ok {
			t.Errorf("%s is in no row of the table", code)
		}
	}
	for code := range documented {
		if !slices.Contains(codesOf(t), code) {
			t.Errorf("%s is documented, and nothing answers it", code)
		}
	}
	for _, row := range rows {
		d := documented[row.code]
		if !strings.Contains(d.statuses, strconv.Itoa(row.status)) {
			t.Errorf("%s: documented as %s, answered as %d", row.code, d.statuses, row.status)
		}
		if want := map[bool]string{true: "yes", false: "no"}[row.retryable]; !strings.Contains(d.retryable, want) {
			t.Errorf("%s: documented as retryable %q; it is %v", row.code, d.retryable, row.retryable)
		}
	}
}
