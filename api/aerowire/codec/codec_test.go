package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var example = &Message{
	Header: Header{Info1: Info1Read, Info2: Info2Write, Info3: Info3UpdateOnly, Generation: 7, TTL: 60, Timeout: 1000},
	Fields: []Field{{FieldNamespace, []byte("test")}, {FieldSet, []byte("demo")}, {FieldDigest, make([]byte, 20)}},
	Ops:    []Op{{OpWrite, 3, []byte("name"), []byte("value")}, {OpRead, 0, []byte("name"), []byte{}}},
}

func TestMessageRoundTrip(t *testing.T) {
	enc := AppendMessage(nil, example)
	m, err := ParseMessage(enc)
	if err != nil || !reflect.DeepEqual(m, example) {
		t.Fatalf("came back as %+v, %v", m, err)
	}
	for n := range enc {
		if m, err := ParseMessage(enc[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d of %d bytes: %+v, %v", n, len(enc), m, err)
		}
	}
	if _, err := ParseMessage(append(enc, 0)); !errors.Is(err, ErrMalformed) {
		t.Fatalf("a byte too many: %v", err)
	}
}

func TestManyMessages(t *testing.T) {
	enc := AppendMessage(AppendMessage(nil, example), &Message{Header: Header{Info3: Info3Last}})
	all, err := ParseMessages(enc)
	if err != nil || len(all) != 2 || !reflect.DeepEqual(all[0], example) || all[1].Info3 != Info3Last {
		t.Fatalf("came back as %+v, %v", all, err)
	}
	if _, err := ParseMessages(enc[:len(enc)-1]); !errors.Is(err, ErrMalformed) {
		t.Fatalf("a byte short: %v", err)
	}
}

func TestCountsThatLie(t *testing.T) {
	enc := AppendHeader(nil, &Header{}, 0xffff, 0xffff)
	allocated := testing.AllocsPerRun(10, func() {
		if _, err := ParseMessage(enc); !errors.Is(err, ErrMalformed) {
			t.Fatalf("parsed: %v", err)
		}
	})
	if allocated > 20 {
		t.Errorf("%v allocations for a message of 22 bytes", allocated)
	}
	lying := binary.BigEndian.AppendUint32(nil, 1<<20)
	if _, err := ParseBatch(append(lying, 0), &Message{}, 1<<21); !errors.Is(err, ErrMalformed) {
		t.Errorf("a batch of rows that are not there: %v", err)
	}
	if _, err := ParseBatch(append(lying, 0), &Message{}, 5000); !errors.Is(err, BatchTooLarge) {
		t.Errorf("too many rows: %v", err)
	}
}

func TestProto(t *testing.T) {
	head := AppendProto(nil, TypeMessage, 1000)
	if p, err := ParseProto(head, 1000); err != nil || p != (Proto{TypeMessage, 1000}) {
		t.Fatalf("came back as %+v, %v", p, err)
	}
	if _, err := ParseProto(head, 999); !errors.Is(err, ErrMalformed) {
		t.Errorf("above the limit: %v", err)
	}
	head[0] = 3
	if _, err := ParseProto(head, 1000); !errors.Is(err, ErrMalformed) {
		t.Errorf("another version: %v", err)
	}
}

func TestCompressed(t *testing.T) {
	body := AppendMessage(nil, example)
	enc, err := Deflate(nil, TypeMessage, body)
	if err != nil {
		t.Fatal(err)
	}
	kind, inner, err := Inflate(enc[ProtoBytes:], 1<<20)
	if err != nil || kind != TypeMessage || !bytes.Equal(inner, body) {
		t.Fatalf("came back as type %d, %x, %v", kind, inner, err)
	}
	bomb, err := Deflate(nil, TypeMessage, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Inflate(bomb[ProtoBytes:], 1<<19); !errors.Is(err, ErrMalformed) {
		t.Errorf("inflates above the limit: %v", err)
	}
	binary.BigEndian.PutUint64(bomb[ProtoBytes:], 100) // it claims to be small
	if _, _, err := Inflate(bomb[ProtoBytes:], 1<<19); !errors.Is(err, ErrMalformed) {
		t.Errorf("claims less than it holds: %v", err)
	}
}

// row as a client writes one that repeats nothing.
func row(index uint32, flags byte, m *Message) []byte {
	b := binary.BigEndian.AppendUint32(nil, index)
	b = append(b, bytes.Repeat([]byte{byte(index)}, DigestBytes)...)
	b = append(b, flags)
	if flags&rowRepeat != 0 {
		return b
	}
	b = append(b, m.Info1)
	if flags&rowInfo != 0 {
		b = append(b, m.Info2, m.Info3)
	}
	if flags&rowGeneration != 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(m.Generation))
	}
	if flags&rowTTL != 0 {
		b = binary.BigEndian.AppendUint32(b, m.TTL)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Fields)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Ops)))
	for _, f := range m.Fields {
		b = AppendField(b, f.Type, f.Data)
	}
	for i := range m.Ops {
		b = AppendOp(b, &m.Ops[i])
	}
	return b
}

func batch() []byte {
	write := &Message{Header: Header{Info2: Info2Write, Generation: 300, TTL: 5}, Fields: example.Fields[:2], Ops: example.Ops[:1]}
	read := &Message{Header: Header{Info1: Info1Read | Info1GetAll}, Fields: example.Fields[:2]}
	b := append(binary.BigEndian.AppendUint32(nil, 4), BatchRespondAll)
	b = append(b, row(9, rowInfo|rowGeneration|rowTTL, write)...)
	b = append(b, row(8, rowRepeat, nil)...)
	b = append(b, row(7, 0, read)...)
	return append(b, row(6, rowRepeat, nil)...)
}

func TestBatch(t *testing.T) {
	b, err := ParseBatch(batch(), &Message{}, 4)
	if err != nil || b.Flags != BatchRespondAll || len(b.Rows) != 4 {
		t.Fatalf("%+v, %v", b, err)
	}
	for i, r := range b.Rows {
		if int(r.Index) != 9-i || r.Digest[0] != byte(9-i) {
			t.Errorf("row %d: %+v", i, r)
		}
	}
	if w := b.Rows[1].Message; w != b.Rows[0].Message || w.Info2 != Info2Write || w.Generation != 300 || w.TTL != 5 || len(w.Ops) != 1 {
		t.Errorf("a row that repeats: %+v", w)
	}
	if r := b.Rows[3].Message; r.Info1 != Info1Read|Info1GetAll || r.Info2 != 0 || len(r.Ops) != 0 {
		t.Errorf("a read: %+v", r)
	}
	for n := range batch() {
		if b, err := ParseBatch(batch()[:n], &Message{}, 4); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d bytes: %+v, %v", n, b, err)
		}
	}
}

func TestInfo(t *testing.T) {
	if got := ParseInfo([]byte("build\nnode\n\n features \n")); !slices.Equal(got, []string{"build", "node", "features"}) {
		t.Errorf("%q", got)
	}
	if got := string(AppendInfo(nil, "node", "X")); got != "node\tX\n" {
		t.Errorf("%q", got)
	}
}

func TestResultsHaveNames(t *testing.T) {
	for code, name := range resultNames {
		if name == "" || !strings.Contains(code.Error(), name) {
			t.Errorf("%d: %v", byte(code), code)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(AppendMessage(nil, example))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := ParseMessage(body)
		if err != nil {
			return
		}
		again, err := ParseMessage(AppendMessage(nil, m))
		if err != nil || len(again.Fields) != len(m.Fields) || len(again.Ops) != len(m.Ops) {
			t.Fatalf("%x: came back as %+v, %v", body, again, err)
		}
		if all, err := ParseMessages(body); err != nil || len(all) != 1 {
			t.Fatalf("%x: %d messages, %v", body, len(all), err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(batch())
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBatch(data, &Message{}, 1000)
		if err == nil && (len(b.Rows) == 0 || len(b.Rows) > 1000) {
			t.Fatalf("%d rows", len(b.Rows))
		}
	})
}

func FuzzInflate(f *testing.F) {
	enc, err := Deflate(nil, TypeMessage, AppendMessage(nil, example))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc[ProtoBytes:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, inner, err := Inflate(body, 1<<16); err == nil && len(inner) > 1<<16 {
			t.Fatalf("%d bytes", len(inner))
		}
	})
}
