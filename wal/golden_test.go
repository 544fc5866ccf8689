package wal

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

var updateGolden = flag.Bool("update-golden", false, "write the golden log of the current format version, which must not exist")

// goldenDir holds a log of every format version and engine that was ever written,
// named VERSION-ENGINE, and beside it a file that says what is in it. They are
// never changed: a version that is given up is deleted with the code that reads it.
const goldenDir = "testdata/golden"

// TestGolden: every log that an earlier version wrote is read: by an inspection,
// by a start, and with the same contents.
func TestGolden(t *testing.T) {
	if *updateGolden {
		writeGolden(t)
	}
	contents, err := filepath.Glob(filepath.Join(goldenDir, "*.txt"))
	if err != nil || len(contents) == 0 {
		t.Fatalf("no golden logs: %v", err)
	}
	seen := map[string]bool{}
	for _, name := range contents {
		name = strings.TrimSuffix(name, ".txt")
		seen[filepath.Base(name)] = true
		t.Run(filepath.Base(name), func(t *testing.T) {
			want := string(mustRead(t, name+".txt"))
			dir := filepath.Join(memoryDir(t), "log")
			copyDir(t, name, dir)
			in := mustInspect(t, dir)
			if got := describeGolden(t, in); got != want {
				t.Fatalf("inspected:\n%s\nwant:\n%s", got, want)
			}
			l := mustOpen(t, dir, testOptions())
			if l.Durable() != in.Last || l.First() != in.First {
				t.Fatalf("a start finds LSN %d to %d, want %d to %d", l.First(), l.Durable(), in.First, in.Last)
			}
			appendN(t, l, 1, damageSize)
			mustClose(t, l)
		})
	}
	for _, l := range layouts {
		if name := fmt.Sprintf("%d-%s", formatVersion, l.name()); !seen[name] {
			t.Errorf("there is no golden log %s: run go test ./wal -run TestGolden -update-golden", name)
		}
	}
}

// describeGolden says all that is in a log.
func describeGolden(t *testing.T, in *Inspection) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "stream %s clean %v refusal %v\n", in.Stream, in.Clean, in.Refusal)
	for _, p := range in.Incarnations {
		fmt.Fprintf(&b, "incarnation %s from LSN %d\n", p.Incarnation, p.LSN)
	}
	for _, s := range in.Segments {
		fmt.Fprintf(&b, "segment %d %s %s LSN %d to %d boot %d\n", s.Seq, s.Engine, s.State, s.First, s.Last, s.Boot)
	}
	for f, err := range in.Frames(0) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "LSN %d to %d gap %v durable %d incarnation %s payload %x\n", f.LSN, f.Last, f.Gap, f.Durable, f.Incarnation, f.Payload)
	}
	return b.String()
}

// goldenRecord is a record as a server writes it.
func goldenRecord(t *testing.T, n int) []byte {
	t.Helper()
	payload, err := mutation.Encode(nil, &walproxyv1.Record{
		Format: mutation.Format, AcceptedUnixNanos: 1_700_000_000_000_000_000 + int64(n), Routes: []string{"main"},
		Body: &walproxyv1.Record_Mutation{Mutation: &walproxyv1.Mutation{
			Collection: "orders", Key: mutation.String(fmt.Sprint(n)), RequestId: fmt.Sprintf("request-%d", n),
			Ops: []*walproxyv1.Op{{Kind: &walproxyv1.Op_Set_{Set: &walproxyv1.Op_Set{Fields: map[string]*walproxyv1.Value{
				"n": {Kind: &walproxyv1.Value_Int64{Int64: int64(n)}}}}}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// writeGolden writes the logs of the current version: one of two starts and several
// segments, and one of the same records with a gap.
func writeGolden(t *testing.T) {
	t.Helper()
	name := filepath.Join(goldenDir, fmt.Sprintf("%d-%s", formatVersion, testLayout().name()))
	if _, err := os.Stat(name); err == nil {
		t.Fatalf("%s exists: golden logs are not changed", name)
	}
	o := testOptions()
	o.SegmentBytes = 400
	for start := range 2 {
		l := mustOpen(t, name, o)
		for i := range 4 {
			if _, err := l.Append(testContext(t), goldenRecord(t, 4*start+i+1)); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, l)
	}
	in := mustInspect(t, name)
	dirs := []string{name}
	if testLayout() == (tidwallLayout{}) { // which Restore writes
		dirs = append(dirs, writeGoldenGap(t, name+"-gap", in))
	}
	for _, dir := range dirs {
		for _, not := range []string{"trash", "quarantine", lockFile} { // git keeps no empty directories
			if err := os.RemoveAll(filepath.Join(dir, not)); err != nil {
				t.Fatal(err)
			}
		}
		mustWrite(t, dir+".txt", []byte(describeGolden(t, mustInspect(t, dir))))
	}
}

func writeGoldenGap(t *testing.T, gap string, in *Inspection) string {
	t.Helper()
	r, err := Restore(gap, RestoreOptions{Stream: in.Stream, Incarnations: in.Incarnations, First: in.First, Boot: 7, SegmentBytes: 400})
	if err != nil {
		t.Fatal(err)
	}
	for f, err := range in.Frames(0) {
		if err == nil && f.LSN == 3 {
			err = r.Gap(3, 3)
		} else if err == nil {
			err = r.Record(f.LSN, f.Payload)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, r)
	return gap
}

// TestGoldenNewer: the same log of a later version is refused as such everywhere.
func TestGoldenNewer(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	copyDir(t, filepath.Join(goldenDir, "1-tidwall"), dir)
	in := mustInspect(t, dir)
	mustWrite(t, filepath.Join(dir, "FORMAT"), encodeFormat(formatVersion+1, in.Stream))
	before := treeOf(t, filepath.Join(dir, "segments"))
	want := fmt.Sprintf("unknown version %d; this program knows version %d", formatVersion+1, formatVersion)
	_, inspectErr := Inspect(dir, InspectOptions{})
	_, openErr := Open(dir, testOptions())
	_, repairErr := OpenRepair(dir, RepairOptions{})
	for name, err := range map[string]error{"Inspect": inspectErr, "Open": openErr, "OpenRepair": repairErr} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := treeOf(t, filepath.Join(dir, "segments")); !bytes.Equal([]byte(strings.Join(before, "\n")), []byte(strings.Join(after, "\n"))) {
		t.Error("something was changed")
	}
}
