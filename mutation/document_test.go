package mutation

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

func TestDocumentRoundTrip(t *testing.T) {
	for _, d := range []*Document{
		{},
		{Version: 1 << 60, EventCount: 9, ExpiresAt: time.Unix(5, 6).UTC(), Fields: fields{"a": nested(5)}},
	} {
		enc, err := EncodeDocument([]byte("before"), d)
		if err != nil || !bytes.HasPrefix(enc, []byte("before")) {
			t.Fatalf("EncodeDocument = %q, %v", enc, err)
		}
		got, err := DecodeDocument(enc[len("before"):])
		if err != nil {
			t.Fatal(err)
		}
		if got.Version != d.Version || got.EventCount != d.EventCount || !got.ExpiresAt.Equal(d.ExpiresAt) || got.ExpiresAt.IsZero() != d.ExpiresAt.IsZero() ||
			!reflect.DeepEqual(FieldsToAny(got.Fields), FieldsToAny(d.Fields)) {
			t.Fatalf("%+v came back as %+v", d, got)
		}
	}
}

func TestDocumentRefused(t *testing.T) {
	unknown := &walproxyv1.Document{Version: 1}
	unknown.ProtoReflect().SetUnknown([]byte{0xb8, 0x3e, 1})
	unknownEnc, err := proto.Marshal(unknown)
	if err != nil {
		t.Fatal(err)
	}
	empty, err := proto.Marshal(&walproxyv1.Document{Fields: fields{"a": {}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, enc := range map[string][]byte{
		"empty":         nil,
		"format":        {2},
		"cut":           {1, 0x08},
		"unknown field": append([]byte{1}, unknownEnc...),
		"empty value":   append([]byte{1}, empty...),
	} {
		if d, err := DecodeDocument(enc); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	if _, err := EncodeDocument(nil, nil); !errors.Is(err, ErrEncoding) {
		t.Errorf("nil: %v", err)
	}
	if _, err := EncodeDocument(nil, &Document{Fields: fields{"a": nil}}); !errors.Is(err, ErrEncoding) {
		t.Errorf("nil value: %v", err)
	}
	var rejected *RejectedError
	if _, err := EncodeDocument(nil, &Document{Fields: fields{"a": StringValue(strings.Repeat("x", MaxDocumentBytes))}}); !errors.As(err, &rejected) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzDecodeDocument(f *testing.F) {
	for _, d := range []*Document{{}, {Version: 3, EventCount: 2, ExpiresAt: noon, Fields: fields{"a": nested(3), "d": DecimalValue("1.5")}}} {
		enc, err := EncodeDocument(nil, d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(enc)
	}
	f.Fuzz(func(t *testing.T, enc []byte) {
		d, err := DecodeDocument(enc)
		if err != nil {
			if !errors.Is(err, ErrEncoding) {
				t.Fatalf("%v is not ErrEncoding", err)
			}
			return
		}
		first := encodeDocument(t, d)
		again, err := DecodeDocument(first)
		if err != nil {
			t.Fatal(err)
		}
		if second := encodeDocument(t, again); !bytes.Equal(first, second) {
			t.Fatalf("%x and %x are the same document", first, second)
		}
	})
}
