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
	// streams and pages are the bytes of answers that clients have yet to take, of
	// streams and of lists, each a quarter of MaxInFlightBytes: see room.go.
	streams, pages *semaphore.Weighted
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
		now.inFlight, now.streams, now.pages = was.inFlight, was.streams, was.pages
	} else {
		now.inFlight = semaphore.NewWeighted(now.MaxInFlightBytes)
		now.streams = semaphore.NewWeighted(now.MaxInFlightBytes / 4)
		now.pages = semaphore.NewWeighted(now.MaxInFlightBytes / 4)
	}
	s.limits.Store(now)
}
