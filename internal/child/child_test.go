package child_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/child"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shell(script string) child.Options {
	return child.Options{Command: []string{"/bin/sh", "-c", script}}
}

func TestStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p, err := child.Start(ctx, shell("echo hello >&2; echo listening api=a:1 admin=b:2 >&2; exec sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Addr("api") != "a:1" || p.Addr("admin") != "b:2" || !strings.HasPrefix(p.Tail(), "hello\n") {
		t.Errorf("api %q, admin %q, tail %q", p.Addr("api"), p.Addr("admin"), p.Tail())
	}
	p.Kill()
	p.Kill()
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) || p.ExitCode() != -1 {
		t.Errorf("after Kill: %v, exit code %d", err, p.ExitCode())
	}
}

func TestStartFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := child.Start(ctx, shell("echo no luck >&2; exit 7"))
	if !errors.Is(err, child.ErrEarlyExit) || !strings.Contains(err.Error(), "exit code 7") || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("got %v", err)
	}
	hurry, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := child.Start(hurry, shell("sleep 60")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := child.Start(ctx, child.Options{Command: []string{"/does/not/exist"}}); err == nil {
		t.Error("started what does not exist")
	}
}

func TestTerminate(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p, err := child.Start(ctx, shell("trap 'exit 3' TERM; echo listening >&2; echo listening api=x >&2; while :; do sleep 0.01; done"))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Terminate(5 * time.Second); code != 3 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	p, err = child.Start(ctx, shell("trap '' TERM; echo listening api=x >&2; while :; do sleep 0.01; done"))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Terminate(50 * time.Millisecond); code != -1 || err == nil {
		t.Errorf("a child that will not end: exit code %d, %v", code, err)
	}
}
