// Package transcript keeps what an Aerospike server answered, as data, and holds
// what another server answers against it.
//
// A transcript is a text, compressed by gzip:
//
//	walproxy transcript 1
//	# about: the server, its version
//	= name of a case
//	> 1763748000123 02030000...   a request: when it was sent, in ms since 1970
//	< 02030000...                 everything that was answered
//
// Requests stand in the order in which they were sent. "~" in place of ">" marks
// one that was on its way together with another: it is sent, and not compared.
package transcript

import (
	"bufio"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Exchange is a request and its answer.
type Exchange struct {
	Case    string
	At      time.Time
	Request []byte // with its proto header
	Answer  []byte // one proto message or several, with their headers
	// Together: it was on its way at the same time as another, so that nobody knows
	// which was done first.
	Together bool
}

// Transcript is what a file holds.
type Transcript struct {
	About     string
	Exchanges []Exchange
}

const title = "walproxy transcript 1"

// ErrFormat: the file is no transcript.
var ErrFormat = errors.New("no transcript")

// lineMax is the longest line that is read.
const lineMax = 8 << 20

// WriteFile writes t.
func (t *Transcript) WriteFile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err == nil {
		w := bufio.NewWriter(z)
		t.write(w)
		err = errors.Join(w.Flush(), z.Close())
	}
	return errors.Join(err, f.Close())
}

// write leaves errors to w.Flush.
func (t *Transcript) write(w *bufio.Writer) {
	fmt.Fprintf(w, "%s\n# about: %s\n", title, t.About)
	last := ""
	for i := range t.Exchanges {
		e := &t.Exchanges[i]
		if e.Case != last {
			fmt.Fprintf(w, "= %s\n", e.Case)
			last = e.Case
		}
		sign := ">"
		if e.Together {
			sign = "~"
		}
		fmt.Fprintf(w, "%s %d %x\n< %x\n", sign, e.At.UnixMilli(), e.Request, e.Answer)
	}
}

// ReadFile reads what WriteFile wrote. Its errors name the line.
func ReadFile(path string) (*Transcript, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it is only read
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	t, err := read(z)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func read(in io.Reader) (*Transcript, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, lineMax)
	t, name := &Transcript{}, ""
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		sign, rest, _ := strings.Cut(line, " ")
		var err error
		switch {
		case n == 1:
			if line != title {
				err = fmt.Errorf("begins with %.40q, want %q", line, title)
			}
		case sign == "#":
			t.About = strings.TrimPrefix(rest, "about: ")
		case sign == "=":
			name = rest
		case sign == ">" || sign == "~":
			err = t.request(name, sign == "~", rest)
		case sign == "<" && len(t.Exchanges) > 0:
			last := &t.Exchanges[len(t.Exchanges)-1]
			last.Answer, err = hex.DecodeString(rest)
		default:
			err = fmt.Errorf("unexpected %.10q", line)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrFormat, n, err)
		}
	}
	return t, lines.Err()
}

func (t *Transcript) request(name string, together bool, rest string) error {
	at, text, _ := strings.Cut(rest, " ")
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return err
	}
	request, err := hex.DecodeString(text)
	t.Exchanges = append(t.Exchanges, Exchange{Case: name, At: time.UnixMilli(ms), Request: request, Together: together})
	return err
}
