// Package promset registers metrics that belong together.
package promset

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers all of cs or, with an error, none. A nil registerer is none:
// nothing is done.
func Register(to prometheus.Registerer, cs ...prometheus.Collector) error {
	if to == nil {
		return nil
	}
	for i, c := range cs {
		if err := to.Register(c); err != nil {
			Unregister(to, cs[:i]...)
			return err
		}
	}
	return nil
}

// Unregister takes all of cs away again.
func Unregister(from prometheus.Registerer, cs ...prometheus.Collector) {
	if from == nil {
		return
	}
	for _, c := range slices.Backward(cs) {
		from.Unregister(c)
	}
}
