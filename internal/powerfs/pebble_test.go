package powerfs_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/powerfs"
)

// storeDir makes the test binary a store that runs until it is killed.
const storeDir = "POWERFS_TEST_STORE"

// runStore writes keys with and without fsync and prints each synced one.
func runStore(dir string) {
	db, err := pebble.Open(dir, &pebble.Options{MemTableSize: 64 << 10, Logger: quiet{}})
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	pid := os.Getpid()
	for i := 0; ; i++ {
		key, value := fmt.Sprintf("%d-%d", pid, i), strings.Repeat("v", 1000)
		if err := db.Set([]byte("unsynced-"+key), []byte(value), pebble.NoSync); err != nil {
			os.Exit(1)
		}
		if err := db.Set([]byte(key), []byte(value), pebble.Sync); err != nil {
			os.Exit(1)
		}
		fmt.Println(key)
	}
}

// TestPebble runs a real store on the disk, in its own process: what it synced
// is there after each power cut, whatever else survived.
func TestPebble(t *testing.T) {
	l := newLab(t, powerfs.Options{})
	var synced []string
	for round := range 4 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), storeDir+"="+l.path("db"))
		out, err := child.StdoutPipe()
		l.must(err)
		l.must(child.Start())
		lines, before := bufio.NewScanner(out), len(synced)
		for lines.Scan() {
			synced = append(synced, lines.Text())
			if len(synced)-before == 150 {
				l.mount.Cut(powerfs.CutOptions{Keep: float64(round%3) / 2, Granularity: 512, Seed: uint64(round)})
				break
			}
		}
		if len(synced)-before < 150 {
			t.Fatalf("round %d: the store ended early: %s", round, synced[before:])
		}
		l.must(child.Process.Kill())
		for lines.Scan() { // printed before the kill, so synced before the cut
			if key := lines.Text(); strings.Contains(key, "-") && !strings.Contains(key, " ") {
				synced = append(synced, key)
			}
		}
		_ = child.Wait()
		l.must(l.mount.Restart())
		l.checkStore(synced)
	}
}

func (l *lab) checkStore(synced []string) {
	l.Helper()
	db, err := pebble.Open(l.path("db"), &pebble.Options{Logger: quiet{}})
	l.must(err)
	for _, key := range synced {
		_, closer, err := db.Get([]byte(key))
		if err != nil {
			l.Fatalf("%s was synced: %v", key, err)
		}
		l.must(closer.Close())
	}
	l.must(db.Close())
}

// quiet keeps the store's chatter out of the test's output.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}
