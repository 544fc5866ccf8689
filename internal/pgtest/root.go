package pgtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// root is the directory of everything this process makes, and its watchdog.
type root struct {
	dir  string
	dog  *exec.Cmd
	pipe io.Closer // the dog acts when it is closed
}

// watch is the watchdog's script: $1 is the root. Servers are found by their
// working directory, which is their data: each of their processes leads a group
// of its own, and a stopped one would not hear of anything but SIGKILL.
const watch = `
cat >/dev/null
for try in 1 2 3; do
	for process in /proc/[0-9]*; do
		case "$(readlink "$process/cwd" 2>/dev/null)" in "$1"/*) kill -9 "${process#/proc/}" 2>/dev/null ;; esac
	done
done
while read -r _ where _; do
	case "$where" in "$1"/*) umount -l "$where" ;; esac
done </proc/mounts
rm -rf "$1"
`

var processRoot struct {
	sync.Mutex
	*root
}

// theRoot makes the root on first use.
func theRoot() (*root, error) {
	processRoot.Lock()
	defer processRoot.Unlock()
	if processRoot.root != nil {
		return processRoot.root, nil
	}
	r, err := newRoot()
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	processRoot.root = r
	return r, nil
}

func newRoot() (*root, error) {
	// Short: a Unix socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "pgtest-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	dog := exec.Command("/bin/sh", "-c", watch, "sh", dir)
	dog.Dir = "/"
	// Of its own session: an interrupt at the terminal must not reach it.
	dog.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := dog.StdinPipe()
	if err == nil {
		err = dog.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &root{dir: dir, dog: dog, pipe: pipe}, nil
}

// close has the watchdog clear everything away.
func (r *root) close() error {
	return errors.Join(r.pipe.Close(), r.dog.Wait())
}

// endRoot ends the process's root, if there is one.
func endRoot() error {
	processRoot.Lock()
	defer processRoot.Unlock()
	r := processRoot.root
	processRoot.root = nil
	if r == nil {
		return nil
	}
	return r.close()
}

// newDir makes a directory below the root that belongs to the servers' user.
func (r *root) newDir(pattern string) (string, error) {
	dir, err := os.MkdirTemp(r.dir, pattern)
	if err != nil {
		return "", err
	}
	return dir, give(dir)
}

// give makes the servers' user the owner of a file or directory.
func give(path string) error {
	who, err := account()
	if err != nil || who == nil {
		return err
	}
	return os.Lchown(path, int(who.Uid), int(who.Gid))
}

// copyTree copies a data directory; the copy belongs to the servers' user. Files
// that a running server removes meanwhile are left out.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != from {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			if err := os.MkdirAll(target, 0o700); err != nil {
				return err
			}
		case e.Type().IsRegular():
			err := copyFile(path, target)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
		default:
			return nil // a socket, say
		}
		return give(target)
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
