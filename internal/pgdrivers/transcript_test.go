package pgdrivers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCorpus: the corpus is read, small, and written as it was read.
func TestCorpus(t *testing.T) {
	list, err := Corpus()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	size := 0
	for _, transcript := range list {
		var b bytes.Buffer
		if err := transcript.Write(&b); err != nil {
			t.Fatal(err)
		}
		size += b.Len()
		again, err := Read(bytes.NewReader(b.Bytes()))
		if err != nil || !reflect.DeepEqual(again, transcript) {
			t.Errorf("%s is read otherwise than it was written: %v", transcript.Driver, err)
		}
		names = append(names, transcript.Driver)
	}
	for _, d := range Drivers() {
		if !slices.Contains(names, d.Name) {
			t.Errorf("%s was not recorded", d.Name)
		}
	}
	if size > 1<<20 {
		t.Errorf("the corpus has %d bytes", size)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(title + "\n# psql: psql 15\n=\n> \"\\x00\\x00\\x00\\x08\\x00\\x03\\x00\\x00\"\n< RKZ\n> \"S\\x00\\x00\\x00\\x04\"\n< Z\n")
	f.Add(title + "\n=\n> \"S\"\n")
	f.Add("=\n< Z\n> \"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		transcript, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := transcript.Write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Read(&b)
		if err != nil || !reflect.DeepEqual(again.Connections, transcript.Connections) {
			t.Errorf("read again: %v", err)
		}
	})
}

func message(kind byte, body string) []byte {
	return append([]byte{kind, 0, 0, 0, byte(4 + len(body))}, body...)
}

// TestCompare: what is documented is let pass, and nothing else.
func TestCompare(t *testing.T) {
	transcript := &Transcript{Driver: "d", Connections: [][]Exchange{{{Sent: [][]byte{message('Q', "UPDATE\x00")}}}}}
	differ := func(want, have []byte) []Difference {
		return transcript.Compare(Replayed{{{want}}}, Replayed{{{have}}})
	}
	if list := differ(message('K', "12345678"), message('K', "87654321")); len(list) > 0 {
		t.Errorf("another key: %v", list)
	}
	if list := differ(message('E', "C1\x00L12\x00\x00"), message('E', "C1\x00\x00")); len(list) > 0 {
		t.Errorf("another line of the source: %v", list)
	}
	if list := differ(message('C', "UPDATE 0\x00"), message('C', "UPDATE 1\x00")); len(list) != 1 || !list[0].Rows {
		t.Errorf("an assumed row: %v", list)
	}
	for _, have := range [][]byte{message('C', "UPDATE 2\x00"), message('C', "DELETE 0\x00"), message('Z', "I"), message('C', "UPDATE 1\x00")} {
		if list := differ(message('C', "UPDATE 1\x00"), have); len(list) != 0 != (string(have) != string(message('C', "UPDATE 1\x00"))) || len(list) == 1 && list[0].Rows {
			t.Errorf("%q for UPDATE 1: %v", have, list)
		}
	}
	if list := transcript.Compare(Replayed{{{message('Z', "I")}}}, nil); len(list) != 1 {
		t.Errorf("no answer: %v", list)
	}
}

// TestReplayWaits: a server that ends in the middle of an answer is an error, and what
// it said is there.
func TestReplayWaits(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = readMessage(c, false)
		}
		if err == nil {
			_, err = c.Write(message('Z', "I"))
		}
		if err == nil {
			_, err = readMessage(c, true)
		}
		served <- errors.Join(err, c.Close(), l.Close())
	}()
	startup := []byte("\x00\x00\x00\x0f\x00\x03\x00\x00user\x00a\x00\x00")
	transcript := &Transcript{Connections: [][]Exchange{{{Sent: [][]byte{startup}, Answer: "Z"}, {Sent: [][]byte{message('S', "")}, Answer: "Z"}}}}
	got, err := transcript.Replay(context.Background(), Server{Addr: l.Addr().String(), User: "somebody"})
	if !errors.Is(err, io.EOF) || len(got) != 1 || len(got[0]) != 1 {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
