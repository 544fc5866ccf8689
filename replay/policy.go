package replay

import (
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// Policy says what a rejected record means for those behind it.
type Policy int

// From lenient to strict, but for the zero value: a group takes the strictest
// of its members'.
const (
	// ParkKey makes it a dead letter, and the later records of its keys queue
	// behind it in the dead letters, so that order holds. The zero value.
	ParkKey Policy = iota
	// Skip makes it a dead letter and goes on with the next record of its keys.
	Skip
	// Halt stops the sink at it.
	Halt
)

var policyNames = map[Policy]string{ParkKey: "park_key", Skip: "skip", Halt: "halt"}

func (p Policy) String() string {
	if name, ok := policyNames[p]; ok {
		return name
	}
	return fmt.Sprintf("policy(%d)", int(p))
}

// ParsePolicy is the inverse of String.
func ParsePolicy(name string) (Policy, error) {
	for p, n := range policyNames {
		if n == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("replay: policy %q: want park_key, skip or halt", name)
}

func (p Policy) strictness() int {
	switch p {
	case Skip:
		return 0
	case ParkKey:
		return 1
	}
	return 2 // Halt, and what nobody may say
}

// policy of a record: the strictest of its writes'.
func (l *Loop) policy(body *walproxyv1.Record) Policy {
	strictest, first := ParkKey, true
	mutation.Keys(body, func(collection string, _ *walproxyv1.Key) {
		p := l.o.OnReject(collection)
		if first || p.strictness() > strictest.strictness() {
			strictest, first = p, false
		}
	})
	return strictest
}
