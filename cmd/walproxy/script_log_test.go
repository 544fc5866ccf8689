package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walproxy/walproxy/wal"
)

// cloneCmd copies a directory: clone FROM TO.
func cloneCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
}

// copyGolden makes a data directory golden/NAME of each log of an earlier version.
func copyGolden(dir string) error {
	const golden = "../../wal/testdata/golden"
	entries, err := os.ReadDir(golden)
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, os.CopyFS(filepath.Join(dir, "golden", e.Name(), "log"), os.DirFS(filepath.Join(golden, e.Name()))))
		}
	}
	return err
}

// treeCmd writes what is in a directory to a file: tree DIR FILE.
func treeCmd(ts *testscript.TestScript, _ bool, args []string) {
	var tree strings.Builder
	root := ts.MkAbs(args[0])
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			fmt.Fprintln(&tree, strings.TrimPrefix(path, root))
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&tree, "%s %d %x\n", strings.TrimPrefix(path, root), len(b), sha256.Sum256(b))
		return err
	}))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(tree.String()), 0o644))
}

// awaitLogCmd waits until the log says of itself that a record is durable:
// await-log DATA-DIR LSN.
func awaitLogCmd(ts *testscript.TestScript, _ bool, args []string) {
	lsn, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		in, err := inspectLog(ts.MkAbs(args[0]))
		if err == nil && in.Durable >= wal.LSN(lsn) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the log does not get to LSN %d: %v, %v", lsn, in, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// damageCmd does harm to a file:
//
//	damage flip FILE TEXT    flips a bit of the first TEXT in it
//	damage cut FILE N        cuts off its last N bytes
//	damage append FILE TEXT  appends to it
//	damage zero FILE         fills it with zeros
//	damage newer FILE        of FORMAT: makes it one of version 9
func damageCmd(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[1])
	b, err := os.ReadFile(name)
	ts.Check(err)
	written := len(bytes.TrimRight(b, "\x00")) // without the room of a segment that was not sealed
	switch args[0] {
	case "flip":
		i := bytes.Index(b, []byte(args[2]))
		if i < 0 {
			ts.Fatalf("%s does not hold %q", args[1], args[2])
		}
		b[i] ^= 0x10
	case "cut":
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		b = b[:written-n]
	case "append":
		b = slices.Concat(b[:written], []byte(args[2]), b[min(written+len(args[2]), len(b)):])
	case "zero":
		clear(b)
	case "newer":
		lines := strings.SplitAfter(string(b), "\n")
		lines[1] = "version 9\n"
		text := strings.Join(lines[:3], "")
		b = fmt.Appendf(nil, "%scrc32c %08x\n", text, crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
	default:
		ts.Fatalf("unknown damage %q", args[0])
	}
	ts.Check(os.WriteFile(name, b, 0o644))
}
