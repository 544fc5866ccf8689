package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// makeDataDir creates dir and what its path lacks, each entry durable in its
// parent: else a power cut could take everything that was acknowledged in it.
func makeDataDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err // nil: it is there
	}
	parent := filepath.Dir(dir)
	if err := makeDataDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("data_dir: %w", err)
	}
	d, err := os.Open(parent)
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
