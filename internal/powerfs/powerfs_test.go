package powerfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/powerfs"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(storeDir); dir != "" {
		runStore(dir)
	}
	goleak.VerifyTestMain(m)
}

// lab is a mounted disk.
type lab struct {
	*testing.T
	disk  *powerfs.Disk
	mount *powerfs.Mount
}

func newLab(t *testing.T, o powerfs.Options) *lab {
	t.Helper()
	disk := powerfs.NewDisk(o)
	mount, err := powerfs.NewMount(disk, t.TempDir())
	if errors.Is(err, powerfs.ErrUnavailable) {
		t.Skipf("POWER CUTS ARE NOT TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return &lab{T: t, disk: disk, mount: mount}
}

func (l *lab) path(name string) string { return filepath.Join(l.mount.Dir(), name) }

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// write writes the file, and syncs it if asked.
func (l *lab) write(name, content string, sync bool) {
	l.Helper()
	f, err := os.Create(l.path(name))
	l.must(err)
	_, err = f.WriteString(content)
	l.must(err)
	if sync {
		l.must(f.Sync())
	}
	l.must(f.Close())
}

func (l *lab) syncDir(name string) {
	l.Helper()
	f, err := os.Open(l.path(name))
	l.must(err)
	l.must(f.Sync())
	l.must(f.Close())
}

func (l *lab) cut(o powerfs.CutOptions) {
	l.Helper()
	l.mount.Cut(o)
	l.must(l.mount.Restart())
}

// tree returns every path with its content; directories end in a slash.
func (l *lab) tree() map[string]string {
	l.Helper()
	got := map[string]string{}
	l.must(filepath.WalkDir(l.mount.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == l.mount.Dir() {
			return err
		}
		name, _ := filepath.Rel(l.mount.Dir(), path)
		if e.IsDir() {
			got[name+"/"] = ""
			return nil
		}
		content, err := os.ReadFile(path)
		got[name] = string(content)
		return err
	}))
	return got
}

func (l *lab) wantTree(want map[string]string) {
	l.Helper()
	if got := l.tree(); fmt.Sprint(got) != fmt.Sprint(want) {
		l.Errorf("after the power cut: %q, want %q", got, want)
	}
}

// TestCut tries, with real system calls, what a power cut leaves.
func TestCut(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for _, c := range []struct {
		name string
		opts powerfs.Options
		do   func(l *lab)
		want map[string]string
	}{
		{name: "write without fsync", do: func(l *lab) {
			l.write("a", "old", true)
			l.syncDir("")
			l.write("a", "new", false)
		}, want: map[string]string{"a": "old"}},
		{name: "new file without fsync is empty", do: func(l *lab) {
			l.write("a", "data", false)
			l.syncDir("")
		}, want: map[string]string{"a": ""}},
		{name: "fsync'd file without its entry", do: func(l *lab) {
			l.write("a", "data", true)
		}, want: map[string]string{}},
		{name: "fsync'd file without its entry, the ext4 way", opts: powerfs.Options{EntryWithFile: true}, do: func(l *lab) {
			l.write("a", "data", true)
		}, want: map[string]string{"a": "data"}},
		{name: "both synced", do: func(l *lab) {
			l.write("a", long, true)
			l.syncDir("")
		}, want: map[string]string{"a": long}},
		{name: "rename without directory fsync", do: func(l *lab) {
			l.write("a", "1", true)
			l.syncDir("")
			l.must(os.Rename(l.path("a"), l.path("b")))
		}, want: map[string]string{"a": "1"}},
		{name: "rename over, synced", do: func(l *lab) {
			l.write("a", "1", true)
			l.write("b", "2", true)
			l.syncDir("")
			l.must(os.Rename(l.path("a"), l.path("b")))
			l.syncDir("")
		}, want: map[string]string{"b": "1"}},
		{name: "rename over, not synced", do: func(l *lab) {
			l.write("a", "1", true)
			l.write("b", "2", true)
			l.syncDir("")
			l.must(os.Rename(l.path("a"), l.path("b")))
		}, want: map[string]string{"a": "1", "b": "2"}},
		{name: "unlink without directory fsync", do: func(l *lab) {
			l.write("a", "1", true)
			l.syncDir("")
			l.must(os.Remove(l.path("a")))
		}, want: map[string]string{"a": "1"}},
		{name: "unlink synced", do: func(l *lab) {
			l.write("a", "1", true)
			l.syncDir("")
			l.must(os.Remove(l.path("a")))
			l.syncDir("")
		}, want: map[string]string{}},
		{name: "mkdir without parent fsync", do: func(l *lab) {
			l.must(os.Mkdir(l.path("d"), 0o755))
			l.write("d/a", "1", true)
			l.syncDir("d")
		}, want: map[string]string{}},
		{name: "mkdir synced, its content not", do: func(l *lab) {
			l.must(os.Mkdir(l.path("d"), 0o755))
			l.syncDir("")
			l.write("d/a", "1", true)
		}, want: map[string]string{"d/": ""}},
		{name: "rmdir without parent fsync", do: func(l *lab) {
			l.must(os.Mkdir(l.path("d"), 0o755))
			l.syncDir("")
			l.must(os.Remove(l.path("d")))
		}, want: map[string]string{"d/": ""}},
		{name: "move between directories, only the old one synced", do: func(l *lab) {
			l.must(os.Mkdir(l.path("d"), 0o755))
			l.write("a", "1", true)
			l.syncDir("")
			l.must(os.Rename(l.path("a"), l.path("d/b")))
			l.syncDir("")
		}, want: map[string]string{"d/": "", "d/b": "1"}},
		{name: "move between directories, not synced", do: func(l *lab) {
			l.must(os.Mkdir(l.path("d"), 0o755))
			l.write("a", "1", true)
			l.syncDir("")
			l.must(os.Rename(l.path("a"), l.path("d/b")))
		}, want: map[string]string{"d/": "", "a": "1"}},
		{name: "hard link", do: func(l *lab) {
			l.write("a", "1", true)
			l.syncDir("")
			l.must(os.Link(l.path("a"), l.path("b")))
			l.syncDir("")
			l.must(os.Remove(l.path("a")))
		}, want: map[string]string{"a": "1", "b": "1"}},
		{name: "truncate without fsync", do: func(l *lab) {
			l.write("a", long, true)
			l.syncDir("")
			l.must(os.Truncate(l.path("a"), 3))
		}, want: map[string]string{"a": long}},
		{name: "truncate, fsync, longer again", do: func(l *lab) {
			l.write("a", long, true)
			l.syncDir("")
			f, err := os.OpenFile(l.path("a"), os.O_RDWR, 0)
			l.must(err)
			l.must(f.Truncate(2))
			l.must(f.Sync())
			l.must(f.Truncate(4))
			l.must(f.Sync())
			l.must(f.Close())
		}, want: map[string]string{"a": "xx\x00\x00"}},
		{name: "append after fsync", do: func(l *lab) {
			f, err := os.OpenFile(l.path("a"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			l.must(err)
			_, _ = f.WriteString("one")
			l.must(f.Sync())
			_, _ = f.WriteString("two")
			l.must(f.Close())
			l.syncDir("")
		}, want: map[string]string{"a": "one"}},
		{name: "fdatasync covers the size", do: func(l *lab) {
			f, err := os.Create(l.path("a"))
			l.must(err)
			l.must(unix.Fallocate(int(f.Fd()), 0, 0, 4))
			_, err = f.WriteAt([]byte("ab"), 0)
			l.must(err)
			l.must(unix.Fdatasync(int(f.Fd())))
			l.must(f.Close())
			l.syncDir("")
		}, want: map[string]string{"a": "ab\x00\x00"}},
		{name: "sync_file_range is no fsync", do: func(l *lab) {
			f, err := os.Create(l.path("a"))
			l.must(err)
			l.syncDir("")
			_, err = f.WriteString("data")
			l.must(err)
			l.must(unix.SyncFileRange(int(f.Fd()), 0, 4, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
			l.must(f.Close())
		}, want: map[string]string{"a": ""}},
		{name: "O_DSYNC writes are durable", do: func(l *lab) {
			f, err := os.OpenFile(l.path("a"), os.O_CREATE|os.O_WRONLY|unix.O_DSYNC, 0o644)
			l.must(err)
			_, err = f.WriteString("data")
			l.must(err)
			l.must(f.Close())
			l.syncDir("")
		}, want: map[string]string{"a": "data"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, c.opts)
			c.do(l)
			l.cut(powerfs.CutOptions{})
			l.wantTree(c.want)
		})
	}
}

// TestNoPower checks that everything fails after the cut and works after the
// restart.
func TestNoPower(t *testing.T) {
	l := newLab(t, powerfs.Options{})
	l.write("a", "1", true)
	l.syncDir("")
	f, err := os.OpenFile(l.path("a"), os.O_RDWR, 0)
	l.must(err)
	l.mount.Cut(powerfs.CutOptions{})
	_, writeErr := f.WriteAt([]byte("2"), 0)
	_, readErr := f.ReadAt(make([]byte, 1), 0)
	_, openErr := os.Open(l.path("a"))
	for name, err := range map[string]error{
		"write": writeErr, "read": readErr, "fsync": f.Sync(), "open": openErr,
		"mkdir": os.Mkdir(l.path("d"), 0o755), "rename": os.Rename(l.path("a"), l.path("b")),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s without power: %v, want EIO", name, err)
		}
	}
	_ = f.Close()
	l.must(l.mount.Restart())
	l.wantTree(map[string]string{"a": "1"})
	l.write("a", "3", true)
	l.cut(powerfs.CutOptions{})
	l.wantTree(map[string]string{"a": "3"})
}

// TestKeep checks cuts that keep a part: sectors tear, nothing is invented, one
// seed gives one result.
func TestKeep(t *testing.T) {
	before, after := bytes.Repeat([]byte("a"), 64<<10), bytes.Repeat([]byte("b"), 64<<10)
	run := func(seed uint64, granularity int) []byte {
		l := newLab(t, powerfs.Options{})
		l.write("a", string(before), true)
		l.syncDir("")
		f, err := os.OpenFile(l.path("a"), os.O_RDWR, 0)
		l.must(err)
		_, err = f.WriteAt(after, 0)
		l.must(err)
		l.must(f.Close())
		l.cut(powerfs.CutOptions{Keep: 0.5, Granularity: granularity, Seed: seed})
		got, err := os.ReadFile(l.path("a"))
		l.must(err)
		return got
	}
	for _, granularity := range []int{512, 4096} {
		got := run(7, granularity)
		if len(got) != len(before) || bytes.Equal(got, before) || bytes.Equal(got, after) {
			t.Fatalf("granularity %d: not a mixture", granularity)
		}
		for i := 0; i < len(got); i += granularity {
			if piece := got[i : i+granularity]; bytes.Count(piece, piece[:1]) != granularity {
				t.Fatalf("granularity %d: the piece at %d is torn", granularity, i)
			}
		}
		if !bytes.Equal(got, run(7, granularity)) {
			t.Errorf("granularity %d: the same seed gave another result", granularity)
		}
	}
	if torn := run(7, 512); !tornPage(torn) {
		t.Error("no page was torn at 512 bytes")
	}
}

// TestKeepMoved moves a file between directories, syncing neither: whatever
// survives of that, the file does.
func TestKeepMoved(t *testing.T) {
	l := newLab(t, powerfs.Options{})
	l.must(errors.Join(os.Mkdir(l.path("a"), 0o755), os.Mkdir(l.path("b"), 0o755)))
	l.write("a/f", "1", true)
	l.syncDir("")
	l.syncDir("a")
	from, to := "a/f", "b/f"
	for seed := range uint64(40) {
		l.must(os.Rename(l.path(from), l.path(to)))
		l.cut(powerfs.CutOptions{Keep: 0.5, Seed: seed})
		got := l.tree()
		if got[from] != "1" && got[to] != "1" {
			t.Fatalf("seed %d: neither %s nor %s is there: %q", seed, from, to, got)
		}
		if got[to] == "1" {
			from, to = to, from
			_ = os.Remove(l.path(to)) // both names may have survived
		}
		l.syncDir("a")
		l.syncDir("b")
	}
}

// TestKeepTruncated truncates without a sync: if the shorter size survives, what
// was behind it does not come back.
func TestKeepTruncated(t *testing.T) {
	l := newLab(t, powerfs.Options{})
	short := 0
	for seed := range uint64(40) {
		l.write("f", "abcdefgh", true)
		l.syncDir("")
		l.must(os.Truncate(l.path("f"), 3))
		l.cut(powerfs.CutOptions{Keep: 0.5, Seed: seed})
		info, err := os.Stat(l.path("f"))
		l.must(err)
		l.must(os.Truncate(l.path("f"), 8))
		got, err := os.ReadFile(l.path("f"))
		l.must(err)
		if info.Size() < 8 {
			short++
		}
		behind := string(got[info.Size():])
		if string(got[:3]) != "abc" || strings.Trim(behind, "\x00") != "" {
			t.Fatalf("seed %d: %d bytes survived, then %q", seed, info.Size(), got)
		}
	}
	if short == 0 {
		t.Error("the shorter size never survived")
	}
}

func tornPage(data []byte) bool {
	for i := 0; i < len(data); i += 4096 {
		if page := data[i : i+4096]; bytes.Count(page, page[:1]) != 4096 {
			return true
		}
	}
	return false
}

// TestFull checks the bound and that space comes back.
func TestFull(t *testing.T) {
	l := newLab(t, powerfs.Options{Capacity: 1 << 20})
	big := make([]byte, 2<<20)
	if err := os.WriteFile(l.path("a"), big, 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("2 MiB on a disk of 1 MiB: %v, want ENOSPC", err)
	}
	var st unix.Statfs_t
	l.must(unix.Statfs(l.mount.Dir(), &st))
	if st.Bavail != 0 {
		t.Errorf("full, but %d blocks are free", st.Bavail)
	}
	l.must(os.Remove(l.path("a")))
	for range 50 { // the kernel forgets files a little later
		l.waitEmpty()
		l.write("b", strings.Repeat("x", 512<<10), false)
		l.must(os.Remove(l.path("b")))
	}
	l.waitEmpty()
}

// waitEmpty waits until the disk holds no data.
func (l *lab) waitEmpty() {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); l.disk.Stats().Bytes > 0; {
		if time.Now().After(deadline) {
			l.Fatalf("%d bytes of removed files are still held", l.disk.Stats().Bytes)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestLock checks that flock shuts out a second open file.
func TestLock(t *testing.T) {
	l := newLab(t, powerfs.Options{})
	a, err := os.Create(l.path("LOCK"))
	l.must(err)
	b, err := os.Open(l.path("LOCK"))
	l.must(err)
	l.must(unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err := unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second flock: %v, want EWOULDBLOCK", err)
	}
	l.must(a.Close())
	l.must(unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	l.must(b.Close())
}

// TestRandom does what it likes for a while and holds the disk to one rule:
// what was synced and not touched since is there after a cut.
func TestRandom(t *testing.T) {
	rounds := 30
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 500
	}
	l := newLab(t, powerfs.Options{})
	for seed := range uint64(rounds) {
		l.must(os.RemoveAll(l.path("r")))
		l.must(os.Mkdir(l.path("r"), 0o755))
		l.syncDir("")
		var wg sync.WaitGroup
		kept := make([]map[string]string, 4)
		for worker := range kept {
			wg.Go(func() { kept[worker] = l.scribble(worker, seed) })
		}
		wg.Wait()
		l.syncDir("r")
		// Each worker's files had their data synced; now their names are, too.
		for _, files := range kept {
			for name := range files { // unsynced changes to what is not promised
				_ = os.WriteFile(l.path(name+".later"), []byte("later"), 0o644)
			}
		}
		l.cut(powerfs.CutOptions{Keep: float64(seed%4) / 3, Granularity: 512, Seed: seed})
		got := l.tree()
		for _, files := range kept {
			for name, want := range files {
				if got[name] != want {
					t.Fatalf("seed %d: %s has %d bytes, want %d as synced", seed, name, len(got[name]), len(want))
				}
			}
		}
	}
}

// scribble writes some files in uneven pieces, syncs each and renames it.
func (l *lab) scribble(worker int, seed uint64) map[string]string {
	kept := map[string]string{}
	for i := range 3 {
		content := strings.Repeat(fmt.Sprintf("%d-%d-%d|", worker, seed, i), 1+int(seed)*37%2000)
		name := fmt.Sprintf("r/%d-%d", worker, i)
		f, err := os.Create(l.path(name + ".tmp"))
		if err != nil {
			l.Error(err)
			return nil
		}
		for rest := content; rest != ""; {
			n := min(len(rest), 1+len(rest)/3)
			_, err = f.WriteString(rest[:n])
			rest = rest[n:]
			if err != nil {
				l.Error(err)
			}
		}
		if err := errors.Join(f.Sync(), f.Close(), os.Rename(l.path(name+".tmp"), l.path(name))); err != nil {
			l.Error(err)
		}
		kept[name] = content
	}
	return kept
}
