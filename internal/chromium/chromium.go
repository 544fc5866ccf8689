// Package chromium drives a headless Chromium, for tests of pages: over two pipes, by
// the few calls of its DevTools protocol that such tests need.
package chromium

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// ErrNone: there is no Chromium on this machine.
var ErrNone = errors.New("chromium: none is installed (Debian: chromium-headless-shell)")

// names that it goes by, the smallest first.
var names = []string{"chromium-headless-shell", "chromium", "google-chrome", "chrome"}

// Find returns the program, or ErrNone.
func Find() (string, error) {
	for _, name := range names {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", ErrNone
}

// Browser is a running Chromium with one page. Calls must not be concurrent.
type Browser struct {
	cmd      *exec.Cmd
	to, from *os.File
	answers  chan message
	joined   sync.WaitGroup
	session  string
	next     int
	// Problems are what the page's console and its security policy complained about.
	problems []string
	mu       sync.Mutex
}

type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// Start runs program with its files in dir. Close it.
func Start(ctx context.Context, program, dir string) (*Browser, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inRead.Close(), inWrite.Close())
	}
	b := &Browser{to: inWrite, from: outRead, answers: make(chan message, 16)}
	b.cmd = exec.CommandContext(ctx, program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
		"--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--user-data-dir="+filepath.Join(dir, "profile"), "about:blank")
	b.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	b.cmd.ExtraFiles = []*os.File{inRead, outWrite} // its descriptors 3 and 4
	err = errors.Join(b.cmd.Start(), inRead.Close(), outWrite.Close())
	if err != nil {
		return nil, errors.Join(err, inWrite.Close(), outRead.Close())
	}
	b.joined.Go(b.read)
	if err := b.attach(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// read takes what Chromium says until it ends.
func (b *Browser) read() {
	defer close(b.answers)
	r := bufio.NewReader(b.from)
	for {
		line, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if err := json.Unmarshal(line[:len(line)-1], &m); err != nil {
			return
		}
		switch m.Method {
		case "":
			b.answers <- m
		case "Log.entryAdded", "Runtime.exceptionThrown":
			b.mu.Lock()
			b.problems = append(b.problems, string(m.Params))
			b.mu.Unlock()
		}
	}
}

// Problems are what the page's console and its security policy complained about so far.
func (b *Browser) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.problems...)
}

func (b *Browser) attach(ctx context.Context) error {
	var targets struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	if err := b.call(ctx, "Target.getTargets", nil, &targets); err != nil {
		return err
	}
	for _, target := range targets.TargetInfos {
		if target.Type != "page" {
			continue
		}
		var session struct{ SessionID string }
		if err := b.call(ctx, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session); err != nil {
			return err
		}
		b.session = session.SessionID
		for _, domain := range []string{"Page", "Runtime", "Log"} {
			if err := b.call(ctx, domain+".enable", nil, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("chromium: it has no page")
}

// call sends one command and waits for its answer.
func (b *Browser) call(ctx context.Context, method string, params map[string]any, result any) error {
	b.next++
	out := map[string]any{"id": b.next, "method": method}
	if params != nil {
		out["params"] = params
	}
	if b.session != "" {
		out["sessionId"] = b.session
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return fmt.Errorf("chromium: %s: %w", method, err)
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("chromium: %s: %w", method, context.Cause(ctx))
		case m, ok := <-b.answers:
			switch {
			case !ok:
				return fmt.Errorf("chromium: %s: it has ended", method)
			case m.ID != b.next: // of a call that was given up
				continue
			case m.Error != nil:
				return fmt.Errorf("chromium: %s: %s", method, m.Error.Message)
			case result == nil:
				return nil
			}
			return json.Unmarshal(m.Result, result)
		}
	}
}

// Open goes to an address.
func (b *Browser) Open(ctx context.Context, url string) error {
	var answer struct{ ErrorText string }
	if err := b.call(ctx, "Page.navigate", map[string]any{"url": url}, &answer); err != nil {
		return err
	}
	if answer.ErrorText != "" {
		return fmt.Errorf("chromium: %s: %s", url, answer.ErrorText)
	}
	return nil
}

// Eval evaluates an expression in the page, waits if it is a promise, and stores its
// value, as JSON has it, in result.
func (b *Browser) Eval(ctx context.Context, expression string, result any) error {
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := b.call(ctx, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	switch {
	case err != nil:
		return err
	case answer.ExceptionDetails != nil:
		return fmt.Errorf("chromium: %s: %s %s", expression, answer.ExceptionDetails.Text, answer.ExceptionDetails.Exception.Description)
	case result == nil || len(answer.Result.Value) == 0:
		return nil
	}
	return json.Unmarshal(answer.Result.Value, result)
}

// Screen is how the page is shown.
type Screen struct {
	Width, Height int
	Dark, Phone   bool
}

// Show changes the screen.
func (b *Browser) Show(ctx context.Context, s Screen) error {
	scheme := "light"
	if s.Dark {
		scheme = "dark"
	}
	return errors.Join(
		b.call(ctx, "Emulation.setDeviceMetricsOverride", map[string]any{"width": s.Width, "height": s.Height, "deviceScaleFactor": 1, "mobile": s.Phone}, nil),
		b.call(ctx, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil),
	)
}

// Press is a key: Tab, Enter, Escape or Space.
func (b *Browser) Press(ctx context.Context, key string) error {
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}
	texts := map[string]string{"Enter": "\r", "Space": " "}
	down := map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": codes[key], "text": texts[key]}
	if key == "Space" {
		down["key"] = " "
	}
	if err := b.call(ctx, "Input.dispatchKeyEvent", down, nil); err != nil {
		return err
	}
	return b.call(ctx, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": down["key"], "code": key, "windowsVirtualKeyCode": codes[key]}, nil)
}

// Type types text into what has the focus.
func (b *Browser) Type(ctx context.Context, text string) error {
	return b.call(ctx, "Input.insertText", map[string]any{"text": text}, nil)
}

// Screenshot is the whole page as PNG.
func (b *Browser) Screenshot(ctx context.Context) ([]byte, error) {
	var answer struct{ Data string }
	if err := b.call(ctx, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &answer); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(answer.Data)
}

// Close ends the browser and all of its processes. It is called once.
func (b *Browser) Close() error {
	ended := make(chan error, 1)
	_ = b.to.Close() // it leaves when nobody can tell it anything any more
	go func() { ended <- b.cmd.Wait() }()
	b.joined.Wait() // its end of the pipe is closed when the last of its processes is gone
	<-ended
	return b.from.Close()
}
