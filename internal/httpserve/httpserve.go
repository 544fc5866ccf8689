// Package httpserve runs an HTTP server with limits from the first byte on, and
// stops it within a bound.
package httpserve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Options of Start. Name, Listener and Handler are required.
type Options struct {
	Name     string // for errors and logs
	Listener net.Listener
	Handler  http.Handler
	// MaxConnections are open at once. For another one that which carries no request for
	// longest is closed; if all carry one, it waits to be accepted. 0: no bound.
	MaxConnections int
	HeaderTimeout  time.Duration // 10 s
	IdleTimeout    time.Duration // 2 min
	HeaderBytes    int           // 64 KiB
	MaxStreams     int           // of one connection of HTTP/2. 128
	// TLS, if not nil, is spoken on every connection. Its NextProtos are Protocols.
	TLS    *tls.Config
	Logger *zap.Logger
}

// Server is a running HTTP server.
type Server struct {
	name   string
	logger *zap.Logger
	http   *http.Server
	failed chan error // capacity 1
	serve  sync.WaitGroup
	fresh  sync.Map // net.Conn without a request yet
	idle   *idleConns
	limit  *limitListener // nil: none
}

// What one connection of HTTP/2 may bring at once.
const (
	maxStreams       = 128
	streamBuffer     = 256 << 10
	connectionBuffer = 1 << 20
)

// Protocols are what a client can choose from in a TLS handshake.
var Protocols = []string{"h2", "http/1.1"}

// protocols are HTTP/1 and HTTP/2; as gRPC without TLS begins, that from the first byte.
func protocols(secure bool) *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(!secure)
	return p
}

// Start serves o.Listener, which it closes.
func Start(o Options) *Server {
	if o.HeaderTimeout == 0 {
		o.HeaderTimeout = 10 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 2 * time.Minute
	}
	if o.HeaderBytes == 0 {
		o.HeaderBytes = 64 << 10
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = maxStreams
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	errorLog, err := zap.NewStdLogAt(o.Logger, zap.DebugLevel)
	if err != nil { // Debug is a level
		panic(err)
	}
	s := &Server{name: o.Name, logger: o.Logger, failed: make(chan error, 1), http: &http.Server{
		Handler:           o.Handler,
		ReadHeaderTimeout: o.HeaderTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    o.HeaderBytes,
		ErrorLog:          errorLog,
		Protocols:         protocols(o.TLS != nil),
		TLSConfig:         o.TLS,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: o.MaxStreams, MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: connectionBuffer},
	}}
	s.http.ConnState = s.follow
	s.idle = newIdleConns()
	listener := o.Listener
	if o.MaxConnections > 0 {
		s.limit = limit(listener, o.MaxConnections, s.idle)
		listener = s.limit
	}
	s.serve.Go(func() {
		serve := s.http.Serve
		if o.TLS != nil {
			serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
		}
		if err := serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("%s listener: %w", s.name, err)
		}
	})
	return s
}

// SetMaxConnections changes Options.MaxConnections, where there is a bound. Nobody is sent
// away for a smaller one.
func (s *Server) SetMaxConnections(n int) {
	if s.limit != nil {
		s.limit.slots.Resize(n)
	}
}

// Failed delivers the error that ended the server without a Close.
func (s *Server) Failed() <-chan error { return s.failed }

// follow keeps count of the connections that have brought no request yet, and of those
// that carry none.
func (s *Server) follow(conn net.Conn, state http.ConnState) {
	if state == http.StateIdle {
		s.idle.rest(conn)
	} else {
		s.idle.leave(conn)
	}
	if state == http.StateNew {
		s.fresh.Store(conn, nil)
	} else {
		s.fresh.Delete(conn)
	}
}

// closeFresh closes the connections that have brought no request yet. Clients
// open some in advance, and Shutdown would wait 5 s for each of them.
func (s *Server) closeFresh() {
	s.fresh.Range(func(conn, _ any) bool {
		_ = conn.(net.Conn).Close() // nothing was promised on it
		return true
	})
}

// Close stops listening, waits for requests until ctx ends and then cuts their
// connections: a client that stalls is no failure of ours.
func (s *Server) Close(ctx context.Context) error {
	s.closeFresh()
	err := s.http.Shutdown(ctx)
	if err != nil && ctx.Err() != nil {
		s.logger.Warn("requests were cut off", zap.NamedError("cause", context.Cause(ctx)))
		err = s.http.Close()
	}
	s.serve.Wait()
	return err
}
