package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/wal"
)

// found is what placeFlags.find makes of args.
func found(t *testing.T, args ...string) (*place, error) {
	t.Helper()
	var flags placeFlags
	return flags.find(parsed(t, &flags, args))
}

func parsed(t *testing.T, flags *placeFlags, args []string) *cobra.Command {
	t.Helper()
	cmd := &cobra.Command{Use: "test"}
	flags.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func codeOf(err error) int {
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return -1
}

// A note counts while the lock is held under its pid, and never otherwise.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	if _, err := found(t, "--data-dir", filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) || codeOf(err) != exitStart {
		t.Errorf("no directory: %v", err)
	}
	if _, err := found(t, "--data-dir", dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory of somebody else's: %v", err)
	}
	lock, err := wal.Lock(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	closeLock := func() {
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	}
	pid := os.Getpid()
	for _, c := range []struct {
		name, note string
	}{
		{"none", ""},
		{"half", `{"pid":`},
		{"empty", `{}`},
		{"another's", `{"pid":` + jsonOf(t, pid+1) + `,"api":"http://127.0.0.1:1"}`},
	} {
		if err := os.WriteFile(notePath(dir), []byte(c.note), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := found(t, "--data-dir", dir)
		var busy *busyError
		if !errors.As(err, &busy) || busy.PID != pid || !errors.Is(err, wal.ErrLocked) || codeOf(err) != exitStart {
			t.Errorf("note %s: got %v, want a busyError", c.name, err)
		}
	}
	if err := writeNote(dir, note{PID: pid, API: "http://127.0.0.1:1/", Admin: "http://127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	p, err := found(t, "--data-dir", dir)
	if err != nil || p.server == nil || p.server.api != "http://127.0.0.1:1" || p.server.admin != "http://127.0.0.1:2" {
		t.Errorf("held: got %+v, %v", p, err)
	}
	var flags placeFlags
	cmd := parsed(t, &flags, []string{"--data-dir", dir})
	if r, err := flags.running(cmd); err != nil || r.api != "http://127.0.0.1:1" {
		t.Errorf("running: %+v, %v", r, err)
	}
	if _, err := flags.stopped(cmd); codeOf(err) != exitStart || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("stopped: %v", err)
	}
	closeLock()
	if _, err := flags.running(cmd); codeOf(err) != exitStart || !strings.Contains(err.Error(), "no server runs for "+dir) {
		t.Errorf("running: %v", err)
	}
	if p, err := flags.stopped(cmd); err != nil || p.dir != dir {
		t.Errorf("stopped: %+v, %v", p, err)
	}
	if p, err = found(t, "--data-dir", dir); err != nil || p.server != nil {
		t.Errorf("free, with the note of a crash: got %+v, %v", p, err)
	}
	if p, err = found(t, "--data-dir", dir, "--server", "http://host:1/"); err != nil || p.server == nil || p.server.api != "http://host:1" {
		t.Errorf("--server: got %+v, %v", p, err)
	}
	for _, address := range []string{"host:1", "ftp://host", "http://", "::"} {
		if _, err := found(t, "--server", address); codeOf(err) != exitUsage {
			t.Errorf("--server %s: %v", address, err)
		}
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCall(t *testing.T) {
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			w.Header().Set("Token", r.Header.Get("Authorization"))
			_, _ = io.Copy(w, r.Body)
		case "/missing":
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"status":404,"code":"not_found","message":"there is no such sink"}`)
		case "/busy":
			w.WriteHeader(503)
			_, _ = io.WriteString(w, `{"status":503,"code":"closing","message":"stopping","retryable":true}`)
		case "/page":
			w.WriteHeader(502)
			_, _ = io.WriteString(w, `<html>`)
		case "/half":
			_, _ = io.WriteString(w, `{"n":`)
		case "/silent":
			<-hold
		}
	}))
	defer server.Close()
	defer close(hold)
	r, err := newRemote(server.URL, "", credentials{token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	type body struct{ N int }
	var got body
	if err := r.call(t.Context(), "POST", "/echo", body{7}, &got); err != nil || got.N != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
	answer, err := r.stream(t.Context(), "POST", "/echo", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(answer.Body); string(text) != "x" || answer.Header.Get("Token") != "Bearer secret" {
		t.Errorf("got %q, %v, token %q", text, err, answer.Header.Get("Token"))
	}
	if err := answer.Body.Close(); err != nil {
		t.Error(err)
	}

	var refused *remoteError
	if err := r.call(t.Context(), "GET", "/missing", nil, &got); !errors.As(err, &refused) || refused.Answer.Code != "not_found" || codeOf(err) != exitUsage {
		t.Errorf("missing: %v", err)
	}
	if err := r.call(t.Context(), "GET", "/busy", nil, nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "try again") || codeOf(err) != exitFailed {
		t.Errorf("busy: %v", err)
	}
	for _, path := range []string{"/page", "/half"} {
		if err := r.call(t.Context(), "GET", path, nil, &got); err == nil || codeOf(err) != exitFailed {
			t.Errorf("%s: %v", path, err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var away *unreachableError
	if err := r.call(short, "GET", "/silent", nil, nil); !errors.As(err, &away) || !errors.Is(err, context.DeadlineExceeded) || codeOf(err) != exitFailed {
		t.Errorf("silent: %v", err)
	}
	if err := r.callAdmin(t.Context(), "GET", "/readyz", nil, nil); codeOf(err) != exitUsage {
		t.Errorf("no admin address: %v", err)
	}
	gone, err := newRemote("http://127.0.0.1:1", "", credentials{})
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.call(t.Context(), "GET", "/", nil, nil); !errors.As(err, &away) || codeOf(err) != exitFailed {
		t.Errorf("gone: %v", err)
	}
}
