package admin

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
)

// calls of the API that the admin port answers, for its page and for whoever looks
// after the proxy and has no business with its records.
var calls = []string{
	"GET /v1/status", "GET /v1/sinks", "POST /v1/sinks/{call}",
	"GET /v1/dlq/{sink}", "GET /v1/dlq/{sink}/{lsn}", "DELETE /v1/dlq/{sink}/{lsn}",
	"POST /v1/dlq/{sink}", "POST /v1/dlq/{sink}/{call}",
}

// guard keeps out what a page from elsewhere could have a browser send, and, where
// nobody has to show who it is, whoever is not on this machine.
func guard(next http.Handler, authenticated func() bool) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		switch {
		case origins.Check(r) != nil:
			refuse(w, http.StatusForbidden, "cross_origin", "a browser sent this from another origin")
		case err != nil || kind != "application/json":
			// Not what a form can send: for anything else a browser asks first.
			refuse(w, http.StatusUnsupportedMediaType, "unsupported_media_type", "send it with Content-Type: application/json")
		case !authenticated() && !isLocal(r.RemoteAddr):
			refuse(w, http.StatusForbidden, "forbidden", "without a token (admin.tokens) this is taken from the machine itself alone")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isLocal reports whether an address is of this machine's loopback.
func isLocal(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	reply(w, status, struct {
		Status    int    `json:"status"`
		Code      string `json:"code"`
		Message   string `json:"message"`
		Retryable bool   `json:"retryable"`
	}{status, code, message, false})
}
