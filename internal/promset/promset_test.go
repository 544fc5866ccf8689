package promset

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func counter(name string) prometheus.Collector {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name})
}

// TestRegister: all or none, and none without a registerer.
func TestRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	registered := func() int {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return len(families)
	}
	first := []prometheus.Collector{counter("a"), counter("b")}
	if err := Register(reg, first...); err != nil || registered() != 2 {
		t.Fatalf("%v, %d are registered", err, registered())
	}
	if err := Register(reg, counter("c"), counter("b")); err == nil || registered() != 2 {
		t.Errorf("a name that is taken: %v, %d are registered", err, registered())
	}
	if Unregister(reg, first...); registered() != 0 {
		t.Errorf("%d are left", registered())
	}
	if err := Register(nil, first...); err != nil {
		t.Error(err)
	}
	Unregister(nil, first...)
}
