package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// service is what systemd does for a unit: sockets that outlive the process, and one
// where it is told how the process is.
type service struct {
	t      *testing.T
	names  []string
	files  []*os.File
	addrs  map[string]string
	notify *net.UnixConn
}

func newService(t *testing.T, listen map[string]string) *service {
	t.Helper()
	s := &service{t: t, addrs: map[string]string{}}
	for name, address := range listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		s.names, s.files, s.addrs[name] = append(s.names, name), append(s.files, f), l.Addr().String()
		t.Cleanup(func() { _ = f.Close() })
		_ = l.Close() // f stays
	}
	var err error
	s.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.notify.Close() })
	return s
}

// run starts walproxy serve as systemd does.
func (s *service) run(args ...string) *unit {
	s.t.Helper()
	exe, err := exec.LookPath("walproxy")
	if err != nil {
		s.t.Fatal(err)
	}
	// Only the child knows its process id.
	u := &unit{t: s.t, cmd: exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$0" "$@"`, exe, "serve"}, args...)...)}
	u.cmd.ExtraFiles = s.files
	u.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "WALPROXY_LOG__MIN_FREE=-1", "NOTIFY_SOCKET="+s.notify.LocalAddr().String(),
		fmt.Sprintf("LISTEN_FDS=%d", len(s.files)), "LISTEN_FDNAMES="+strings.Join(s.names, ":"), "WATCHDOG_USEC=300000")
	u.cmd.Stdout, u.cmd.Stderr = &u.out, &u.out
	if err := u.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(u.kill)
	return u
}

// await reads until the service has told line, and returns what else was told of it.
func (s *service) await(line string, u *unit) (message string) {
	s.t.Helper()
	_ = s.notify.SetReadDeadline(time.Now().Add(2 * time.Minute))
	b := make([]byte, 4096)
	for {
		n, err := s.notify.Read(b)
		if err != nil {
			u.kill()
			s.t.Fatalf("%s was not told: %v\n%s", line, err, u.out.String())
		}
		if strings.HasPrefix(string(b[:n]), line) {
			return string(b[:n])
		}
	}
}

type unit struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer // until it has ended, its own
	once sync.Once
}

func (u *unit) kill() {
	_ = u.cmd.Process.Kill()
	u.wait()
}

func (u *unit) wait() int {
	u.once.Do(func() { _ = u.cmd.Wait() }) // the code says it
	return u.cmd.ProcessState.ExitCode()
}

func (u *unit) signal(s syscall.Signal) {
	u.t.Helper()
	if err := u.cmd.Process.Signal(s); err != nil {
		u.t.Fatal(err)
	}
}

func call(t *testing.T, method, url, body string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer
}

// TestServeUnderSystemd: what systemd is told from the start to the end, and its sockets:
// a client that comes while nobody serves is served by the next start.
func TestServeUnderSystemd(t *testing.T) {
	t.Parallel()
	s := newService(t, map[string]string{"api": "127.0.0.1:0", "admin": "127.0.0.1:0"})
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"--data-dir", dir, "--api", "127.0.0.1:1"} // the socket wins
	u := s.run(args...)
	s.await("READY=1\nSTATUS=taking writes", u)
	if answer := call(t, "PUT", "http://"+s.addrs["api"]+"/v1/orders/42", `{"total": 10}`); answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	if answer := call(t, "GET", "http://"+s.addrs["admin"]+"/readyz", ""); answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	s.await("WATCHDOG=1", u)
	u.signal(syscall.SIGHUP)
	if message := s.await("RELOADING=1", u); !strings.Contains(message, "\nMONOTONIC_USEC=") {
		t.Errorf("told %q", message)
	}
	s.await("READY=1", u)
	u.signal(syscall.SIGTERM)
	s.await("STOPPING=1", u)
	if code := u.wait(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, u.out.String())
	}
	if text := u.out.String(); !strings.Contains(text, `"configuration reloaded","applied":[],"refused":null`) {
		t.Errorf("a reload must not find that the addresses were changed:\n%s", text)
	}
	early := make(chan int, 1)
	go func() {
		client := http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get("http://" + s.addrs["api"] + "/v1/orders/42")
		if err != nil {
			t.Error(err)
			early <- 0
			return
		}
		_ = answer.Body.Close()
		early <- answer.StatusCode
	}()
	u = s.run(args...)
	if status := <-early; status != http.StatusOK {
		t.Errorf("who came before the start got %d", status)
	}
	u.signal(syscall.SIGTERM)
	s.await("STOPPING=1", u)
	if code := u.wait(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, u.out.String())
	}
}

// TestSocketsRefused: a socket that fits nothing, or lets strangers in, ends the start.
func TestSocketsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		listen map[string]string
		code   int
		want   string
	}{
		"name":     {map[string]string{"http": "127.0.0.1:0"}, exitStart, `systemd's socket "http" is of no endpoint: in its unit, FileDescriptorName= has to be one of api, admin, aerowire, pgwire`},
		"endpoint": {map[string]string{"pgwire": "127.0.0.1:0"}, exitUsage, "systemd passed a socket for pgwire, and the configuration has no section pgwire"},
		"exposed":  {map[string]string{"api": "0.0.0.0:0"}, exitUsage, "can be reached from other machines and nothing tells who asks"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			u := newService(t, c.listen).run("--data-dir", dir, "--admin", "127.0.0.1:0")
			if code := u.wait(); code != c.code || !strings.Contains(u.out.String(), c.want) {
				t.Errorf("exit code %d, want %d, and %q in:\n%s", code, c.code, c.want, u.out.String())
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("the directory was made")
			}
		})
	}
}
