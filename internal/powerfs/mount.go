package powerfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrUnavailable says that this machine or user cannot mount the file system.
var ErrUnavailable = errors.New("powerfs: cannot mount here")

// Mount is a disk mounted on a directory.
type Mount struct {
	disk *Disk
	dir  string

	mu     sync.Mutex // serialises Restart and Unmount
	server *fuse.Server
}

// Check returns ErrUnavailable, with the reason, where Mount cannot work: it
// needs /dev/fuse and the right to mount.
func Check() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: mounting needs root, this is uid %d", ErrUnavailable, os.Geteuid())
	}
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return dev.Close()
}

// NewMount mounts disk on dir, an existing directory. Unmount it in the end.
func NewMount(disk *Disk, dir string) (*Mount, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	m := &Mount{disk: disk, dir: dir}
	if err := m.mount(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Mount) mount() error {
	server, err := fuse.NewServer(newFilesystem(m.disk), m.dir, &fuse.MountOptions{
		FsName: "powerfs", Name: "powerfs", DirectMountStrict: true, AllowOther: true,
		DisableXAttrs: true, DisableReadDirPlus: true, MaxWrite: 1 << 20, MaxBackground: 64,
	})
	if err != nil {
		return fmt.Errorf("powerfs: mount %s: %w", m.dir, err)
	}
	m.server = server
	go server.Serve() // Unmount waits for it
	if err := server.WaitMount(); err != nil {
		return errors.Join(fmt.Errorf("powerfs: mount %s: %w", m.dir, err), m.unmount())
	}
	return nil
}

// Disk is what is mounted.
func (m *Mount) Disk() *Disk { return m.disk }

// Dir is where the disk is mounted.
func (m *Mount) Dir() string { return m.dir }

// Cut is a power cut; see Disk.Cut. Whoever uses the mount gets EIO until
// Restart, and should be killed.
func (m *Mount) Cut(o CutOptions) { m.disk.Cut(o) }

// Restart mounts what the power cut left. Nobody may use the mount any more.
func (m *Mount) Restart() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.unmount(); err != nil {
		return err
	}
	return m.mount()
}

// Unmount ends the mount; the disk stays as it is. It may be called twice.
func (m *Mount) Unmount() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unmount()
}

// unmountTimeout is how long files may take to be closed.
const unmountTimeout = 10 * time.Second

func (m *Mount) unmount() error {
	if m.server == nil {
		return nil
	}
	var err error
	for deadline := time.Now().Add(unmountTimeout); time.Now().Before(deadline); {
		if err = m.server.Unmount(); err == nil {
			m.server = nil
			return nil
		}
	}
	// Somebody holds a file: take the name away, so that nothing stays behind.
	m.server = nil
	err = fmt.Errorf("powerfs: unmount %s: %w", m.dir, err)
	return errors.Join(err, unix.Unmount(m.dir, unix.MNT_DETACH))
}
