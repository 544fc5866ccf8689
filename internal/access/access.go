// Package access tells who a request to the API or to the admin port is from, and what
// that one may do.
//
// A client shows a bearer token, a certificate that the listener has verified, or
// nothing at all, which is enough only where nothing is configured: then anybody who
// reaches the port may do everything, and the names under which a browser may reach it
// are bounded, for a page from elsewhere can have its own name point here (DNS
// rebinding).
//
// Of a token only its SHA-256 is kept. A slow hash, as bcrypt, is for what people
// choose: a token is 256 bits of chance, which nobody guesses however fast the hash is,
// and one that took 100 ms for each request would be an attack by itself.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// Errors of Authenticate and of what a Core refuses.
var (
	// ErrUnauthenticated: no token, or one that nobody knows.
	ErrUnauthenticated = errors.New("access: not authenticated")
	// ErrDenied: who asks is known and may not do it; *DeniedError says what.
	ErrDenied = errors.New("access: denied")
	// ErrHost: the request is for another host.
	ErrHost = errors.New("access: the request names another host")
)

// Right is what somebody may do.
type Right int

const (
	// None is needed by nothing: what anybody may know.
	None Right = iota
	// Known is needed where it is enough to be somebody.
	Known
	// Read and Write are about records.
	Read
	Write
	// Admin is about the proxy itself and what its sinks rejected, whatever the collection.
	Admin
)

var rightNames = map[string]Right{"read": Read, "write": Write, "admin": Admin}

// ParseRight reads a right's name.
func ParseRight(name string) (Right, bool) {
	r, ok := rightNames[name]
	return r, ok
}

func (r Right) String() string {
	for name, of := range rightNames {
		if of == r {
			return name
		}
	}
	return "right " + strconv.Itoa(int(r))
}

// DeniedError says what was missing.
type DeniedError struct {
	Who        string
	Right      Right
	Collection string // empty: it is not about one
}

func (e *DeniedError) Error() string {
	if e.Collection == "" {
		return fmt.Sprintf("%s has no right to %s", e.Who, e.Right)
	}
	return fmt.Sprintf("%s has no right to %s collection %q", e.Who, e.Right, e.Collection)
}

// Unwrap returns ErrDenied.
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Hash is the SHA-256 of a token.
type Hash [sha256.Size]byte

const (
	tokenPrefix = "wpx_" // so that scanners for secrets find one that leaked
	hashPrefix  = "sha256:"
)

// NewToken makes a token of 256 random bits.
func NewToken() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
}

// HashOf a token.
func HashOf(token string) Hash { return sha256.Sum256([]byte(token)) }

func (h Hash) String() string { return hashPrefix + hex.EncodeToString(h[:]) }

// ParseHash reads what String writes. Its error does not repeat text, which might be a
// token that stands in a hash's place.
func ParseHash(text string) (h Hash, err error) {
	digits, ok := strings.CutPrefix(text, hashPrefix)
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != len(h) {
		return h, fmt.Errorf("want %s and 64 hex digits, as `walproxy token new` prints them", hashPrefix)
	}
	return Hash(raw), nil
}

// Token is what the holder of one may do.
type Token struct {
	Name        string
	Hash        Hash
	Rights      []Right
	Collections []string // patterns (path.Match); none: all
}

// Policy of a port. The zero value lets anybody do everything under any name.
type Policy struct {
	// Tokens: none: no token is asked for.
	Tokens []Token
	// Certificates: the listener takes verified clients alone. Without Tokens, each of
	// them may do everything.
	Certificates bool
	// Hosts are what a request may name beside addresses and localhost.
	Hosts []string
	// AnyHost: nothing is wrong with any other.
	AnyHost bool
}

// Guard applies a policy. Calls may be concurrent.
type Guard struct{ now atomic.Pointer[rules] }

type rules struct {
	Policy
	tokens map[Hash]*Token
}

// New returns a guard with a policy.
func New(p Policy) *Guard {
	g := &Guard{}
	g.Set(p)
	return g
}

// Set is for everything that is asked from now on, also within a request that has begun: a
// stream's next write is refused if its token has gone.
func (g *Guard) Set(p Policy) {
	r := &rules{Policy: p, tokens: make(map[Hash]*Token, len(p.Tokens))}
	for _, t := range p.Tokens {
		r.tokens[t.Hash] = &t
	}
	g.now.Store(r)
}

// Grant is what somebody may do.
type Grant struct {
	guard *Guard
	shown shown
	who   string // as it was let in; empty: nobody in particular
	last  atomic.Pointer[verdict]
}

// verdict is what some rules say of what is shown.
type verdict struct {
	by  *rules
	who string
	of  *Token // nil: may do everything
}

// shown is what somebody shows; with the request it goes, whose headers have the token, too.
type shown struct {
	token       string
	certificate *x509.Certificate // nil: none
	host        string
}

type grantKey struct{}

// Authenticate returns r with what its sender may do, for Allow.
//
// Errors: ErrHost, ErrUnauthenticated.
func (g *Guard) Authenticate(r *http.Request) (*http.Request, error) {
	is := shown{token: bearer(r), host: r.Host}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		is.certificate = r.TLS.PeerCertificates[0]
	}
	v, err := g.now.Load().judge(is)
	if err != nil {
		return nil, err
	}
	grant := &Grant{guard: g, shown: is, who: v.who}
	grant.last.Store(v)
	return r.WithContext(context.WithValue(r.Context(), grantKey{}, grant)), nil
}

// judge says what who shows this may do.
func (r *rules) judge(is shown) (*verdict, error) {
	v := &verdict{by: r}
	switch {
	case len(r.Tokens) > 0:
		// A map's lookup takes as long as it likes: it tells about hashes, of which no
		// token can be made.
		token, ok := r.tokens[HashOf(is.token)]
		if !ok {
			return nil, ErrUnauthenticated
		}
		v.who, v.of = token.Name, token
	case r.Certificates:
		if is.certificate == nil {
			return nil, ErrUnauthenticated
		}
		v.who = strconv.Quote(is.certificate.Subject.CommonName) // no token has such a name
	case !r.AnyHost && !r.named(is.host):
		return nil, ErrHost
	}
	return v, nil
}

// verdict is that of the rules of now.
func (g *Grant) verdict() (*verdict, error) {
	now, v := g.guard.now.Load(), g.last.Load()
	if v.by == now {
		return v, nil
	}
	v, err := now.judge(g.shown)
	if err == nil {
		g.last.Store(v)
	}
	return v, err
}

func bearer(r *http.Request) string {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// named reports whether host is a name of ours. An address is: nobody else's name
// resolves to it, it is none.
func (r *rules) named(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	return host == "localhost" || net.ParseIP(host) != nil ||
		slices.ContainsFunc(r.Hosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// Allow is nil if who asks may do so to a collection; empty: to what is none.
func Allow(ctx context.Context, right Right, collection string) error {
	if right == None {
		return nil
	}
	grant, ok := ctx.Value(grantKey{}).(*Grant)
	if !ok {
		return ErrUnauthenticated
	}
	v, err := grant.verdict()
	switch {
	case err != nil:
		return err
	case v.of == nil || right == Known:
		return nil
	case !slices.Contains(v.of.Rights, right), collection != "" && !v.of.covers(collection):
		return &DeniedError{Who: "token " + v.who, Right: right, Collection: collection}
	}
	return nil
}

// Who names the token or certificate of ctx; empty: nobody in particular.
func Who(ctx context.Context) string {
	if grant, ok := ctx.Value(grantKey{}).(*Grant); ok {
		return grant.who
	}
	return ""
}

func (t *Token) covers(collection string) bool {
	return len(t.Collections) == 0 || slices.ContainsFunc(t.Collections, func(pattern string) bool {
		ok, _ := path.Match(pattern, collection) // validated: no error
		return ok || pattern == "*"
	})
}
