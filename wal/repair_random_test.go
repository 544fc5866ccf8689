package wal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// freedLog is a log of several starts of which the first segments were freed.
func freedLog(t *testing.T, dir string) (first, last LSN) {
	t.Helper()
	o := testOptions()
	o.SegmentBytes = 400
	work := dir + ".work"
	for start := range 4 {
		l := mustOpen(t, work, o)
		for range 2 + 3*start {
			appendN(t, l, 1+start%2, damageSize)
		}
		awaitWatermark(t, l)
		if start == 2 {
			l.Release(l.Durable() - 6)
			eventually(t, "the files to be deleted", func() bool { return len(segmentsIn(t, work)) == l.Stats().Segments })
		}
		if start == 3 {
			copyDir(t, work, dir)
			first, last = l.First(), l.Durable()
		}
		mustClose(t, l)
	}
	if first == 1 {
		t.Fatal("nothing was freed")
	}
	return first, last
}

// TestRepairRandom damages logs in several places at once, over and over.
func TestRepairRandom(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("WALPROXY_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("WALPROXY_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	first, last := freedLog(t, origin)
	ledger := ledgerOf(t, origin)
	rounds := 40
	if longTest() {
		rounds = 20_000
	}
	needed := 0
	for round := range rounds {
		copyDir(t, origin, dir)
		var done []string
		for range 1 + rnd.IntN(3) {
			done = append(done, harm(t, rnd, dir))
		}
		kept := undamaged(t, dir, ledger)
		r, err := OpenRepair(dir, RepairOptions{})
		if err != nil {
			t.Fatalf("round %d: %v: %v", round, done, err)
		}
		report := r.Report()
		if err := r.Apply(); err != nil {
			t.Fatalf("round %d: %v: %v\n%s", round, done, err, textOf(report))
		}
		mustClose(t, r)
		if report.Needed() {
			needed++
		}
		if t.Failed() || os.Getenv("WALPROXY_SEED") != "" {
			t.Logf("round %d: %v\n%s", round, done, textOf(report))
		}
		checkRepairedAgain(t, dir, RepairOptions{})
		l, err := Open(dir, testOptions())
		if err != nil {
			t.Fatalf("round %d: %v: %v\n%s", round, done, err, textOf(report))
		}
		got, _ := readGaps(t, l)
		for _, r := range ledger {
			payload, ok := got[r.lsn]
			if ok && !bytes.Equal(payload, payloadOf(r.lsn, damageSize)) {
				t.Fatalf("round %d: %v: LSN %d is not what was written", round, done, r.lsn)
			}
			if !ok && kept[r.lsn] {
				t.Fatalf("round %d: %v: LSN %d was not damaged and is gone\n%s", round, done, r.lsn, textOf(report))
			}
			if !ok && !lostIn(report, r.lsn) && r.lsn >= l.First() {
				t.Fatalf("round %d: %v: LSN %d is gone, and the report does not say so\n%s", round, done, r.lsn, textOf(report))
			}
		}
		if next, err := l.Append(testContext(t), []byte("x")); err != nil || next <= last {
			t.Fatalf("round %d: %v: the next LSN is %d after %d: %v", round, done, next, last, err)
		}
		mustClose(t, l)
	}
	if needed < rounds/2 || first < 2 {
		t.Fatalf("%d of %d logs needed a repair", needed, rounds)
	}
}

// harm does one thing to the log's files.
func harm(t *testing.T, rnd *rand.Rand, dir string) string {
	t.Helper()
	names := filesIn(t, dir)
	name := names[rnd.IntN(len(names))]
	for name == "LOCK" || rnd.IntN(3) > 0 && (name == "FORMAT" || name == "watermark") {
		name = names[rnd.IntN(len(names))]
	}
	path := filepath.Join(dir, name)
	b := mustRead(t, path)
	at := rnd.IntN(len(b))
	n := 1 + rnd.IntN(len(b)-at)
	what := []string{"flip", "zero", "garbage", "truncate", "remove", "double"}[rnd.IntN(6)]
	if name == "watermark" { // with the newer slot alone lost, damage of the tail cannot be told from a torn one
		what = "remove"
	}
	switch what {
	case "flip":
		b[at] ^= 1 << rnd.IntN(8)
	case "zero":
		clear(b[at : at+n])
	case "garbage":
		for i := range b[at : at+n] {
			b[at+i] = byte(rnd.Uint32())
		}
	case "truncate":
		b = b[:at]
	case "remove":
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("remove %s", name)
	case "double": // over another one
		other := names[rnd.IntN(len(names))]
		if other == "watermark" || other == "LOCK" {
			return "nothing"
		}
		mustWrite(t, filepath.Join(dir, other), b)
		return fmt.Sprintf("%s over %s", name, other)
	}
	mustWrite(t, path, b)
	return fmt.Sprintf("%s %s at %d, %d bytes", what, name, at, n)
}
