package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func request(host, authorization string, names ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for _, name := range names {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: name}}}}
	}
	return r
}

func TestToken(t *testing.T) {
	token := NewToken()
	if other := NewToken(); other == token || len(token) < 40 || !strings.HasPrefix(token, "wpx_") {
		t.Errorf("tokens %q, %q", token, other)
	}
	hash, err := ParseHash(HashOf(token).String())
	if err != nil || hash != HashOf(token) {
		t.Errorf("%v, %v", hash, err)
	}
	for _, bad := range []string{"", token, "sha256:", "sha256:" + strings.Repeat("0", 63), "sha256:" + strings.Repeat("0", 66), strings.Repeat("0", 64)} {
		if _, err := ParseHash(bad); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestAuthenticate: who is let in by which policy.
func TestAuthenticate(t *testing.T) {
	token := NewToken()
	tokens := Policy{Tokens: []Token{{Name: "app", Hash: HashOf(token), Rights: []Right{Read}}}}
	for name, c := range map[string]struct {
		policy Policy
		r      *http.Request
		want   error
		who    string
	}{
		"address":           {Policy{}, request("127.0.0.1:7070", ""), nil, ""},
		"IPv6":              {Policy{}, request("[::1]:7070", ""), nil, ""},
		"bare IPv6":         {Policy{}, request("[::1]", ""), nil, ""},
		"localhost":         {Policy{}, request("LocalHost.:7070", ""), nil, ""},
		"rebound":           {Policy{}, request("evil.example:7070", ""), ErrHost, ""},
		"localhost.evil":    {Policy{}, request("localhost.evil.example", ""), ErrHost, ""},
		"no host":           {Policy{}, request("", ""), ErrHost, ""},
		"listed":            {Policy{Hosts: []string{"Proxy.example"}}, request("proxy.example:7070", ""), nil, ""},
		"not listed":        {Policy{Hosts: []string{"proxy.example"}}, request("evil.example", ""), ErrHost, ""},
		"any":               {Policy{AnyHost: true}, request("evil.example", ""), nil, ""},
		"token":             {tokens, request("evil.example", "Bearer "+token), nil, "app"},
		"case":              {tokens, request("x", "bearer  "+token), nil, "app"},
		"no token":          {tokens, request("127.0.0.1", ""), ErrUnauthenticated, ""},
		"other":             {tokens, request("127.0.0.1", "Bearer "+NewToken()), ErrUnauthenticated, ""},
		"cut":               {tokens, request("127.0.0.1", "Bearer "+token[:40]), ErrUnauthenticated, ""},
		"basic":             {tokens, request("127.0.0.1", "Basic "+token), ErrUnauthenticated, ""},
		"hash":              {tokens, request("127.0.0.1", "Bearer "+HashOf(token).String()), ErrUnauthenticated, ""},
		"certificate":       {Policy{Certificates: true}, request("x", "", "app"), nil, `"app"`},
		"no certificate":    {Policy{Certificates: true}, request("127.0.0.1", ""), ErrUnauthenticated, ""},
		"certificate alone": {Policy{Certificates: true, Tokens: tokens.Tokens}, request("127.0.0.1", "", "app"), ErrUnauthenticated, ""},
	} {
		in, err := New(c.policy).Authenticate(c.r)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
			continue
		}
		if err == nil && Who(in.Context()) != c.who {
			t.Errorf("%s: is %q", name, Who(in.Context()))
		}
	}
}

// TestAllow: rights do not include each other, patterns bound them, and without a
// grant nothing is allowed.
func TestAllow(t *testing.T) {
	token := NewToken()
	g := New(Policy{Tokens: []Token{{Name: "app", Hash: HashOf(token), Rights: []Right{Read, Admin}, Collections: []string{"orders", "log*"}}}})
	in, err := g.Authenticate(request("x", "Bearer "+token))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		right      Right
		collection string
		want       error
	}{
		{None, "any", nil}, {Known, "", nil}, {Read, "", nil}, {Read, "orders", nil}, {Read, "log.1", nil}, {Admin, "", nil},
		{Read, "order", ErrDenied}, {Read, "xlog", ErrDenied}, {Write, "", ErrDenied}, {Write, "orders", ErrDenied},
	} {
		if err := Allow(in.Context(), c.right, c.collection); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%v %q: %v, want %v", c.right, c.collection, err, c.want)
		}
	}
	if err := Allow(context.Background(), Known, ""); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("no grant: %v", err)
	}
	g.Set(Policy{Tokens: []Token{{Name: "app", Hash: HashOf(token), Rights: []Right{Write}}}})
	if err := Allow(in.Context(), Write, "any"); err != nil {
		t.Errorf("a right that was given meanwhile: %v", err)
	}
	if err := Allow(in.Context(), Read, "orders"); !errors.Is(err, ErrDenied) {
		t.Errorf("a right that was taken away: %v", err)
	}
	g.Set(Policy{Tokens: []Token{{Name: "other", Hash: HashOf(NewToken())}}})
	if err := Allow(in.Context(), Known, ""); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("a request whose token was taken away meanwhile: %v", err)
	}
	if _, err := g.Authenticate(request("x", "Bearer "+token)); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("a token that was taken away: %v", err)
	}
}

// TestHandler: what of the admin port is open to whom.
func TestHandler(t *testing.T) {
	reader, operator := NewToken(), NewToken()
	tokens := Policy{Tokens: []Token{
		{Name: "prometheus", Hash: HashOf(reader), Rights: []Right{Read}},
		{Name: "operator", Hash: HashOf(operator), Rights: []Right{Read, Admin}},
	}}
	served := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for _, c := range []struct {
		policy       Policy
		method, path string
		header       string // name: value
		token        string
		want         int
	}{
		{tokens, "GET", "/healthz", "", "", 204}, {tokens, "GET", "/readyz", "", "", 204}, {tokens, "GET", "/", "", "", 204},
		{tokens, "GET", "/metrics", "", "", 401}, {tokens, "GET", "/metrics", "", reader, 204}, {tokens, "GET", "/metrics", "", "wrong", 401},
		{tokens, "GET", "/debug/pprof/heap", "", reader, 403}, {tokens, "GET", "/debug/pprof/heap", "", operator, 204},
		{tokens, "POST", "/reload", "", reader, 403}, {tokens, "POST", "/reload", "", operator, 204}, {tokens, "POST", "/healthz", "", "", 401},
		{Policy{}, "POST", "/reload", "", "", 204}, {Policy{}, "POST", "/reload", "Origin: https://evil.example", "", 403},
		{Policy{}, "POST", "/reload", "Sec-Fetch-Site: cross-site", "", 403}, {tokens, "POST", "/reload", "Origin: https://evil.example", operator, 403},
		{Policy{}, "POST", "/reload", "Sec-Fetch-Site: same-origin", "", 204},
		{Policy{}, "GET", "/metrics", "Host: evil.example", "", 403}, {Policy{}, "GET", "/healthz", "Host: evil.example", "", 403},
	} {
		r := httptest.NewRequest(c.method, "http://127.0.0.1:7071"+c.path, nil)
		if name, value, ok := strings.Cut(c.header, ": "); name == "Host" {
			r.Host = value
		} else if ok {
			r.Header.Set(name, value)
		}
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		w := httptest.NewRecorder()
		New(c.policy).Handler(served, AdminRight).ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s %s %s: %d, want %d: %s", c.method, c.path, c.header, w.Code, c.want, w.Body)
		}
		if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s %s: %d with challenge %q", c.method, c.path, w.Code, w.Header().Get("WWW-Authenticate"))
		}
	}
}
