package main

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

// TestReadme: every command in a fenced block of README.md is run: targets are the
// Makefile's, curl and walproxy are in testdata/script/readme.txtar.
func TestReadme(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	makefile, script := read("../../Makefile"), read("testdata/script/readme.txtar")
	shapes := scriptShapes(t)
	curl := regexp.MustCompile(`^curl +(?:-X ([A-Z]+) +)?'?localhost:7070([^ ']+)'?(?: -d ('[^']*'))?`)
	seen := map[string]int{}
	for number, line := range fenced(read("../../README.md")) {
		program, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		fault := ""
		switch program {
		case "make":
			target, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			if !strings.Contains(makefile, "\n"+target+":") {
				fault = "the Makefile has no " + target
			}
		case "curl":
			call := curl.FindStringSubmatch(line)
			if call == nil {
				fault = "this test cannot read it"
				break
			}
			method, path := cmp.Or(call[1], "GET"), call[2]
			if strings.Contains(path, "?") {
				path = "'" + path + "'"
			}
			if want := strings.TrimSpace(fmt.Sprintf("http %s %s 200 %s", method, path, call[3])); !strings.Contains(script, "\n"+want+"\n") {
				fault = "readme.txtar has no line: " + want
			}
		case "walproxy":
			if shape, err := shapeOf(fullRoot(), line); err != nil || shapes[shape] == "" {
				fault = fmt.Sprintf("no script runs it: %s %v", shape, err)
			}
		default:
			continue // a drawing; Go: see TestReadmeGo
		}
		seen[program]++
		if fault != "" {
			t.Errorf("README.md:%d: %s: %s", number, strings.TrimSpace(line), fault)
		}
	}
	if seen["make"] < 2 || seen["curl"] < 4 || seen["walproxy"] < 2 {
		t.Errorf("found %v", seen)
	}
}

// TestReadmeGo runs the Go of README.md, and finds each of its lines in here.
func TestReadmeGo(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	source, err := os.ReadFile("readme_test.go")
	check(err)
	text, err := os.ReadFile("../../README.md")
	check(err)
	t.Chdir(t.TempDir())
	ctx := t.Context()
	embedded := func() {
		store, err := pebble.Open("store", pebble.Options{})
		check(err)
		proxy, err := walproxy.Open(ctx, walproxy.Options{
			Dir:   "data",
			Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store}},
		})
		check(err)
		m, err := mutation.Set("orders", mutation.String("42"), map[string]any{"total": 10})
		check(err)
		result, err := proxy.Append(ctx, m) // returns once the write is on disk
		check(err)
		if result.LSN != 1 {
			t.Errorf("embedded: %+v", result)
		}
		check(proxy.Close(ctx))
		check(store.Close(ctx))
	}
	remote := func(base string) {
		c, err := client.New(base, client.Options{})
		check(err)
		result, err := c.Put(ctx, "orders", mutation.String("42"), map[string]any{"total": 10})
		check(err)
		if result.LSN != 1 {
			t.Errorf("client: %+v", result)
		}
		check(c.Close())
	}
	embedded()
	_, base, _, _ := running(t, "")
	remote(base)

	lines := 0
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			lines++
			if want := strings.TrimSpace(strings.Replace(line, `"http://127.0.0.1:7070"`, "base", 1)); !strings.Contains(string(source), "\t"+want+"\n") {
				t.Errorf("README.md has %q, which is not run", want)
			}
		}
	}
	if lines < 9 {
		t.Errorf("%d lines of Go found", lines)
	}
}
