package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/ledger"
)

var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "walproxy-demo-test-")
	if err != nil {
		panic(err)
	}
	binaries = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build builds the program once.
var build = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "walproxy")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/walproxy")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0") // as in packages
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return binary, nil
})

func program(t *testing.T) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

func TestRun(t *testing.T) {
	binary := program(t) // which takes its time
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := Run(ctx, Options{Binary: binary, Records: 6000, Clients: 16, Kills: 3, Dir: t.TempDir(), Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"kill 3  ", "lost            0\n", "doubled         0\n", "out of order    0\n", "acked           6000 in"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

// TestRunSeesLoss makes the ledger believe in an ack that never was.
func TestRunSeesLoss(t *testing.T) {
	binary := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	d := &demo{
		Options: Options{Binary: binary, Records: 500, Clients: 4, Dir: t.TempDir(), Out: io.Discard},
		client:  ledger.NewClient(4), ledger: ledger.New(),
	}
	defer d.client.Close()
	d.ledger.Attempt(ledger.Write{Kind: ledger.Event, Key: "k1", Token: "never sent"})
	d.ledger.Ack("never sent", 1<<40, false)
	if err := d.run(ctx); !errors.Is(err, ErrWrong) || !strings.Contains(err.Error(), "lost 1,") {
		t.Errorf("got %v, want ErrWrong, lost 1", err)
	}
	d.server.Kill()
}

// TestInterrupted ends a run in its middle: no server and no data are left.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted")
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	out := &waitFor{text: "acked ", then: func() { cancel(stop) }}
	err := Run(ctx, Options{Binary: program(t), Records: 1 << 40, Clients: 4, Kills: 1, Out: out})
	if !errors.Is(err, stop) {
		t.Fatalf("got %v, want what ended it", err)
	}
	if left, err := filepath.Glob(dir + "/walproxy-demo-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// waitFor calls then when text is written.
type waitFor struct {
	text string
	then func()
}

func (w *waitFor) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.text)) {
		w.then()
	}
	return len(p), nil
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{Records: 0, Clients: 1}, {Records: 1, Clients: 0}, {Records: 1, Clients: 5000}, {Records: 1, Clients: 1, Kills: -1},
	} {
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
