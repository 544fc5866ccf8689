package admin_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/admin"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/chromium"
	"github.com/walproxy/walproxy/internal/recent"
	"github.com/walproxy/walproxy/mutation"
)

// withPage is a rig whose admin port has the page, over a real connection.
func withPage(t *testing.T, change func(*admin.Options)) (*rig, *httptest.Server) {
	t.Helper()
	r := newRig(t, false, nil)
	core := api.New(r.proxy)
	calls, err := rpc.New(rpc.Options{Core: core})
	if err != nil {
		t.Fatal(err)
	}
	last := recent.New(5)
	zap.New(nil).WithOptions(zap.WrapCore(last.Tee)).Named("sink.main").Warn("the store <b>blinked</b>", zap.Int("times", 3))
	o := admin.Options{Core: core, Gatherer: prometheus.NewRegistry(), API: calls, Recent: last}
	if change != nil {
		change(&o)
	}
	r.admin = admin.New(o)
	server := httptest.NewServer(r.admin)
	t.Cleanup(func() { calls.Stop(); server.Close(); calls.Wait() })
	return r, server
}

// reject writes a record that the store rejects, and one that it parks.
func (r *rig) reject(key string) {
	r.t.Helper()
	set, err := mutation.Set("orders", mutation.String(key), map[string]any{"total": "<i>ten</i>"})
	if err != nil {
		r.t.Fatal(err)
	}
	add, err := mutation.Increment("orders", mutation.String(key), map[string]any{"total": 1})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range r.proxy.AppendBatch(r.t.Context(), []*walproxyv1.Mutation{set, add, add}) {
		if m.Err != nil {
			r.t.Fatal(m.Err)
		}
	}
}

// browser is a Chromium with the page open.
type browser struct {
	*chromium.Browser
	t   *testing.T
	ctx context.Context
}

func browse(t *testing.T, url string) browser {
	t.Helper()
	program, err := chromium.Find()
	if errors.Is(err, chromium.ErrNone) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	b, err := chromium.Start(ctx, program, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := b.Open(ctx, url); err != nil {
		t.Fatal(err)
	}
	return browser{b, t, ctx}
}

func (b browser) eval(expression string, result any) {
	b.t.Helper()
	if err := b.Eval(b.ctx, expression, result); err != nil {
		b.t.Fatal(err)
	}
}

// until waits until an expression is true in the page.
func (b browser) until(expression string) {
	b.t.Helper()
	var text string
	var err error
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var ok bool // an error: the page is still on its way
		if err = b.Eval(b.ctx, "!!("+expression+")", &ok); ok {
			return
		}
	}
	b.eval("document.body.innerText", &text)
	b.t.Fatalf("not true in time: %s (%v); problems: %q; the page:\n%s", expression, err, b.Problems(), text)
}

func (b browser) click(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%q)", selector))
	b.eval(fmt.Sprintf("document.querySelector(%q).click()", selector), nil)
}

// look takes a screenshot, if somebody wants to see them.
func (b browser) look(name string, s chromium.Screen) {
	b.t.Helper()
	if err := b.Show(b.ctx, s); err != nil {
		b.t.Fatal(err)
	}
	var wide int
	if b.eval("document.documentElement.scrollWidth", &wide); wide > s.Width {
		b.t.Errorf("%s: the page is %d pixels wide, the screen %d", name, wide, s.Width)
	}
	dir := os.Getenv("WALPROXY_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := b.Screenshot(b.ctx)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		b.t.Error(err)
	}
}

// TestPage clicks through the page in a browser: what it shows, a retry, a discard
// by keyboard, a pause, and what it looks like.
func TestPage(t *testing.T) {
	r, server := withPage(t, nil)
	r.reject("a")
	r.reject("b")
	b := browse(t, server.URL)
	b.until(`state.textContent === 'accepting writes'`)
	b.until(`document.querySelectorAll('#letters details').length === 4`)
	b.until(`recent.textContent.includes('the store <b>blinked</b>')`) // text, not markup
	b.until(`document.querySelector('[data-sink=main]').textContent.includes('2 keys parked')`)

	// One with its payload.
	b.click(`[data-lsn="2"] summary`)
	b.until(`document.querySelector('[data-lsn="2"] pre')?.textContent.includes('"increment"')`)
	b.until(`document.querySelector('[data-lsn="2"]').textContent.includes('Behind it: LSN 3')`)
	b.eval(`document.querySelector('[data-sink=main] summary').click()`, nil)
	b.look("desktop", chromium.Screen{Width: 1280, Height: 900})
	b.look("phone-dark", chromium.Screen{Width: 390, Height: 844, Dark: true, Phone: true})

	// Rejected again, under a new LSN.
	b.click(`[data-lsn="2"] button`)
	b.until(`done.textContent.includes('LSN 2 was logged again as 7: dead')`)

	// Discard, by keyboard: the question comes first, and Escape is no.
	b.click(`[data-lsn="5"] summary`)
	b.until(`document.querySelector('[data-lsn="5"] button.danger')`)
	b.eval(`document.querySelector('[data-lsn="5"] button.danger').focus()`, nil)
	press(b, "Enter")
	b.until(`ask.open`)
	b.look("question", chromium.Screen{Width: 390, Height: 844, Phone: true})
	b.eval(`void ask.addEventListener('close', () => { window.answered = true }, {once: true})`, nil)
	press(b, "Escape")
	b.until(`window.answered`)
	if d, err := r.proxy.DeadLetter("main", 5); err != nil || d.LSN != 5 {
		t.Fatalf("discarded although the answer was no: %v", err)
	}
	press(b, "Enter")
	b.until(`ask.open`)
	press(b, "Tab")
	for range 4 { // to the button that says so
		var label string
		if b.eval(`document.activeElement.textContent`, &label); label == "Discard" {
			break
		}
		press(b, "Tab")
	}
	press(b, "Enter")
	b.until(`done.textContent === 'LSN 5 was given up'`)
	if _, err := r.proxy.DeadLetter("main", 5); !errors.Is(err, walproxy.ErrNoDeadLetter) {
		t.Errorf("still there: %v", err)
	}

	b.click(`[data-sink=main] button`)
	b.until(`document.querySelector('[data-sink=main] .pill').textContent === 'paused'`)
	if st := r.proxy.Status(); !st.Sinks[0].Paused {
		t.Error("the page says paused, the proxy does not")
	}
	b.click(`[data-sink=main] button`)
	b.until(`done.textContent === 'main goes on'`)
	if problems := b.Problems(); len(problems) > 0 {
		t.Errorf("the console says: %s", strings.Join(problems, "\n"))
	}
	withToken(b)
}

// withToken is the page of a server that wants to know who asks.
func withToken(b browser) {
	token := access.NewToken()
	r, _ := withPage(b.t, func(o *admin.Options) { o.Authenticated = true })
	guard := access.New(access.Policy{Tokens: []access.Token{{Name: "operator", Hash: access.HashOf(token), Rights: []access.Right{access.Read, access.Admin}}}})
	server := httptest.NewServer(guard.Handler(r.admin, access.AdminRight))
	b.t.Cleanup(server.Close)
	if err := b.Open(b.ctx, server.URL); err != nil {
		b.t.Fatal(err)
	}
	b.until(`state.textContent === 'needs a token'`)
	b.click(`#token`)
	b.until(`document.activeElement === document.getElementById('ask-input')`)
	if err := b.Type(b.ctx, token); err != nil {
		b.t.Fatal(err)
	}
	b.click(`#ask-yes`)
	b.until(`state.textContent === 'accepting writes'`)
	b.click(`[data-sink=main] button`)
	b.until(`done.textContent === 'main is paused'`)
}

func press(b browser, key string) {
	b.t.Helper()
	if err := b.Press(b.ctx, key); err != nil {
		b.t.Fatal(err)
	}
}
