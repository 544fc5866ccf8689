package main

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
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
			continue // a drawing, Go
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
