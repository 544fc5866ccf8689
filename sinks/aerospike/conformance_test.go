package aerospike

import (
	"testing"
	"time"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// store is a sinktest.Store: a set of the cluster behind a link that can be cut.
type store struct {
	t    *testing.T
	o    Options
	link links
}

func (s *store) Open() (sinks.Sink, error) {
	if s.link != nil {
		s.link.cut()
	}
	var err error
	if s.link, err = newLinks(common.at(s.t)); err != nil {
		return nil, err
	}
	o := s.o
	o.Hosts = s.link.addrs()
	return Open(o)
}

// Crash cuts every connection, at any point of what is under way: the sink has no
// way left to make anything durable.
func (s *store) Crash(sink sinks.Sink) error {
	s.link.cut()
	return closeSink(sink)
}

func (s *store) Remove() error {
	s.link.cut()
	return nil
}

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		New: func() (sinktest.Store, error) {
			o := options(t)
			o.Settle = 50 * time.Millisecond // some of it settles while it is tested
			return &store{t: t, o: o}, nil
		},
		NotTransactional: true, NoExpiry: true, NullIsAbsent: true, RecordBytes: 1 << 20,
	})
}
