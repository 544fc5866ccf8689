//go:build failpoint

package wal

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestFailpoints kills a writing process at every failpoint, again and again,
// and looks for what it had acknowledged. Run with -tags failpoint.
func TestFailpoints(t *testing.T) {
	if dir := os.Getenv("WALPROXY_TEST_DIR"); dir != "" {
		writeForEver(t, dir)
		return
	}
	points := []string{"wal-before-write", "wal-after-write", "wal-before-sync", "wal-after-sync", "wal-mid-roll",
		"wal-after-activate", "wal-mid-trash", "wal-mid-recovery", "wal-watermark"}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			dir := memoryDir(t)
			acked := LSN(0)
			for round := range 4 {
				count := 1 + round*3
				if point == "wal-mid-recovery" {
					count = 1
				}
				spec := fmt.Sprintf("%s=%d", point, count)
				if point == "wal-mid-recovery" && round%2 == 0 {
					spec = "wal-after-write=5" // leaves a tail to recover
				}
				acked = max(acked, killAt(t, dir, spec))
				copyDir(t, dir, dir+".copy") // the next round finds what the kill left
				l := mustOpen(t, dir+".copy", testOptions())
				if l.Durable() < acked {
					t.Fatalf("round %d: durable %d, acknowledged %d", round, l.Durable(), acked)
				}
				payloads, err := readAll(l, l.First())
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range payloads {
					if lsn := l.First() + LSN(i); !bytes.Equal(p, payloadOf(lsn, 700)) {
						t.Fatalf("round %d: LSN %d differs", round, lsn)
					}
				}
				mustClose(t, l)
				if err := os.RemoveAll(dir + ".copy"); err != nil {
					t.Fatal(err)
				}
			}
			if acked == 0 {
				t.Fatal("nothing was acknowledged")
			}
		})
	}
}

// killAt runs the writer until the failpoint kills it, and returns its last ack.
func killAt(t *testing.T, dir, spec string) (acked LSN) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestFailpoints$")
	cmd.Env = append(os.Environ(), "WALPROXY_TEST_DIR="+dir, "WALPROXY_FAILPOINTS="+spec)
	out, err := cmd.Output()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("%s did not kill: %v: %s", spec, err, out)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var lsn LSN
		if n, _ := fmt.Sscanf(lines.Text(), "acked %d", &lsn); n == 1 {
			acked = lsn
		}
	}
	return acked
}

// writeForEver appends, prints each ack, and releases as it goes. It ends after
// 10 s if nothing kills it.
func writeForEver(t *testing.T, dir string) {
	l := mustOpen(t, dir, testOptions())
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		lsn, err := l.Append(context.Background(), payloadOf(l.Appended()+1, 700))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("acked %d\n", lsn)
		if lsn%64 == 0 {
			l.Release(lsn - 32)
			time.Sleep(2 * watermarkDelay) // idle: the watermark is written
		}
	}
}

// TestRepairFailpoints kills a repair at each of its failpoints; the next one
// finishes.
func TestRepairFailpoints(t *testing.T) {
	if dir := os.Getenv("WALPROXY_TEST_DIR"); dir != "" {
		mustRepair(t, dir, RepairOptions{})
		return
	}
	root := memoryDir(t)
	origin := filepath.Join(root, "origin")
	last := smallLog(t, origin, false)
	ledger := ledgerOf(t, origin)
	for _, point := range []string{"repair-staged=1", "repair-decided=1", "repair-set-aside=1", "repair-set-aside=3",
		"repair-installed=1", "repair-installed=4", "repair-reported=1", "repair-done=1"} {
		t.Run(point, func(t *testing.T) {
			dir := filepath.Join(root, "log")
			copyDir(t, origin, dir)
			ruined(t, dir)
			kept := undamaged(t, dir, ledger)
			r, err := OpenRepair(dir, RepairOptions{})
			if err != nil {
				t.Fatal(err)
			}
			report := r.Report()
			mustClose(t, r)
			cmd := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestRepairFailpoints$")
			cmd.Env = append(os.Environ(), "WALPROXY_TEST_DIR="+dir, "WALPROXY_FAILPOINTS="+point)
			out, err := cmd.CombinedOutput()
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
				t.Fatalf("%s did not kill: %v: %s", point, err, out)
			}
			again := mustRepair(t, dir, RepairOptions{})
			if begun := point != "repair-staged=1" && point != "repair-done=1"; begun != again.Interrupted {
				t.Fatalf("interrupted: %v, want %v", again.Interrupted, begun)
			}
			checkRepaired(t, dir, last, kept, report)
		})
	}
}
