package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/zstdfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a directory with files to be sent.
func source(t *testing.T) (dir string, files map[string]string) {
	t.Helper()
	dir = t.TempDir()
	files = map[string]string{"log/FORMAT": "format", "log/segments/1/x": strings.Repeat("x", 3*bufferBytes+7), "state/empty": ""}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

func send(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	m, err := Send(t.Context(), &out, dir, Manifest{Stream: uuid.New(), First: 1, Last: 7, Made: time.Now()}, 0)
	if err != nil || len(m.Files) != 3 || m.Last != 7 {
		t.Fatalf("got %+v, %v", m, err)
	}
	return out.Bytes()
}

func same(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(text))
		}
	}
	if _, err := os.Stat(filepath.Join(dir, partialDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", partialDir, err)
	}
}

func TestRoundTrip(t *testing.T) {
	from, files := source(t)
	stream := send(t, from)
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "b.tar"), filepath.Join(dir, "b.tar.zst"), filepath.Join(dir, "b")} {
		save := SaveDir
		if filepath.Ext(path) != "" {
			save = SaveFile
		}
		for _, cut := range []int{0, 100, 5000, len(stream) / 2} { // nothing is left, and the next one goes through
			_, err := save(t.Context(), bytes.NewReader(stream[:cut]), path)
			if !errors.Is(err, ErrIncomplete) {
				t.Fatalf("%d bytes: %v", cut, err)
			}
			if entries, _ := filepath.Glob(path + "*/*"); len(entries) > 0 {
				t.Errorf("%d bytes left %v", cut, entries)
			}
		}
		m, err := save(t.Context(), bytes.NewReader(stream), path)
		if err != nil || m.Last != 7 || m.Bytes() != int64(len(files["log/segments/1/x"])+6) {
			t.Fatalf("%s: %+v, %v", path, m, err)
		}
		if _, err := save(t.Context(), bytes.NewReader(stream), path); !errors.Is(err, ErrExists) {
			t.Errorf("twice: %v", err)
		}
		if v, err := Verify(t.Context(), path); err != nil || v.Stream != m.Stream {
			t.Errorf("Verify: %+v, %v", v, err)
		}
		to := filepath.Join(dir, "restored-"+filepath.Base(path))
		if _, err := Restore(t.Context(), path, to); err != nil {
			t.Fatal(err)
		}
		same(t, to, files)
		if _, err := Restore(t.Context(), path, to); !errors.Is(err, ErrExists) {
			t.Errorf("over it: %v", err)
		}
	}
}

// Every damage is found, and what was half written is gone.
func TestDamage(t *testing.T) {
	from, _ := source(t)
	stream := send(t, from)
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved")
	if _, err := SaveDir(t.Context(), bytes.NewReader(stream), saved); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(saved, name) }
	for name, damage := range map[string]func() error{
		"a byte": func() error { return os.WriteFile(at("log/FORMAT"), []byte("farmat"), 0o644) },
		"longer": func() error { return os.WriteFile(at("log/FORMAT"), []byte("formats"), 0o644) },
		"gone":   func() error { return os.Remove(at("log/FORMAT")) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), saved); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "log/FORMAT") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Restore(t.Context(), saved, filepath.Join(dir, "r")); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if entries, _ := os.ReadDir(filepath.Join(dir, "r")); len(entries) > 0 {
			t.Errorf("%s left %v", name, entries)
		}
		if err := os.WriteFile(at("log/FORMAT"), []byte("format"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(at(ManifestName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), saved); !errors.Is(err, ErrIncomplete) {
		t.Errorf("without a manifest: %v", err)
	}
	flipped := bytes.Clone(stream)
	flipped[514] ^= 1 // within the first file
	if _, err := SaveFile(t.Context(), bytes.NewReader(flipped), filepath.Join(dir, "f.tar")); !errors.Is(err, ErrDamaged) {
		t.Errorf("a bit of a stream: %v", err)
	}
}

// A compressed file that is damaged or cut short is no backup; one that was compressed by
// other means, or under another name, is one.
func TestCompressed(t *testing.T) {
	from, files := source(t)
	stream := send(t, from)
	dir := t.TempDir()
	path := filepath.Join(dir, "b.tar.zst")
	if _, err := SaveFile(t.Context(), bytes.NewReader(stream), path); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) > len(stream)/20 {
		t.Fatalf("%d bytes of a stream take %d: %v", len(stream), len(whole), err)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), other, filepath.Join(dir, "to")); err != nil {
		t.Fatal(err)
	}
	same(t, filepath.Join(dir, "to"), files)
	for n := 0; n < len(whole); n += 1 + n/8 {
		damaged := bytes.Clone(whole)
		damaged[n] ^= 1
		for _, b := range [][]byte{whole[:n], damaged} {
			if err := os.WriteFile(other, b, 0o644); err != nil {
				t.Fatal(err)
			}
			m, err := Verify(t.Context(), other)
			if err == nil && m.Last != 7 || err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrIncomplete) {
				t.Fatalf("%d of %d bytes, or %d wrong: %+v, %v", len(b), len(whole), n, m, err)
			}
		}
	}
}

// endless is a tar stream of empty files that does not end, or of a manifest that does
// not, and counts what was read of it.
type endless struct {
	block []byte
	first []byte
	n     int64
}

func (e *endless) Read(b []byte) (int, error) {
	from := e.block
	if len(e.first) > 0 {
		n := copy(b, e.first)
		e.first = e.first[n:]
		return n, nil
	}
	n := copy(b, from[int(e.n)%len(from):])
	e.n += int64(n)
	return n, nil
}

// A stream that never ends, which a small compressed file can be, is given up before it
// takes memory.
func TestHostile(t *testing.T) {
	header := func(h tar.Header) []byte {
		var out bytes.Buffer
		if err := tar.NewWriter(&out).WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	long := strings.Repeat("x", 50_000)
	manifest := tar.Header{Name: ManifestName, Typeflag: tar.TypeReg, Size: 1 << 40}
	for name, c := range map[string]struct {
		in   *endless
		most int64 // bytes that are read
	}{
		"files":            {&endless{block: header(tar.Header{Name: long, Typeflag: tar.TypeReg})}, 128 << 20},
		"manifest":         {&endless{first: header(manifest), block: []byte(" ")}, 2 << 20},
		"files of nothing": {&endless{first: header(manifest), block: []byte("{},")}, 2 << 20},
	} {
		in := c.in
		var before, at runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := receive(t.Context(), tarArchive{in}, discard)
		runtime.ReadMemStats(&at)
		if grew := at.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrDamaged) || in.n > c.most || grew > 1<<30 {
			t.Errorf("%s: %d bytes read, %d of memory: %v", name, in.n, grew, err)
		}
	}
	text := []byte(`{"version":1,"files":[` + strings.TrimSuffix(strings.Repeat("{},", 1<<20), ",") + `]}`)
	if m, err := readManifest(bytes.NewReader(text), manifestBytesMax); !errors.Is(err, ErrDamaged) {
		t.Errorf("a manifest of %d files without names: %v", len(m.Files), err)
	}
}

// A stream that would write elsewhere is refused before it does.
func TestNames(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../evil", Typeflag: tar.TypeReg}, {Name: "/evil", Typeflag: tar.TypeReg}, {Name: "a/../../evil", Typeflag: tar.TypeReg},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "dir/", Typeflag: tar.TypeDir},
	} {
		var stream bytes.Buffer
		w := tar.NewWriter(&stream)
		text, _ := json.Marshal(Manifest{Version: manifestVersion, Files: []File{{Name: h.Name}}})
		err := errors.Join(w.WriteHeader(&h), w.WriteHeader(&tar.Header{Name: ManifestName, Typeflag: tar.TypeReg, Size: int64(len(text))}))
		if _, writeErr := w.Write(text); errors.Join(err, writeErr, w.Close()) != nil {
			t.Fatal(err, writeErr)
		}
		dir := filepath.Join(t.TempDir(), "in", "to")
		if _, err := SaveDir(t.Context(), &stream, dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
}

// The rate holds, and the end of the context is the end.
func TestRate(t *testing.T) {
	from, _ := source(t)
	began := time.Now()
	m, err := Send(t.Context(), io.Discard, from, Manifest{}, 2<<20)
	if want := time.Duration(float64(m.Bytes()-bufferBytes) / (2 << 20) * float64(time.Second)); err != nil || time.Since(began) < want {
		t.Errorf("%d bytes took %v, want at least %v: %v", m.Bytes(), time.Since(began), want, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := Send(ctx, io.Discard, from, Manifest{}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func FuzzStream(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("text"), 0o644); err != nil {
		f.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := Send(context.Background(), &out, dir, Manifest{}, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add(out.Bytes()[:700])
	var packed bytes.Buffer
	w, err := zstdfile.NewWriter(&packed)
	if err == nil {
		_, err = w.Write(out.Bytes())
	}
	if err := errors.Join(err, w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		in, err := zstdfile.NewReader(bytes.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		m, err := receive(t.Context(), tarArchive{in}, discard)
		if err == nil && m.Version != manifestVersion {
			t.Errorf("got %+v", m)
		}
	})
}
