package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// where are flags that only say where something is. A script has other places
// than a document.
var where = []string{"config", "data-dir", "server", "api", "admin", "log-level"}

// shapeOf is what a command line does, whatever the values: the command, the number
// of its arguments, its flags but where, and of a flag whose description lists what
// it may be (`from oldest or now`) also what it is. The line is as one types it:
// behind an optional prompt and variables, up to a pipe, a redirection or a comment.
// It is "" if the line is no call of walproxy. An error: walproxy would refuse it.
func shapeOf(root *cobra.Command, line string) (shape string, err error) {
	words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
	for len(words) > 0 && variable.MatchString(words[0]) {
		words = words[1:]
	}
	if len(words) == 0 || words[0] != "walproxy" {
		return "", nil
	}
	args := words[1:]
	if end := slices.IndexFunc(args, func(w string) bool {
		return strings.ContainsAny(w[:1], "|<>#&;") || w[0] == '2' && strings.HasPrefix(w, "2>")
	}); end >= 0 {
		args = args[:end]
	}
	for i := range args {
		args[i] = strings.Trim(args[i], `'"`)
	}
	cmd, rest, err := root.Find(args)
	if err != nil {
		return "", err
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return "", err
	}
	flags := cmd.Flags()
	var parts []string
	flags.Visit(func(f *pflag.Flag) {
		if slices.Contains(where, f.Name) {
			return
		}
		part := "--" + f.Name
		if value := f.Value.String(); word.MatchString(value) && regexp.MustCompile(`\b`+value+`\b`).MatchString(f.Usage) {
			part += " " + value
		}
		parts = append(parts, part)
	})
	n := flags.NArg()
	if err := cmd.ValidateArgs(flags.Args()); err != nil {
		return "", err
	}
	return strings.Join(append([]string{cmd.CommandPath(), fmt.Sprintf("(%d arguments)", n)}, parts...), " "), nil
}

var (
	variable = regexp.MustCompile(`^[A-Z_]+=`)
	word     = regexp.MustCompile(`^[a-z]+$`)
)

// pipes splits a line into the commands of a pipe or list.
var pipes = regexp.MustCompile(`\|\|?|&&|;`)

// fenced are the lines of the fenced blocks of a document, by their number, those
// that go on behind a backslash as one.
func fenced(text string) map[int]string {
	found := map[int]string{}
	inside, begun := false, 0
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			inside, begun = !inside, 0
		case !inside:
		case begun > 0:
			found[begun] += " " + strings.TrimSpace(line)
		default:
			found[i+1] = line
			begun = i + 1
		}
		if !strings.HasSuffix(line, `\`) {
			begun = 0
		} else if begun > 0 {
			found[begun] = strings.TrimSuffix(found[begun], `\`)
		}
	}
	return found
}

// fails marks the shape of a call that ends with another code than 0: in a script
// by its exclamation mark, in a document by a comment that begins with "exits".
func fails(shape string, yes bool) string {
	if yes {
		return shape + ", which fails"
	}
	return shape
}

// scriptShapes are what the scripts run, and which of them.
func scriptShapes(t *testing.T) map[string]string {
	t.Helper()
	shapes := map[string]string{}
	shell := regexp.MustCompile(`^sh -c '(?:exec )?(.*)'`)
	condition := regexp.MustCompile(`^(\[[^]]*\] *)*([!?] *)?(exec|serve)\b *`)
	err := filepath.WalkDir("testdata", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".txtar" {
			return err
		}
		archive, err := txtar.ParseFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(archive.Comment)) {
			found := condition.FindStringSubmatch(line)
			if found == nil {
				continue
			}
			call := line[len(found[0]):]
			if inner := shell.FindStringSubmatch(call); inner != nil {
				call = inner[1]
			}
			if found[3] == "serve" {
				call = "walproxy serve " + call
			}
			shape, err := shapeOf(fullRoot(), call)
			if err != nil || shape == "" {
				continue // a script may call what is wrong, or something else
			}
			mark := strings.TrimSpace(found[2])
			shapes[fails(shape, mark == "!")] = path
			if mark == "?" {
				shapes[fails(shape, true)] = path
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return shapes
}

// TestDocumentedCommandsRun: every walproxy command line in a fenced block of the
// operator's pages is one that a script of testdata runs: the same command with the
// same flags and as many arguments (see shapeOf), with success unless a comment says
// that it exits with something else.
func TestDocumentedCommandsRun(t *testing.T) {
	shapes := scriptShapes(t)
	for _, name := range []string{"runbooks.md", "operations.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		commands := 0
		for number, line := range fenced(string(text)) {
			for _, part := range pipes.Split(line, -1) {
				shape, err := shapeOf(fullRoot(), part)
				if err != nil {
					t.Errorf("docs/%s:%d: %s: %v", name, number, strings.TrimSpace(line), err)
				}
				if shape == "" {
					continue
				}
				commands++
				shape = fails(shape, strings.Contains(line, "# exits "))
				if shapes[shape] == "" {
					t.Errorf("docs/%s:%d: %s\nis run by no script: testdata/script/*.txtar has no exec of: %s", name, number, strings.TrimSpace(line), shape)
				}
			}
		}
		if commands == 0 {
			t.Errorf("docs/%s: no command was found", name)
		}
	}
}

func TestShapeOf(t *testing.T) {
	for line, want := range map[string]string{
		"$ walproxy sink forget NAME --yes":                      "walproxy sink forget (1 arguments) --yes",
		"walproxy sink forget --yes=true old --data-dir x":       "walproxy sink forget (1 arguments) --yes",
		"WALPROXY_CONFIG=x walproxy sink ls > list":              "walproxy sink ls (0 arguments)",
		"walproxy config show --config 'a.yaml' 2>err # it says": "walproxy config show (0 arguments)",
		"curl http://127.0.0.1/walproxy serve":                   "",
		"walproxy: no such thing":                                "",
		"walproxy sink forget":                                   "error",
		"walproxy sink ls --nonsense":                            "error",
		"walproxy nonsense":                                      "error",
	} {
		got, err := shapeOf(fullRoot(), line)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %q (%v), want %q", line, got, err, want)
		}
	}
	lines := fenced("walproxy a\n```sh\nwalproxy b \\\n  c\nd\n```\nwalproxy e\n")
	if len(lines) != 2 || lines[3] != "walproxy b  c" || lines[5] != "d" {
		t.Errorf("%v", lines)
	}
}
