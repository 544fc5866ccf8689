package rpc

import (
	"net/http"
	"strings"
	"unicode"

	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/audit"
)

// ActorHeader is where a client says on whose behalf it asks for what is audited.
// It is noted beside the address that the request came from, and believed no
// further.
const ActorHeader = "Walproxy-Actor"

const actorBytesMax = 256

// audited does what cannot be undone, and notes who asked for it.
func (s *Server) audited(r *http.Request, e audit.Entry, action func(*audit.Entry) error) error {
	if s.options.Audit == nil {
		return action(&e)
	}
	e.Who = actor(r.Header.Get(ActorHeader))
	e.Via = "api from " + r.RemoteAddr
	if who := access.Who(r.Context()); who != "" {
		e.Via += ", token or certificate " + who
	}
	return s.options.Audit.Do(e, action)
}

func actor(said string) string {
	said = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, said[:min(len(said), actorBytesMax)])
	if said == "" {
		return "unknown"
	}
	return said
}
