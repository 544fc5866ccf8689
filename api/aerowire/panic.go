package aerowire

import (
	"net"
	"runtime/debug"

	"go.uber.org/zap"
)

// survive ends one connection of which a request panicked, instead of the process.
//
// What clients send is evaluated here, by some thousands of lines that each could
// index one too far; a process that ends takes every other client's requests, the
// other endpoints and the loops with it, and the client that repeats the request
// does so again after each start. A request works on what is its own: until its
// write has its LSN it has changed nothing that others see, the key's lock and the
// budgets are given back by defer, and what has its LSN is logged whatever becomes
// of the request. So the others may go on. The outcome of this one is unknown: it
// gets no answer, nor do those before it on its connection that still wait for
// theirs. net/http does the same, for the same reason. What is fatal to Go itself
// (a stack without end, no memory) is not survived: that is bounded where values
// are decoded and computed.
func (s *Server) survive(c net.Conn) {
	v := recover()
	if v == nil {
		return
	}
	s.stats.panicked.Add(1)
	s.log.Error("a request panicked: its connection is closed, its outcome is unknown; this is a defect, please report it",
		zap.Stringer("client", c.RemoteAddr()), zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
}
