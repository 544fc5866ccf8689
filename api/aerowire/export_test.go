package aerowire

// TakeRoom takes all the room for what is decoded, until release is called. ok is
// false if somebody has some.
func (s *Server) TakeRoom() (release func(), ok bool) {
	return func() { s.decoded.Release(s.decodedMax) }, s.decoded.TryAcquire(s.decodedMax)
}

// TakeInFlight is TakeRoom for messages.
func (s *Server) TakeInFlight() (release func(), ok bool) {
	return func() { s.inFlight.Release(s.o.MaxInFlightBytes) }, s.inFlight.TryAcquire(s.o.MaxInFlightBytes)
}

// Panicked is how many requests panicked.
func (s *Server) Panicked() int64 { return s.stats.panicked.Load() }
