package rpc

import (
	"net/http"

	"golang.org/x/sync/semaphore"
)

// Limits of a Server, in bytes.
type Limits struct {
	MaxItemBytes     int64 // one write
	MaxBodyBytes     int64 // one POST /v1/mutations
	MaxInFlightBytes int64 // reserved by all requests being read
}

// limits are those in effect, with what is made for them. It never changes.
type limits struct {
	Limits
	inFlight *semaphore.Weighted // bytes
	// procedures serves Connect, gRPC and gRPC-Web.
	procedures http.Handler
}

// SetLimits changes the limits for requests to come, those of Options that are 0 are
// their defaults. What is being read already is counted against the bound that it
// began under.
func (s *Server) SetLimits(to Limits) {
	o := Options{MaxItemBytes: to.MaxItemBytes, MaxBodyBytes: to.MaxBodyBytes, MaxInFlightBytes: to.MaxInFlightBytes}
	o.limitDefaults()
	now := &limits{Limits: Limits{o.MaxItemBytes, o.MaxBodyBytes, o.MaxInFlightBytes}, procedures: s.newProcedures(o.MaxItemBytes)}
	if was := s.limits.Load(); was != nil && was.MaxInFlightBytes == now.MaxInFlightBytes {
		now.inFlight = was.inFlight
	} else {
		now.inFlight = semaphore.NewWeighted(now.MaxInFlightBytes)
	}
	s.limits.Store(now)
}
