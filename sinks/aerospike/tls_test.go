package aerospike

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/tlstest"
	"github.com/walproxy/walproxy/sinks"
)

// TestTLS: both sides know each other by their certificates; who is not known gets
// no further, and that halts the sink, for no retry mends it.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, roots := tlstest.Certificate(t)
	_, others := tlstest.Certificate(t)
	c := &cluster{tls: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: roots,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}}
	if err := c.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	common.at(t) // options asks for it
	o := options(t)
	o.Hosts, o.TLSName = c.addrs, "walproxy"
	for _, e := range []struct {
		name   string
		tls    *tls.Config
		server string
		want   sinks.Outcome
	}{
		{"known", &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}, "walproxy", sinks.Applied},
		{"a server that is not known", &tls.Config{RootCAs: others, Certificates: []tls.Certificate{cert}}, "walproxy", sinks.Halt},
		{"another name", &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}, "other", sinks.Halt},
		{"without a certificate", &tls.Config{RootCAs: roots}, "walproxy", sinks.Halt},
		{"in the clear", nil, "walproxy", sinks.Retry},
	} {
		t.Run(e.name, func(t *testing.T) {
			o := o
			o.TLS, o.TLSName = e.tls, e.server
			s := open(t, o)
			if e.want == sinks.Applied {
				works(t, s)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := s.client(ctx); err == nil || sinks.OutcomeOf(err) != e.want {
				t.Fatalf("%v, outcome %v; want %v", err, sinks.OutcomeOf(err), e.want)
			}
		})
	}
}
