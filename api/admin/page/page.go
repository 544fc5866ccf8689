// Package page is the status page of the admin port: one page without a build step,
// embedded, that asks nobody but the server it came from.
//
//	GET /            index.html
//	GET /assets/...  its style and its scripts
//
// It holds nothing before it has asked for it: it polls GET /v1/status and /recent, and
// what it changes goes through the same calls as anybody's (DELETE and POST under
// /v1/sinks/ and /v1/dlq/), with the token that its user has typed in, if one is needed.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"mime"
	"net/http"
	"path"
)

//go:embed index.html assets
var files embed.FS

// policy lets the page load what is embedded beside it, ask this server, and nothing
// else: no other origin, no script or style in the page itself, no frame around it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

type file struct {
	body       []byte
	kind, eTag string
}

// Handler serves the page at / and /assets/.
func Handler() http.Handler {
	found := map[string]file{}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := files.ReadFile(name)
		sum := sha256.Sum256(body)
		found["/"+name] = file{body, kindOf(name), `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
		return err
	})
	if err != nil { // of files that are part of the program
		panic(err)
	}
	found["/"] = found["/index.html"]
	delete(found, "/index.html")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := found[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		f.serve(w, r)
	})
}

// kindOf does not ask the machine's own table of types, which may say anything.
func kindOf(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return mime.TypeByExtension(path.Ext(name))
}

func (f file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache") // asked for again after an upgrade
	h.Set("ETag", f.eTag)
	h.Set("Content-Type", f.kind)
	if r.Header.Get("If-None-Match") == f.eTag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(f.body) // the client has gone: nobody to tell
}
