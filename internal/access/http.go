package access

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// Refusal is an error of this package as an answer over HTTP.
type Refusal struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Refuse translates an error of this package; ok is false for any other.
func Refuse(err error) (r Refusal, ok bool) {
	var denied *DeniedError
	switch {
	case errors.As(err, &denied):
		return Refusal{http.StatusForbidden, "forbidden", denied.Error()}, true
	case errors.Is(err, ErrUnauthenticated):
		return Refusal{http.StatusUnauthorized, "unauthenticated",
			"a token is needed, as Authorization: Bearer TOKEN (walproxy: --token or WALPROXY_TOKEN), and the one sent, if any, is not known"}, true
	case errors.Is(err, ErrHost):
		return Refusal{http.StatusForbidden, "unknown_host",
			"the request names a host that is not this one: use an address or localhost, or list the name under hosts in the configuration"}, true
	}
	return Refusal{}, false
}

// Challenge is the value of WWW-Authenticate that goes with 401.
const Challenge = `Bearer realm="walproxy"`

// AdminRight is what a request to the admin port needs. Probes have no token; the page
// itself holds nothing before it has asked for one.
func AdminRight(r *http.Request) Right {
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case read && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/assets/")):
		return None
	case read && strings.HasPrefix(r.URL.Path, "/debug/"): // memory holds payloads
		return Admin
	case read:
		return Read
	}
	return Admin
}

// Handler lets to next what the guard lets in and may do what right says it needs, and
// nothing that a browser sends from another site.
func (g *Guard) Handler(next http.Handler, right func(*http.Request) Right) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origins.Check(r) != nil {
			answer(w, Refusal{http.StatusForbidden, "cross_origin", "a browser sent this from another origin"})
			return
		}
		needs := right(r)
		in, err := g.Authenticate(r)
		switch {
		case errors.Is(err, ErrUnauthenticated) && needs == None:
			in, err = r, nil
		case err == nil:
			err = Allow(in.Context(), needs, "")
		}
		if refusal, refused := Refuse(err); refused {
			answer(w, refusal)
			return
		}
		next.ServeHTTP(w, in)
	})
}

func answer(w http.ResponseWriter, r Refusal) {
	if r.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", Challenge)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(r.Status)
	_ = json.NewEncoder(w).Encode(r) // the client has gone: nobody to tell
}
