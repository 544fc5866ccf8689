// Package rpc is the API over HTTP: REST under /v1/, and the procedures of
// walproxy.v1 over Connect, gRPC and gRPC-Web; see docs/rest.md and docs/rpc.md for
// what they promise to clients.
//
// It only translates: paths, headers and JSON into mutations and reads, errors
// of the core into one table of statuses. What it adds are limits, before
// anything is allocated: the size of one write and of one body, the bytes being
// read by all requests together, the time a client may take.
package rpc

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/mutation"
)

// Options of New. Core is required; zero values are the defaults.
type Options struct {
	Core api.Core
	// KeyType of a collection: how the key in a path is read. Nil: all strings.
	KeyType func(collection string) mutation.KeyType

	MaxItemBytes     int64 // one write. 1 MiB
	MaxBodyBytes     int64 // one POST /v1/mutations. 256 MiB
	MaxInFlightBytes int64 // reserved by all requests being read. 256 MiB
	// BodyTimeout is how long a client may pause while it sends its request or
	// takes its answer. 30 s.
	BodyTimeout time.Duration
	// Window is how many writes of one POST /v1/mutations are under way at once. 1024
	Window int

	// BackupDir is where POST /v1/backup makes its copy: a directory that does not exist
	// yet, on the file system of the log. Empty: there are no backups.
	BackupDir string
	Version   string // of the program, for the backup's manifest
	// Tracing has the W3C trace context of a request be the one of its writes.
	Tracing bool
	// Access tells who may do what. Nil: everybody everything.
	Access *access.Guard
	// Audit notes what cannot be undone. Nil: nobody does.
	Audit      *audit.Log
	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics
}

func (o Options) withDefaults() (Options, error) {
	if o.Core == nil {
		return o, errors.New("rpc: options: Core is nil")
	}
	if o.KeyType == nil {
		o.KeyType = func(string) mutation.KeyType { return mutation.KeyString }
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	o.limitDefaults()
	if o.BodyTimeout == 0 {
		o.BodyTimeout = 30 * time.Second
	}
	if o.Window == 0 {
		o.Window = 1024
	}
	if o.Access != nil {
		o.Core = access.Core(o.Core)
	}
	return o, nil
}

func (o *Options) limitDefaults() {
	if o.MaxItemBytes == 0 {
		o.MaxItemBytes = 1 << 20
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = 256 << 20
	}
	if o.MaxInFlightBytes == 0 {
		o.MaxInFlightBytes = 256 << 20
	}
	o.MaxInFlightBytes = max(o.MaxInFlightBytes, o.MaxItemBytes)
}

// Server is the handler of the API port.
type Server struct {
	options Options
	core    api.Core
	logger  *zap.Logger
	limits  atomic.Pointer[limits]
	origins *http.CrossOriginProtection
	metrics *metrics
	routes  map[string]map[string]handler // by route and method
	// stopping ends when Stop is called: waits for the sinks are cut short and
	// streams end behind the item they are at.
	stopping context.Context
	stop     context.CancelFunc
	requests sync.WaitGroup
	backup   sync.Mutex // one at a time
}

// New returns the handler.
func New(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		options: o,
		core:    o.Core,
		logger:  o.Logger,
		origins: http.NewCrossOriginProtection(),
	}
	if s.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, err
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.SetLimits(Limits{o.MaxItemBytes, o.MaxBodyBytes, o.MaxInFlightBytes})
	s.routes = s.newRoutes()
	return s, nil
}

// Stop makes requests end soon: call it before http.Server.Shutdown. What was
// accepted is still acknowledged. It may be called twice.
func (s *Server) Stop() { s.stop() }

// Wait returns when the last request has ended. Call it after the HTTP server was
// closed: it joins handlers whose connections were cut, and takes the metrics back.
// It may be called twice.
func (s *Server) Wait() {
	s.requests.Wait()
	s.metrics.close()
}

// ServeHTTP serves REST under /v1/ and procedures under the names of their services.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.requests.Done()
	ww := &statusWriter{answerWriter: s.answerWriter(w), status: http.StatusOK, timeout: s.options.BodyTimeout}
	if r.Method == http.MethodGet {
		ww.encoding = acceptEncoding(r)
	}
	if s.options.Tracing {
		r = traced(r)
	}
	start := time.Now()
	s.metrics.inFlight.Inc()
	var route string
	if isProcedure(r.URL.Path) {
		route = s.serveProcedure(w, r)
	} else {
		route = s.rest(ww, r)
	}
	s.metrics.inFlight.Dec()
	s.metrics.observe(route, r.Method, ww.status, time.Since(start))
}

// rest serves one request and returns the route's name for the metrics.
func (s *Server) rest(w http.ResponseWriter, r *http.Request) (route string) {
	t, err := parsePath(rawPath(r))
	if err != nil {
		s.fail(w, r, err)
		return "none"
	}
	// A page in somebody's browser must not write into a local proxy.
	if s.origins.Check(r) != nil {
		s.fail(w, r, crossOrigin())
		return t.route
	}
	if r, err = s.admit(r, rightFor(t.route, r.Method)); err != nil {
		s.fail(w, r, err)
		return t.route
	}
	handler, err := s.handler(t, r.Method)
	if err == nil {
		err = handler(w, r, t)
	}
	if err != nil {
		s.fail(w, r, err)
	}
	return t.route
}

// handler writes the answer or returns the error to write.
type handler func(w http.ResponseWriter, r *http.Request, t target) *Error

func (s *Server) handler(t target, method string) (handler, *Error) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if t.route == routeVerb {
		if _, ok := verbs[t.verb]; !ok {
			return nil, invalid("key", "%q is no verb (%s); a colon that is part of the key is written %%3A",
				clip(t.verb), verbNames)
		}
	}
	methods := s.routes[t.route]
	if h, ok := methods[method]; ok {
		return h, nil
	}
	return nil, notAllowed(methods)
}

// newRoutes are the handlers of every route, by method.
func (s *Server) newRoutes() map[string]map[string]handler {
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	post := func(h handler) map[string]handler { return map[string]handler{http.MethodPost: h} }
	return map[string]map[string]handler{
		routeRecord: {http.MethodGet: s.getRecord, http.MethodPut: s.putRecord,
			http.MethodPatch: s.patchRecord, http.MethodDelete: s.deleteRecord},
		routeRecords:   get(s.getRecords),
		routeVerb:      post(s.postVerb),
		routeEvents:    {http.MethodGet: s.getEvents, http.MethodPost: s.postEvents},
		routeMutations: post(s.postMutations),
		routeWrite:     get(s.getWrite),
		routeStatus:    get(s.getStatus),
		routeDrain:     {http.MethodPost: s.drain, http.MethodDelete: s.drain},
		routeLetters:   get(s.getLetters),
		routeLetter:    {http.MethodGet: s.getLetter, http.MethodDelete: s.deleteLetter},
		routeRetry:     post(s.retryLetter),
		routeEdit:      post(s.editLetter),
		routeRetryAll:  post(s.retryLetters),
		routeDiscard:   post(s.discardLetters),
		routeImport:    post(s.importLetters),
		routeSinks:     get(s.getSinks),
		routePause:     post(s.pauseSink),
		routeResume:    post(s.pauseSink),
		routeAccept:    {http.MethodGet: s.getAccept, http.MethodPost: s.postAccept},
		routeBackup:    post(s.postBackup),
		routeOpenAPI:   get(s.getOpenAPI),
	}
}

func notAllowed(methods map[string]handler) *Error {
	var allow []string
	for _, m := range []string{"GET", "PUT", "PATCH", "DELETE", "POST"} {
		if _, ok := methods[m]; ok {
			allow = append(allow, m)
		}
	}
	return &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
		Message: "this path takes " + strings.Join(allow, ", "), allow: strings.Join(allow, ", ")}
}
