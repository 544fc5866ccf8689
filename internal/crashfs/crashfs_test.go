package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

// put writes a file and syncs it if told to.
func put(t *testing.T, d *Disk, path, text string, sync bool) {
	t.Helper()
	f, err := d.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tree returns every path on a file system and what is there.
func tree(t *testing.T, fsys vfs.FS, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := fsys.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			all[path] = "directory"
			maps.Copy(all, tree(t, fsys, path))
			continue
		}
		b, err := vfs.ReadFile(fsys, path, 1<<20)
		must(t, err)
		all[path] = string(b)
	}
	return all
}

func expect(t *testing.T, d *Disk, want map[string]string) {
	t.Helper()
	if got := tree(t, d, "/"); !maps.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
}

// TestCut: what a power cut leaves is what was synced, or all of it.
func TestCut(t *testing.T) {
	d := New(0)
	must(t, d.MkdirAll("/a", 0o755))
	put(t, d, "/a/synced", "one", true)
	put(t, d, "/a/not", "two", false)
	expect(t, d.Cut(Cut{}), map[string]string{})
	must(t, d.SyncDir("/"))
	expect(t, d.Cut(Cut{}), map[string]string{"/a": "directory"})
	must(t, d.SyncDir("/a"))
	expect(t, d.Cut(Cut{}), map[string]string{"/a": "directory", "/a/synced": "one", "/a/not": ""})
	expect(t, d.Cut(Cut{Keep: 1}), map[string]string{"/a": "directory", "/a/synced": "one", "/a/not": "two"})
	must(t, d.MkdirAll("/b", 0o755), d.SyncDir("/"), d.Rename("/a/synced", "/b/moved"), d.Remove("/a/not"))
	put(t, d, "/b/moved", "1", false)
	before := map[string]string{"/a": "directory", "/b": "directory", "/a/synced": "one", "/a/not": ""}
	expect(t, d.Cut(Cut{}), before)
	if n := d.Pending(); n != 2 {
		t.Fatalf("%d changes of names are pending", n)
	}
	expect(t, d.Cut(Cut{Keep: 1, Names: func(i int) bool { return i == 1 }}), map[string]string{"/a": "directory", "/b": "directory", "/a/synced": "1ne"})
	// A rename is durable by either of its directories, and whole.
	must(t, d.SyncDir("/b"))
	after := map[string]string{"/a": "directory", "/b": "directory", "/b/moved": "one", "/a/not": ""}
	expect(t, d.Cut(Cut{}), after)
	put(t, d, "/b/moved", "1", true)
	must(t, d.SyncDir("/a"))
	expect(t, d.Cut(Cut{}), map[string]string{"/a": "directory", "/b": "directory", "/b/moved": "1ne"})
}

// TestSectors: of a write each sector survives or not, and the size on its own.
func TestSectors(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(400) {
		d := New(0)
		put(t, d, "/f", strings.Repeat("-", 700), true)
		must(t, d.SyncDir("/"))
		put(t, d, "/f", strings.Repeat("x", 1536), false)
		b, err := vfs.ReadFile(d.Cut(Cut{Keep: 0.5, Seed: seed}), "/f", 1<<20)
		must(t, err)
		shape := fmt.Sprint(len(b), " ")
		for at := 0; at < len(b); at += 512 {
			piece := b[at:min(at+512, len(b))]
			shape += string(piece[:1])
			if at != 512 && strings.Trim(string(piece), string(piece[:1])) != "" {
				t.Fatalf("seed %d: the sector at %d is torn", seed, at)
			}
		}
		seen[shape] = true
	}
	for _, shape := range []string{"700 --", "700 x-", "1024 -x", "1536 xxx", "1536 -xx", "1536 --\x00", "1536 x-x"} {
		if !seen[shape] {
			t.Errorf("never left %q; only %q", shape, slices.Sorted(maps.Keys(seen)))
		}
	}
}

// TestFailedSync: what it was for is seen, and no later sync makes it durable.
func TestFailedSync(t *testing.T) {
	d := New(0)
	put(t, d, "/f", "old", true)
	must(t, d.SyncDir("/"))
	d.SetHook(func(c Call) error {
		if c.Kind == Sync || c.Kind == SyncDir {
			return syscall.EIO
		}
		return nil
	})
	f, err := d.OpenFile("/f", os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("new"), 0)
	must(t, err)
	put(t, d, "/g", "", false)
	if err := errors.Join(f.Sync()); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := d.SyncDir("/"); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.SetHook(nil)
	must(t, f.Sync(), d.SyncDir("/"), f.Close())
	expect(t, d, map[string]string{"/f": "new", "/g": ""})
	expect(t, d.Cut(Cut{Keep: 1}), map[string]string{"/f": "old"})
	put(t, d, "/h", "", false) // the directory is written again
	must(t, d.SyncDir("/"))
	expect(t, d.Cut(Cut{}), map[string]string{"/f": "old", "/g": "", "/h": ""})
}

// TestFull: a write takes what there is room for.
func TestFull(t *testing.T) {
	d := New(10)
	put(t, d, "/f", "1234567", true)
	f, err := d.OpenFile("/g", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	must(t, err)
	if n, err := f.Write([]byte("12345")); n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(n, err)
	}
	must(t, d.Remove("/f"))
	if n, err := f.Write([]byte("45")); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if space, err := d.Space("/"); err != nil || space.Free != 5 {
		t.Fatal(space, err)
	}
}

// TestLikeTheSystem makes the same random calls here and on the operating system's
// file system: both say and show the same. A replay shows it again.
func TestLikeTheSystem(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d, dir := New(0), t.TempDir()
		for range 200 {
			do := randomCall(rng)
			got, want := do(d, ""), do(vfs.OS(), dir)
			if (got == nil) != (want == nil) || errors.Is(got, fs.ErrExist) != errors.Is(want, fs.ErrExist) {
				t.Fatalf("seed %d: %v, the system says %v", seed, got, want)
			}
		}
		want := map[string]string{}
		for path, text := range tree(t, vfs.OS(), dir) {
			want[strings.TrimPrefix(path, dir)] = text
		}
		expect(t, d, want)
		again := New(0)
		for _, c := range d.Calls() {
			again.Replay(c)
		}
		expect(t, again, want)
		expect(t, d.Clone(), want)
		expect(t, d.Cut(Cut{Keep: 1}), want)
	}
}

func randomCall(rng *rand.Rand) func(fsys vfs.FS, root string) error {
	names := []string{"/a", "/b", "/a/c", "/a/d", "/b/c", "/a/d/e"}
	one, two := names[rng.IntN(len(names))], names[rng.IntN(len(names))]
	offset, size, text := rng.Int64N(3000), rng.Int64N(3000), strings.Repeat(string(rune('a'+rng.IntN(26))), rng.IntN(900))
	flag := []int{0, os.O_CREATE, os.O_CREATE | os.O_TRUNC, os.O_CREATE | os.O_EXCL}[rng.IntN(4)]
	switch rng.IntN(8) {
	case 0:
		return func(fsys vfs.FS, root string) error { return fsys.MkdirAll(root+one, 0o755) }
	case 1:
		return func(fsys vfs.FS, root string) error { return fsys.Rename(root+one, root+two) }
	case 2:
		return func(fsys vfs.FS, root string) error { return fsys.Remove(root + one) }
	case 3:
		return func(fsys vfs.FS, root string) error { return fsys.RemoveAll(root + one) }
	case 4:
		return func(fsys vfs.FS, root string) error { return fsys.Link(root+one, root+two) }
	case 5:
		return func(fsys vfs.FS, root string) error { return fsys.SyncDir(root + filepath.Dir(one)) }
	}
	return func(fsys vfs.FS, root string) error {
		f, err := fsys.OpenFile(root+one, os.O_RDWR|flag, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte(text), offset)
		if size%3 == 0 {
			err = errors.Join(err, f.Truncate(size))
		}
		if size%5 == 0 {
			err = errors.Join(err, f.Datasync())
		}
		return errors.Join(err, f.Close())
	}
}
