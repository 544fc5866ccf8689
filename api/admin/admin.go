// Package admin serves metrics, health, profiles and the status page, with those calls
// of the API that the page needs.
package admin

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/admin/page"
	"github.com/walproxy/walproxy/internal/recent"
	"github.com/walproxy/walproxy/replay"
)

// Server is the handler of the admin port.
type Server struct {
	mux      *http.ServeMux
	core     api.Core
	limits   Limits
	stopping atomic.Bool
	// authenticated is Options.Authenticated, as it is now.
	authenticated atomic.Bool
}

// Options of New. Core and Gatherer are required.
type Options struct {
	Core     api.Core
	Gatherer prometheus.Gatherer
	Limits   Limits
	// API answers what the status page asks and changes: paths of docs/rest.md. Nil:
	// there is no page.
	API http.Handler
	// Recent are the last warnings and errors. Nil: none are kept.
	Recent *recent.Log
	// Authenticated: whoever comes here has shown who it is. Else calls that change
	// something are taken from this machine alone. See Server.SetAuthenticated.
	Authenticated bool
	// Calls are more that change something, by pattern of http.ServeMux, and are guarded
	// like those of the page.
	Calls map[string]http.Handler
}

// Limits of the log, which tell when it is full.
type Limits struct {
	MaxBytes int64 // log and state store together; 0: not known
	MinFree  int64 // free bytes of the file system; 0 or less: no floor
}

// nearlyFull is how close to a limit the log counts as full: what a small
// record takes.
const nearlyFull = 16 << 10

// New returns a handler for
//
//	/metrics        Prometheus metrics of gatherer
//	/healthz        200 while the process is up and its log not poisoned
//	/readyz         200 while writes are taken and no sink has halted; JSON detail
//	/debug/pprof/   profiles
//	/               the status page, /assets/ what belongs to it
//	/recent         the last warnings and errors, as JSON
//	/v1/...         status, sinks and dead letters, see calls
func New(o Options) *Server {
	s := &Server{mux: http.NewServeMux(), core: o.Core, limits: o.Limits}
	s.authenticated.Store(o.Authenticated)
	for pattern, call := range o.Calls {
		s.mux.Handle(pattern, guard(call, s.authenticated.Load))
	}
	if o.API != nil {
		files := page.Handler()
		s.mux.Handle("GET /{$}", files)
		s.mux.Handle("GET /assets/", files)
		for _, pattern := range calls {
			s.mux.Handle(pattern, guard(o.API, s.authenticated.Load))
		}
	}
	s.mux.HandleFunc("GET /recent", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, struct {
			Entries []recent.Entry `json:"entries"`
		}{o.Recent.Entries()})
	})
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4,
	}))
	s.mux.HandleFunc("GET /healthz", s.health)
	s.mux.HandleFunc("GET /readyz", s.ready)
	s.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	s.mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	s.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	s.mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	s.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// SetAuthenticated changes Options.Authenticated.
func (s *Server) SetAuthenticated(yes bool) { s.authenticated.Store(yes) }

// Stopping makes /readyz say no from now on, so that balancers turn away while
// the stop is under way.
func (s *Server) Stopping() { s.stopping.Store(true) }

type health struct {
	Status string `json:"status"` // ok or poisoned
	Error  string `json:"error,omitempty"`
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if err := s.core.Err(); err != nil {
		reply(w, http.StatusServiceUnavailable, health{Status: "poisoned", Error: err.Error()})
		return
	}
	reply(w, http.StatusOK, health{Status: "ok"})
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready bool        `json:"ready"`
	Log   check       `json:"log"`
	Sinks []sinkCheck `json:"sinks"`
}

type check struct {
	Ready bool   `json:"ready"`
	State string `json:"state"` // writable, full, poisoned, draining, stopping
	Error string `json:"error,omitempty"`
}

type sinkCheck struct {
	Name string `json:"name"`
	check
	Lag uint64 `json:"lag"` // records not applied
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	answer := s.readiness(s.core.Status())
	code := http.StatusOK
	if !answer.Ready {
		code = http.StatusServiceUnavailable
	}
	reply(w, code, answer)
}

func (s *Server) readiness(st walproxy.Status) readiness {
	answer := readiness{Log: s.logCheck(st)}
	answer.Ready = answer.Log.Ready
	for _, sink := range st.Sinks {
		c := checkSink(sink)
		answer.Ready = answer.Ready && c.Ready
		answer.Sinks = append(answer.Sinks, c)
	}
	return answer
}

func (s *Server) logCheck(st walproxy.Status) check {
	switch {
	case s.stopping.Load():
		return check{State: "stopping"}
	case s.core.Err() != nil:
		return check{State: "poisoned", Error: s.core.Err().Error()}
	case st.Log.Err != nil:
		return check{State: "poisoned", Error: st.Log.Err.Error()}
	case st.Draining:
		return check{State: "draining"}
	case s.limits.full(st):
		return check{State: "full"}
	}
	return check{Ready: true, State: "writable"}
}

// full reports whether a small write would be refused.
func (l Limits) full(st walproxy.Status) bool {
	return l.MaxBytes > 0 && st.Log.Bytes+st.StateBytes+nearlyFull > l.MaxBytes ||
		l.MinFree > 0 && st.Log.FreeBytes-nearlyFull < l.MinFree
}

// checkSink: only a halted sink needs somebody. A store that is away does not
// make the proxy unready: that is what it is for.
func checkSink(sink walproxy.SinkStatus) sinkCheck {
	c := sinkCheck{Name: sink.Name, Lag: sink.Lag}
	c.State = string(sink.State)
	c.Ready = sink.State != replay.Halted
	if sink.Paused {
		c.State, c.Ready = "paused", true
	}
	if sink.Err != nil {
		c.Error = sink.Err.Error()
	}
	return c
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody to tell
}
