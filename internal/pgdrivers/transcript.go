package pgdrivers

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// Exchange is what a client sends until it waits, and how it was answered.
type Exchange struct {
	Sent [][]byte // messages with their heads; the first of a connection is the startup packet
	// Answer is the type of each message that came, those of rows in a row once.
	Answer string
}

// Transcript is what a driver sent, connection after connection.
type Transcript struct {
	Driver      string // its name, as Drivers has it
	About       string // versions
	Connections [][]Exchange
}

const title = "walproxy driver transcript 1"

// ErrFormat: the file is no transcript.
var ErrFormat = errors.New("pgdrivers: no transcript")

// Write writes t as a text: a line for each message, ">" from the client, "<" the
// types of those that answered.
func (t *Transcript) Write(to io.Writer) error {
	w := bufio.NewWriter(to)
	fmt.Fprintf(w, "%s\n# %s: %s\n", title, t.Driver, t.About) // errors stay with w
	for _, connection := range t.Connections {
		fmt.Fprintln(w, "=")
		for _, e := range connection {
			for _, m := range e.Sent {
				fmt.Fprintf(w, "> %q\n", m)
			}
			fmt.Fprintf(w, "< %s\n", e.Answer)
		}
	}
	return w.Flush()
}

// Read reads what Write wrote. Its errors name the line.
func Read(from io.Reader) (*Transcript, error) {
	t, lines := &Transcript{}, bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	answered := true
	for n := 1; lines.Scan(); n++ {
		sign, rest, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch {
		case n == 1 && lines.Text() == title:
		case n == 2 && sign == "#":
			t.Driver, t.About, _ = strings.Cut(rest, ": ")
		case n > 2 && sign == "=":
			t.Connections, answered = append(t.Connections, nil), true
		case sign == ">" && len(t.Connections) > 0:
			err = t.sent(rest, answered)
			answered = false
		case sign == "<" && !answered:
			last := t.Connections[len(t.Connections)-1]
			last[len(last)-1].Answer, answered = rest, true
		default:
			err = fmt.Errorf("unexpected %.20q", lines.Text())
		}
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrFormat, n, err)
		}
	}
	if lines.Err() == nil && len(t.Connections) == 0 {
		return nil, fmt.Errorf("%w: nothing in it", ErrFormat)
	}
	return t, lines.Err()
}

func (t *Transcript) sent(quoted string, first bool) error {
	m, err := strconv.Unquote(quoted)
	if err != nil {
		return err
	}
	if len(m) < 5 {
		return fmt.Errorf("a message of %d bytes", len(m))
	}
	c := &t.Connections[len(t.Connections)-1]
	if first {
		*c = append(*c, Exchange{})
	}
	e := &(*c)[len(*c)-1]
	e.Sent = append(e.Sent, []byte(m))
	return nil
}

//go:embed corpus
var corpus embed.FS

// Corpus is every transcript that was recorded.
func Corpus() ([]*Transcript, error) {
	files, err := corpus.ReadDir("corpus")
	if err != nil {
		return nil, err
	}
	var list []*Transcript
	for _, file := range files {
		f, err := corpus.Open(path.Join("corpus", file.Name()))
		if err != nil {
			return nil, err
		}
		t, err := Read(f)
		_ = f.Close() // it is memory
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
		list = append(list, t)
	}
	return list, nil
}
