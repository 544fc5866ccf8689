package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// BinariesVariable names the environment variable with the directory of the
// PostgreSQL server to test against, and of no other.
const BinariesVariable = "WALPROXY_TEST_PGBIN"

// Program returns the path of one of PostgreSQL's server programs (initdb,
// postgres): from the directory in WALPROXY_TEST_PGBIN if that is set, else from
// PATH, else from where `pg_config --bindir` says, else from the newest
// /usr/lib/postgresql/*/bin.
func Program(name string) (string, error) {
	dir, err := binaries()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	return path, nil
}

// binaries is the directory of initdb and postgres, which belong together.
var binaries = sync.OnceValues(func() (string, error) {
	if chosen := os.Getenv(BinariesVariable); chosen != "" {
		for _, name := range []string{"initdb", "postgres"} {
			if !executable(filepath.Join(chosen, name)) {
				return "", fmt.Errorf("pgtest: %s=%s: no program %s there", BinariesVariable, chosen, name)
			}
		}
		return filepath.Abs(chosen)
	}
	var tried []string
	for _, dir := range candidates() {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
		tried = append(tried, dir)
	}
	return "", fmt.Errorf("pgtest: no PostgreSQL server (initdb, postgres) in PATH, pg_config --bindir or %s: run `make install-deps`",
		strings.Join(tried, ", "))
})

func candidates() []string {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is valid
	slices.SortFunc(installed, func(a, b string) int { return major(b) - major(a) })
	return append(dirs, installed...)
}

// major is the version in /usr/lib/postgresql/15/bin.
func major(dir string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	if err != nil {
		return 0
	}
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// account is whom servers run as: PostgreSQL refuses root. nil: this process's
// own user.
var account = sync.OnceValues(func() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var tried []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("pgtest: user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("pgtest: no unprivileged user to run PostgreSQL as: %w", errors.Join(tried...))
})

// command prepares a program of the server to run as the servers' user.
func command(name string, args ...string) (*exec.Cmd, error) {
	path, err := Program(name)
	if err != nil {
		return nil, err
	}
	who, err := account()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = "/" // this process's directory may be closed to the other user
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	return cmd, nil
}

// run runs a program of the server to its end.
func run(name string, args ...string) error {
	cmd, err := command(name, args...)
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Pdeathsig = 0 // this goroutine's thread may end first
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", name, err, out)
	}
	return nil
}
