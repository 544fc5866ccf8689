package admin_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/walproxy/walproxy/api/admin"
)

// TestSetAuthenticated: who has to show who it is may change something from elsewhere, and
// not when nobody has to any more.
func TestSetAuthenticated(t *testing.T) {
	called := 0
	r, _ := withPage(t, func(o *admin.Options) {
		o.Calls = map[string]http.Handler{"POST /call": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called++ })}
	})
	for n, yes := range []bool{false, true, false} {
		if n > 0 {
			r.admin.SetAuthenticated(yes)
		}
		before := called
		q := httptest.NewRequestWithContext(t.Context(), "POST", "/call", strings.NewReader("{}"))
		q.RemoteAddr = "192.0.2.7:4711"
		q.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		r.admin.ServeHTTP(w, q)
		if (w.Code == http.StatusOK) != yes || (called > before) != yes {
			t.Errorf("authenticated is %v: %d: %s", yes, w.Code, w.Body)
		}
		q.Header.Set("Origin", "http://evil.example")
		w = httptest.NewRecorder()
		if r.admin.ServeHTTP(w, q); w.Code != http.StatusForbidden {
			t.Errorf("from another origin: %d", w.Code)
		}
	}
}

// TestGuard: what the admin port takes from whom.
func TestGuard(t *testing.T) {
	r, _ := withPage(t, nil)
	known, _ := withPage(t, func(o *admin.Options) { o.Authenticated = true })
	const here, away = "127.0.0.1:4711", "192.0.2.7:4711"
	json := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		h.Set(name, value)
		return h
	}
	for name, c := range map[string]struct {
		to           *rig
		method, path string
		from         string
		header       http.Header
		status       int
		part         string
	}{
		"status":             {r, "GET", "/v1/status", away, http.Header{}, 200, `"accepting":true`},
		"pause":              {r, "POST", "/v1/sinks/main:pause", here, json, 200, `"paused":true`},
		"resume over IPv6":   {r, "POST", "/v1/sinks/main:resume", "[::1]:4711", json, 200, `"paused":false`},
		"from away":          {r, "POST", "/v1/sinks/main:pause", away, json, 403, "admin.tokens"},
		"from away, known":   {known, "POST", "/v1/sinks/main:pause", away, json, 200, `"paused":true`},
		"form":               {r, "POST", "/v1/sinks/main:pause", here, with(json, "Content-Type", "text/plain"), 415, "application/json"},
		"nothing said":       {r, "POST", "/v1/dlq/main:discard", here, http.Header{}, 415, "application/json"},
		"other site":         {r, "POST", "/v1/sinks/main:pause", here, with(json, "Sec-Fetch-Site", "cross-site"), 403, "cross_origin"},
		"other port":         {r, "POST", "/v1/sinks/main:pause", here, with(json, "Sec-Fetch-Site", "same-site"), 403, "cross_origin"},
		"other origin":       {known, "DELETE", "/v1/dlq/main/7", here, with(json, "Origin", "http://evil.example"), 403, "cross_origin"},
		"same origin":        {r, "DELETE", "/v1/dlq/main/7", here, with(json, "Origin", "http://example.com"), 404, "dead letter"},
		"no records":         {r, "GET", "/v1/orders/1", here, json, 404, ""},
		"no writes":          {r, "PUT", "/v1/orders/1", here, json, 404, ""},
		"no mutations":       {r, "POST", "/v1/mutations", here, json, 404, ""},
		"no drain":           {r, "POST", "/v1/drain", here, json, 404, ""},
		"nothing below page": {r, "GET", "/assets/../page.go", here, http.Header{}, 307, ""},
		"no listing":         {r, "GET", "/assets/", here, http.Header{}, 404, ""},
	} {
		q := httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader("{}"))
		q.RemoteAddr, q.Header = c.from, c.header
		w := httptest.NewRecorder()
		paused := c.to.proxy.Status().Sinks[0].Paused
		c.to.admin.ServeHTTP(w, q)
		if now := c.to.proxy.Status().Sinks[0].Paused; c.status != 200 && now != paused {
			t.Errorf("%s: it was refused, and paused is %v", name, now)
		}
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.part) {
			t.Errorf("%s: %d, want %d with %q: %s", name, w.Code, c.status, c.part, w.Body)
		}
	}
}

// TestPageHeaders: nothing from elsewhere, nothing kept beyond an upgrade, and every
// file that the page names is there.
func TestPageHeaders(t *testing.T) {
	r, _ := withPage(t, nil)
	for _, path := range []string{"/", "/assets/app.js", "/assets/style.css", "/assets/icon.svg", "/assets/chart.js"} {
		w := httptest.NewRecorder()
		r.admin.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		csp := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		for _, outside := range []string{"https://", "http://1", "//cdn", "style=\"", "onclick"} {
			if strings.Contains(w.Body.String(), outside) {
				t.Errorf("%s: holds %q", path, outside)
			}
		}
		again := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		again.Header.Set("If-None-Match", w.Header().Get("ETag"))
		w = httptest.NewRecorder()
		if r.admin.ServeHTTP(w, again); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s again: %d", path, w.Code)
		}
	}
}
