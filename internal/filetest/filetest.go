// Package filetest looks at files for tests.
package filetest

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Hashes are those of dir's files, by their names within it, but for the lock's: a
// look at a store must change none.
func Hashes(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	found := map[string][32]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || name == "LOCK" {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		found[name] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
