package rpc_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/access"
)

// holders are tokens by what their holders may do.
type holders map[string]string // name -> token

func (h holders) header(name string) string { return "Bearer " + h[name] }

func newHolders() (holders, access.Policy) {
	h, p := holders{}, access.Policy{}
	for name, t := range map[string]access.Token{
		"reader":   {Rights: []access.Right{access.Read}},
		"writer":   {Rights: []access.Right{access.Write}},
		"shop":     {Rights: []access.Right{access.Read, access.Write}, Collections: []string{"orders", "shop.*"}},
		"other":    {Rights: []access.Right{access.Write}},
		"operator": {Rights: []access.Right{access.Admin}},
	} {
		h[name] = access.NewToken()
		t.Name, t.Hash = name, access.HashOf(h[name])
		p.Tokens = append(p.Tokens, t)
	}
	h["stranger"] = access.NewToken()
	return h, p
}

// TestAccessREST: what each token may do over REST, and what it is told else.
func TestAccessREST(t *testing.T) {
	h, policy := newHolders()
	r := newRig(t, func(o *rigOptions) { o.rest.Access = access.New(policy) })
	for _, c := range []struct {
		who, method, path, body string
		status                  int
		code                    string
	}{
		{"", "GET", "/v1/orders/1", "", 401, "unauthenticated"},
		{"stranger", "PUT", "/v1/orders/1", `{"a":1}`, 401, "unauthenticated"},
		{"stranger", "GET", "/v1/status", "", 401, "unauthenticated"},
		{"reader", "PUT", "/v1/orders/1", `{"a":1}`, 403, "forbidden"},
		{"shop", "PUT", "/v1/orders/1", `{"a":1}`, 200, ""},
		{"shop", "PATCH", "/v1/shop.cart/1", `{"a":1}`, 200, ""},
		{"shop", "POST", "/v1/orders/1:increment", `{"a":1}`, 200, ""},
		{"shop", "PUT", "/v1/users/1", `{"a":1}`, 403, "forbidden"},
		{"shop", "DELETE", "/v1/users/1", "", 403, "forbidden"},
		{"shop", "GET", "/v1/users/1", "", 403, "forbidden"},
		{"shop", "GET", "/v1/users/1/events", "", 403, "forbidden"},
		{"shop", "GET", "/v1/orders/1", "", 200, ""},
		{"writer", "PUT", "/v1/users/1", `{"a":1}`, 200, ""},
		{"writer", "GET", "/v1/users/1", "", 403, "forbidden"},
		{"writer", "GET", "/v1/writes/1", "", 200, ""},
		{"reader", "GET", "/v1/users/1", "", 200, ""},
		{"reader", "GET", "/v1/status", "", 200, ""},
		{"reader", "GET", "/v1/dlq/main", "", 403, "forbidden"},
		{"writer", "POST", "/v1/drain", "", 403, "forbidden"},
		{"writer", "POST", "/v1/sinks/main:pause", "", 403, "forbidden"},
		{"operator", "GET", "/v1/dlq/main", "", 200, ""},
		{"operator", "POST", "/v1/sinks/main:resume", "", 200, ""},
		{"operator", "GET", "/v1/orders/1", "", 403, "forbidden"},
	} {
		var headers []string
		if c.who != "" {
			headers = []string{"Authorization", h.header(c.who)}
		}
		a := r.do(c.method, c.path, c.body, headers...)
		if a.status != c.status || c.code != "" && member(a.body, "code") != quote(c.code) {
			t.Errorf("%s %s %s: %d %s; want %d %s", c.who, c.method, c.path, a.status, a.raw, c.status, c.code)
		}
		if (c.status == 401) != (a.header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s %s %s: %d with challenge %q", c.who, c.method, c.path, a.status, a.header.Get("WWW-Authenticate"))
		}
	}
	// Items of a batch are judged one by one.
	before := r.logged()
	a := r.do("POST", "/v1/mutations", `[{"collection":"orders","key":"2","set":{"a":1}},{"collection":"users","key":"2","set":{"a":1}}]`,
		"Authorization", h.header("shop"))
	if a.status != 200 || strings.Count(a.raw, `"forbidden"`) != 1 || strings.Count(a.raw, `"lsn"`) != 1 || r.logged() != before+1 {
		t.Errorf("a batch: %d %s", a.status, a.raw)
	}
}

// TestAccessRequestIDs: one client's ids are not another's.
func TestAccessRequestIDs(t *testing.T) {
	h, policy := newHolders()
	r := newRig(t, func(o *rigOptions) { o.rest.Access = access.New(policy) })
	put := func(who, body string) answer {
		return r.do("PUT", "/v1/orders/1", body, "Authorization", h.header(who), "Idempotency-Key", "one")
	}
	first := r.want(put("writer", `{"a":1}`), 200)
	r.want(put("other", `{"a":2}`), 200, "repeat", "nothing")
	again := r.want(put("writer", `{"a":1}`), 200, "repeat", "true")
	if first.version() != again.version() {
		t.Errorf("%s, repeated %s", first.raw, again.raw)
	}
	r.want(put("writer", `{"a":3}`), 422)
}

// TestAccessProcedures: the same over every protocol of procedures, in its own shape.
func TestAccessProcedures(t *testing.T) {
	h, policy := newHolders()
	for wire, options := range wires {
		t.Run(wire, func(t *testing.T) {
			r := newProcedureRig(t, options, func(o *rigOptions) { o.rest.Access = access.New(policy) })
			write := func(who, collection string) error {
				req := writeOf(setOf(collection, "1", 1))
				if who != "" {
					req.Header().Set("Authorization", h.header(who))
				}
				_, err := r.writes.Write(t.Context(), req)
				return err
			}
			if err := write("shop", "orders"); err != nil {
				t.Fatal(err)
			}
			if f := failureOf(t, write("", "orders"), connect.CodeUnauthenticated); f.GetCode() != "unauthenticated" {
				t.Errorf("no token: %v", f)
			}
			if f := failureOf(t, write("stranger", "orders"), connect.CodeUnauthenticated); f.GetCode() != "unauthenticated" {
				t.Errorf("a stranger: %v", f)
			}
			for who, collection := range map[string]string{"shop": "users", "reader": "orders"} {
				if f := failureOf(t, write(who, collection), connect.CodePermissionDenied); f.GetCode() != "forbidden" {
					t.Errorf("%s: %v", who, f)
				}
			}
			read := func(who string) error {
				req := connect.NewRequest(&walproxyv1.GetRequest{Collection: "orders", Key: stringKey("1")})
				req.Header().Set("Authorization", h.header(who))
				_, err := r.reads.Get(t.Context(), req)
				return err
			}
			if err := read("shop"); err != nil {
				t.Error(err)
			}
			if f := failureOf(t, read("writer"), connect.CodePermissionDenied); f.GetCode() != "forbidden" {
				t.Errorf("a writer reads: %v", f)
			}
		})
	}
}

// TestAccessStream: each mutation of a stream, and each of a group, is judged.
func TestAccessStream(t *testing.T) {
	h, policy := newHolders()
	guard := access.New(policy)
	r := newProcedureRig(t, wires["grpc"], func(o *rigOptions) { o.rest.Access = guard })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := r.writes.WriteStream(ctx)
	stream.RequestHeader().Set("Authorization", h.header("shop"))
	if err := stream.Send(&walproxyv1.WriteStreamRequest{Mutations: []*walproxyv1.Mutation{setOf("orders", "1", 1), setOf("users", "1", 1)}}); err != nil {
		t.Fatal(err)
	}
	got, err := stream.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if o := got.GetOutcomes(); len(o) != 2 || o[0].GetWritten() == nil || o[1].GetFailure().GetCode() != "forbidden" {
		t.Errorf("got %v", got)
	}
	if err := stream.CloseRequest(); err != nil {
		t.Error(err)
	}
	if err := stream.CloseResponse(); err != nil {
		t.Error(err)
	}
	before := r.logged()
	group := connect.NewRequest(&walproxyv1.WriteRequest{Write: &walproxyv1.WriteRequest_Atomic_{Atomic: &walproxyv1.WriteRequest_Atomic{
		Mutations: []*walproxyv1.Mutation{setOf("orders", "1", 2), setOf("users", "1", 2)}}}})
	group.Header().Set("Authorization", h.header("shop"))
	_, err = r.writes.Write(t.Context(), group)
	if f := failureOf(t, err, connect.CodePermissionDenied); f.GetCode() != "forbidden" || r.logged() != before {
		t.Errorf("a group: %v, %d logged", f, r.logged()-before)
	}
}

// TestHosts: without tokens a page cannot reach the API under a name of its own.
func TestHosts(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.rest.Access = access.New(access.Policy{Hosts: []string{"proxy.example"}}) })
	get := func(host string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for host, want := range map[string]int{"": 200, "localhost:7070": 200, "proxy.example": 200, "evil.example": 403} {
		if got := get(host); got != want {
			t.Errorf("host %q: %d, want %d", host, got, want)
		}
	}
}
