package zstdfile

import (
	"bytes"
	"errors"
	"go.uber.org/goleak"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compressed(t testing.TB, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(b []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r)
	return text, errors.Join(err, r.Close())
}

// texts are of every sort: none, less than a magic, what compresses and what does not.
func texts() map[string][]byte {
	random := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{1}).Read(random)
	return map[string][]byte{"none": nil, "short": []byte("ab"), "like": bytes.Repeat([]byte("walproxy "), 1<<14), "random": random}
}

// What is compressed comes back, and what is not as it is.
func TestRoundTrip(t *testing.T) {
	for name, text := range texts() {
		b := compressed(t, text)
		if name == "like" && len(b) > len(text)/50 {
			t.Errorf("%d bytes are %d compressed", len(text), len(b))
		}
		for _, in := range [][]byte{b, text} {
			if got, err := read(in); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(text))
			}
		}
	}
}

// Cut anywhere it is cut short, with a bit flipped anywhere it is not taken for whole,
// and where reading fails that is what is said.
func TestDamage(t *testing.T) {
	text := bytes.Repeat([]byte("walproxy "), 100)
	b := compressed(t, text)
	for n := len(magic); n < len(b); n++ {
		if _, err := read(b[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
		damaged := bytes.Clone(b)
		damaged[n] ^= 1 << (n % 8)
		got, err := read(damaged)
		if err == nil && !bytes.Equal(got, text) || err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("byte %d: %v", n, err)
		}
	}
	failed := errors.New("EIO")
	r, err := NewReader(io.MultiReader(bytes.NewReader(b[:len(b)-5]), iotest.ErrReader(failed)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, failed) || errors.Is(err, ErrCorrupt) {
		t.Errorf("a disk that fails: %v", err)
	}
	_ = r.Close()
}

// A few bytes that claim to be much, or are, take no more memory than others.
func TestMemory(t *testing.T) {
	wide := append(bytes.Clone(magic), 0, 19<<3, 1, 0, 0) // RFC 8878, 3.1.1.1: 1 KiB << 19, and an empty last block
	if _, err := read(wide); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a window of 512 MiB: %v", err)
	}
	wide[5] = 13 << 3
	if text, err := read(wide); err != nil || len(text) > 0 {
		t.Errorf("a window of 8 MiB: %v", err)
	}
	bomb := compressed(t, make([]byte, 48<<20))
	r, err := NewReader(bytes.NewReader(bomb))
	if err != nil {
		t.Fatal(err)
	}
	var before, at runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.Copy(io.Discard, r)
	runtime.ReadMemStats(&at)
	if grew := at.TotalAlloc - before.TotalAlloc; err != nil || n != 48<<20 || grew > 4*windowMax {
		t.Errorf("%d bytes made %d, with %d bytes of memory: %v", len(bomb), n, grew, err)
	}
	_ = r.Close()
}

func FuzzReader(f *testing.F) {
	f.Add(compressed(f, []byte("text")))
	f.Add(compressed(f, make([]byte, 1000))[:20])
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := read(b)
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("untyped: %v", err)
		}
		if err == nil && !bytes.HasPrefix(b, magic) && !bytes.Equal(text, b) {
			t.Fatalf("%q came out of %q", text, b)
		}
	})
}
