package value

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// count is how many values v holds, itself too.
func count(v Value) int64 {
	n := int64(1)
	for _, item := range v.Items() {
		n += count(item)
	}
	for _, p := range v.Pairs() {
		n += count(p.Key) + count(p.Value)
	}
	return n
}

func TestRoomIsEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := draw(3).Draw(t, "value")
		b := Append(nil, v)
		if got, least := Room(b), 2*count(v)*int64(unsafe.Sizeof(v)); got < least {
			t.Fatalf("%d bytes for %+v, which takes %d", got, v, least)
		}
	})
}

// A message that claims much costs what it is: also if every level does.
func TestNestedClaims(t *testing.T) {
	const size = 1 << 20
	b := make([]byte, 0, size)
	for len(b) < 5*MaxDepth {
		b = append(b, 0xdd, 0, 0x0f, 0xc0, 0) // a list of a million
	}
	b = append(b, make([]byte, size-len(b))...)
	if got := Room(b); got > 128*size {
		t.Errorf("room for %d bytes: %d", size, got)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decode(b); !errors.Is(err, ErrMalformed) {
		t.Fatalf("decoded: %v", err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64*size {
		t.Errorf("%d bytes for a message of %d", got, size)
	}
}

func FuzzRoom(f *testing.F) {
	f.Add([]byte{0x93, 1, 0xa2, 3, 'a', 0x81, 1, 0xc0})
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		room := Room(b)
		if v, err := Decode(b); err == nil && room < 2*count(v)*int64(unsafe.Sizeof(v)) {
			t.Fatalf("%x: %d", b, room)
		}
	})
}
