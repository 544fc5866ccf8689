package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/internal/tlstest"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"walproxy": documentedMain})
}

// exitsFile is where documentedMain notes what no help tells.
const exitsFile = "WALPROXY_TEST_EXITS"

// documentedMain is main, and notes a command line that ended with a code which
// its command does not document.
func documentedMain() {
	args := os.Args[1:]
	code := run(args)
	root := newRoot()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, _, err := root.Find(args)
	if name := os.Getenv(exitsFile); err == nil && name != "" && exitsOf(cmd)[code] == "" {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = fmt.Fprintf(f, "exit code %d of walproxy %q\n", code, args)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			panic(err) // of a test
		}
	}
	os.Exit(code)
}

// leakChecked runs the tests and then looks for goroutines they left.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := l.m.Run()
	if err := pgtest.End(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// TestScripts runs testdata/script on the real binary. Beside the usual commands:
//
//	serve [args]                  starts walproxy serve in data/ on free ports
//	http METHOD PATH STATUS [body] asks the API; PATH may be admin:/path. Answer in file resp
//	signal TERM|INT|KILL|HUP      sends it to serve
//	exit CODE                     waits for serve; its output is in serve.out, serve.err
//	await FILE TEXT               waits until the file holds the text
//	flood                         opens a stream that takes no answers, until it stalls
//	clone FROM TO                 copies a directory
//	tree DIR FILE                 writes what is in a directory to a file
//	await-log DATA-DIR LSN        waits until the log says that the record is durable
//	damage HOW FILE ...           see damageCmd
//	certificate CERT KEY          makes a certificate for the name walproxy, signed by itself
//	node FILE                     starts an Aerospike node, and writes a configuration whose sink is there
//
// A command that ends with an exit code that its help does not tell fails the
// test: see exits.
func TestScripts(t *testing.T) { testscript.Run(t, scripts(t, "testdata/script")) }

// scripts are those of a directory, with the commands of TestScripts.
func scripts(t *testing.T, dir string) testscript.Params {
	t.Helper()
	exits := filepath.Join(t.TempDir(), "exits")
	t.Setenv(exitsFile, exits)
	// A program with the race detector sleeps for a second before it ends, for what
	// its other threads may still do. These run by the hundred, and join theirs.
	race := strings.TrimSpace(os.Getenv("GORACE") + " atexit_sleep_ms=0")
	t.Setenv("GORACE", race)
	t.Cleanup(func() { // when all scripts have ended
		if undocumented, err := os.ReadFile(exits); err == nil {
			t.Errorf("not documented with exits(cmd, ...):\n%s", undocumented)
		}
	})
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(8 * time.Minute), // of all scripts together, on a busy machine
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": serveCmd, "http": httpCmd, "signal": signalCmd, "exit": exitCmd, "flood": floodCmd,
			"await": awaitCmd, "clone": cloneCmd, "tree": treeCmd, "await-log": awaitLogCmd, "damage": damageCmd,
			"node": nodeCmd, "aero": aeroCmd,
			"certificate": func(ts *testscript.TestScript, _ bool, args []string) {
				tlstest.Files(t, ts.MkAbs(args[0]), ts.MkAbs(args[1]))
			},
		},
		Setup: func(env *testscript.Env) error {
			env.Values[serverKey{}] = &child{}
			if err := copyGolden(env.WorkDir); err != nil {
				return err
			}
			env.Setenv(exitsFile, exits)
			env.Setenv("GORACE", race)
			env.Setenv("GOMAXPROCS", os.Getenv("GOMAXPROCS"))
			env.Setenv("SERVE_PROCESSORS", strconv.Itoa(serveProcessors))
			return nil
		},
	}
}

type serverKey struct{}

// child is the walproxy serve of a script.
type child struct {
	cmd        *exec.Cmd
	api, admin string
}

func (c *child) kill() {
	if c.cmd != nil && c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // it was killed: an error is what we want
	}
}

func childOf(ts *testscript.TestScript) *child { return ts.Value(serverKey{}).(*child) }

func serveCmd(ts *testscript.TestScript, _ bool, args []string) {
	c := childOf(ts)
	exe, err := exec.LookPath("walproxy") // as testscript put it into PATH
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		if candidate := filepath.Join(dir, "walproxy"); err != nil && fileExists(candidate) {
			exe, err = candidate, nil
		}
	}
	ts.Check(err)
	args = append([]string{"serve", "--data-dir", ts.MkAbs("data"), "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...)
	c.cmd = exec.Command(exe, args...)
	c.cmd.Env = append(os.Environ(), "WALPROXY_LOG__MIN_FREE=-1")
	c.cmd.Dir = ts.MkAbs(".")
	out, err := os.Create(ts.MkAbs("serve.out"))
	ts.Check(err)
	defer out.Close()
	errOut, err := os.Create(ts.MkAbs("serve.err"))
	ts.Check(err)
	defer errOut.Close()
	c.cmd.Stdout, c.cmd.Stderr = out, errOut
	ts.Check(c.cmd.Start())
	ts.Defer(c.kill)
	await(ts, "serve.err", c.listening)
	ts.Setenv("API", c.api)
}

func awaitCmd(ts *testscript.TestScript, _ bool, args []string) {
	await(ts, args[0], func(text string) bool { return strings.Contains(text, args[1]) })
}

// await reads the file until it is as it should be.
func await(ts *testscript.TestScript, file string, ready func(text string) bool) {
	deadline := time.Now().Add(2 * time.Minute) // a start on a very busy machine
	for !ready(ts.ReadFile(file)) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s does not become what it should:\n%s", file, ts.ReadFile(file))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func (c *child) listening(text string) bool {
	for line := range strings.Lines(text) {
		if n, _ := fmt.Sscanf(line, "listening api=%s admin=%s", &c.api, &c.admin); n == 2 {
			return true
		}
	}
	return false
}

func httpCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: http METHOD PATH STATUS [body]")
	}
	c := childOf(ts)
	url := "http://" + c.api + args[1]
	if path, ok := strings.CutPrefix(args[1], "admin:"); ok {
		url = "http://" + c.admin + path
	}
	req, err := http.NewRequest(args[0], url, strings.NewReader(strings.Join(args[3:], " ")))
	ts.Check(err)
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("resp"), body, 0o644))
	if want := args[2]; strconv.Itoa(resp.StatusCode) != want {
		ts.Fatalf("got %d, want %s: %s", resp.StatusCode, want, body)
	}
}

func signalCmd(ts *testscript.TestScript, _ bool, args []string) {
	sig, ok := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP}[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %s", args[0])
	}
	ts.Check(childOf(ts).cmd.Process.Signal(sig))
}

func exitCmd(ts *testscript.TestScript, _ bool, args []string) {
	c := childOf(ts)
	timer := time.AfterFunc(60*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	var exitErr *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exitErr) {
		ts.Fatalf("wait: %v", err)
	}
	if got := strconv.Itoa(c.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s:\n%s", got, args[0], ts.ReadFile("serve.err"))
	}
}

// floodCmd sends items without taking answers until the server takes no more.
func floodCmd(ts *testscript.TestScript, _ bool, _ []string) {
	conn, err := net.Dial("tcp", childOf(ts).api)
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	w := bufio.NewWriterSize(conn, 1<<20)
	_, _ = io.WriteString(w, "POST /v1/mutations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 200000000\r\n\r\n")
	deadline := time.Now().Add(60 * time.Second)
	for err == nil && time.Now().Before(deadline) {
		ts.Check(conn.SetWriteDeadline(time.Now().Add(time.Second)))
		_, err = io.WriteString(w, `{"collection":"c","key":"1","nonsense":"this is refused, so that it is quick"}`+"\n")
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		ts.Fatalf("the server did not stall: %v", err)
	}
}
