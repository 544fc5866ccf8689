// Package child runs a walproxy server as a child process, to be killed.
package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of Start.
type Options struct {
	// Command is the program with its arguments.
	Command []string
	// Env is added to this process's own environment, of which what configures
	// walproxy is left out.
	Env   []string
	Stdin io.Reader
	// Stdout gets what the child prints; nil: nothing. Write must not block for long.
	Stdout io.Writer
	// Prefix starts the line on stderr that says the child is ready, as in
	// "listening api=127.0.0.1:7070 admin=127.0.0.1:7071". "listening ".
	Prefix string
}

// Process is a running child. It is killed if this process dies. Methods may be
// called concurrently.
type Process struct {
	pid   int
	addrs map[string]string
	ended chan struct{} // closed when the child is gone and its output read
	state *os.ProcessState

	mu   sync.Mutex
	tail []string // the last lines of stderr
}

// ErrEarlyExit says that the child ended before it was ready.
var ErrEarlyExit = errors.New("child: ended before it was ready")

// Start starts a child and waits until it is ready, it ends, or ctx does: then
// the child is killed. After Start ctx has no say.
func Start(ctx context.Context, o Options) (*Process, error) {
	if o.Prefix == "" {
		o.Prefix = "listening "
	}
	p := &Process{ended: make(chan struct{})}
	started, ready := make(chan error, 1), make(chan map[string]string, 1)
	go p.run(o, started, ready)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("child: start %s: %w", o.Command[0], err)
	}
	select {
	case p.addrs = <-ready:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%w: exit code %d\n%s", ErrEarlyExit, p.state.ExitCode(), p.Tail())
	case <-ctx.Done():
		p.Kill()
		return nil, fmt.Errorf("child: not ready: %w\n%s", context.Cause(ctx), p.Tail())
	}
}

// run starts the child and stays with it: the kernel sends the death signal when
// the thread that forked ends.
func (p *Process) run(o Options, started chan<- error, ready chan<- map[string]string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "WALPROXY_")
	}), o.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Stdin, cmd.Stdout = o.Stdin, o.Stdout
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	p.read(stderr, o.Prefix, ready)
	_ = cmd.Wait() // state says it
	p.state = cmd.ProcessState
	close(p.ended)
}

const tailLines = 200

// read keeps the tail of the output and finds the line that says ready.
func (p *Process) read(out io.Reader, prefix string, ready chan<- map[string]string) {
	in := bufio.NewReader(out)
	for found := false; ; {
		line, err := in.ReadString('\n')
		if line = strings.TrimSpace(line); line != "" {
			p.mu.Lock()
			p.tail = append(p.tail, line)
			p.tail = slices.Delete(p.tail, 0, max(0, len(p.tail)-tailLines))
			p.mu.Unlock()
		}
		if rest, ok := strings.CutPrefix(line, prefix); ok && !found {
			found = true
			ready <- addresses(rest)
		}
		if err != nil {
			return
		}
	}
}

// addresses reads "api=127.0.0.1:7070 admin=127.0.0.1:7071".
func addresses(line string) map[string]string {
	found := map[string]string{}
	for field := range strings.FieldsSeq(line) {
		if name, addr, ok := strings.Cut(field, "="); ok {
			found[name] = addr
		}
	}
	return found
}

// Addr is where the child listens: "api" or "admin".
func (p *Process) Addr(name string) string { return p.addrs[name] }

// PID of the child.
func (p *Process) PID() int { return p.pid }

// Tail is the end of the child's stderr.
func (p *Process) Tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, "\n")
}

// Ended is closed when the child is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// ExitCode of a child that is gone: -1 if a signal ended it.
func (p *Process) ExitCode() int {
	<-p.ended
	return p.state.ExitCode()
}

// Kill sends SIGKILL to the child and its own children, and waits until it is
// gone. It may be called twice.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// Terminate sends SIGTERM and waits for the exit code; a child that does not end
// in time is killed.
func (p *Process) Terminate(timeout time.Duration) (exitCode int, err error) {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return p.state.ExitCode(), nil
	case <-time.After(timeout):
		p.Kill()
		return -1, fmt.Errorf("child: did not end within %s of SIGTERM\n%s", timeout, p.Tail())
	}
}

// signal reaches the whole group: a child may run under a tracer.
func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.ended: // the id may be somebody else's by now
	default:
		_ = syscall.Kill(-p.pid, s) // just gone: nothing to do
	}
}
