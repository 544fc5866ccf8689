package rpc_test

import (
	"net/url"
	"os"
	"strings"
	"testing"
)

// TestDocs runs every example of docs/rest.md, in order, on a fresh proxy and
// compares the answers to the letter.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/rest.md")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, listing)
	examples := parseExamples(t, string(text))
	if len(examples) < 20 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, e := range examples {
		a := r.do(e.method, e.path, e.body, e.headers...)
		if a.raw != e.want {
			t.Errorf("%s %s %s\n got %swant %s", e.method, e.path, e.body, a.raw, e.want)
		}
	}
}

type example struct {
	method, path, body string
	headers            []string
	want               string
}

// parseExamples reads "$ curl ..." and the lines behind it as its answer.
func parseExamples(t *testing.T, text string) (examples []example) {
	t.Helper()
	for i, block := range strings.Split(text, "```console\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		for command := range strings.SplitSeq(block, "$ curl ") {
			if command != "" {
				examples = append(examples, parseCurl(t, command))
			}
		}
	}
	return examples
}

func parseCurl(t *testing.T, command string) example {
	t.Helper()
	args, rest := shellWords(command)
	e := example{method: "GET", want: rest, headers: []string{"Content-Type", "application/x-www-form-urlencoded"}}
	explicit := false
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-X":
			i++
			e.method, explicit = args[i], true
		case "-H":
			i++
			name, value, _ := strings.Cut(args[i], ": ")
			e.headers = append(e.headers, name, value)
		case "-d", "--data-binary":
			i++
			e.body = args[i]
			if !explicit {
				e.method = "POST"
			}
		default:
			u, err := url.Parse(args[i])
			if err != nil || u.Host != "127.0.0.1:7070" {
				t.Fatalf("%q in %s: %v", args[i], command, err)
			}
			e.path = strings.TrimPrefix(args[i], "http://127.0.0.1:7070")
		}
	}
	return e
}

// shellWords splits one command line, with single quotes, from what follows it.
func shellWords(text string) (words []string, rest string) {
	word, quoted := "", false
	for i, c := range text {
		switch {
		case c == '\'':
			quoted = !quoted
		case quoted || c != ' ' && c != '\n':
			word += string(c)
		case c == ' ':
			words, word = append(words, word), ""
		default:
			return append(words, word), text[i+1:]
		}
	}
	return append(words, word), ""
}
