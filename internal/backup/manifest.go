// Package backup moves a copy of a data directory: as a tar stream from who made the
// copy, into a file or a directory, and from there into a new data directory.
//
// What is moved are files, and last a manifest that names each with its size and
// SHA-256. Nothing is believed without it: a stream that ends early has none, and
// what is read is compared with it. What is written is fsync'd, under another name
// until it is complete.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// ManifestName is the manifest's name in a stream and in a directory.
const ManifestName = "BACKUP.json"

const (
	manifestVersion  = 1
	manifestBytesMax = 64 << 20 // some 400,000 files
	// fileBytesMin is what it takes for a file beside the name.
	fileBytesMin = len(`{"name":"","bytes":0,"sha256":""}`) + 2*sha256.Size
)

var (
	// ErrDamaged: a backup is not what its manifest says.
	ErrDamaged = errors.New("backup: damaged")
	// ErrIncomplete: a backup ends before its manifest.
	ErrIncomplete = errors.New("backup: incomplete")
	// ErrExists: there is something already where a backup is to be written.
	ErrExists = errors.New("backup: there is something already")
)

// Manifest says what is in a backup.
type Manifest struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	By      string    `json:"by"` // walproxy's version
	// The log: what is in it, and the incarnation of its last record.
	Stream      uuid.UUID    `json:"stream"`
	Incarnation uuid.UUID    `json:"incarnation"`
	First       position.LSN `json:"first"`
	Last        position.LSN `json:"last"`
	// Stores are the embedded ones that are in the backup, under sinks/. Others are not.
	Stores []string `json:"stores,omitempty"`
	Files  []File   `json:"files"`
}

// File is one file of a backup.
type File struct {
	Name   string `json:"name"` // slashes; relative
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Bytes of all files.
func (m *Manifest) Bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

// readManifest reads one of at most limit bytes.
func readManifest(r io.Reader, limit int) (m Manifest, err error) {
	limit = min(limit, manifestBytesMax)
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return m, err
	}
	if len(text) > limit {
		return m, fmt.Errorf("%w: %s is longer than what it names takes", ErrDamaged, ManifestName)
	}
	// Files that it does not name would take more memory than text.
	if bytes.Count(text, []byte("{")) > 2+len(text)/fileBytesMin {
		return m, fmt.Errorf("%w: %s cannot be read", ErrDamaged, ManifestName)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%w: %s cannot be read: %w", ErrDamaged, ManifestName, err)
	}
	if m.Version != manifestVersion {
		return m, fmt.Errorf("%w: %s is of version %d, this program knows %d", ErrDamaged, ManifestName, m.Version, manifestVersion)
	}
	return m, nil
}

// local reports whether a name of a stream stays within the directory.
func local(name string) bool {
	return name != "" && filepath.IsLocal(filepath.FromSlash(name)) && !strings.Contains(name, `\`) && name != ManifestName
}

// check collects what was read, to be compared with the manifest.
type check struct{ files []File }

func (c *check) add(name string, bytes int64, sum hash.Hash) {
	c.files = append(c.files, File{Name: name, Bytes: bytes, SHA256: hex.EncodeToString(sum.Sum(nil))})
}

// compare returns nil if what was read is what the manifest says.
func (c *check) compare(m *Manifest) error {
	byName := func(a, b File) int { return strings.Compare(a.Name, b.Name) }
	want, got := slices.SortedFunc(slices.Values(m.Files), byName), slices.SortedFunc(slices.Values(c.files), byName)
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got) || i < len(want) && want[i].Name < got[i].Name:
			return fmt.Errorf("%w: %s is missing", ErrDamaged, want[i].Name)
		case i >= len(want) || got[i].Name < want[i].Name:
			return fmt.Errorf("%w: %s is not in the manifest", ErrDamaged, got[i].Name)
		case want[i] != got[i]:
			return fmt.Errorf("%w: %s has %d bytes and SHA-256 %s; the manifest says %d and %s", ErrDamaged,
				got[i].Name, got[i].Bytes, got[i].SHA256, want[i].Bytes, want[i].SHA256)
		}
	}
	return nil
}
