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
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
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
	for _, path := range []string{filepath.Join(dir, "b.tar"), filepath.Join(dir, "b")} {
		save := SaveDir
		if filepath.Ext(path) == ".tar" {
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
	f.Fuzz(func(t *testing.T, stream []byte) {
		m, err := receive(t.Context(), tarArchive{bytes.NewReader(stream)}, discard)
		if err == nil && m.Version != manifestVersion {
			t.Errorf("got %+v", m)
		}
	})
}
