package wal

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// incarnation is one life of the log: every start begins another. Records
// from first on belong to it, up to the next one's first.
type incarnation struct {
	id    uuid.UUID
	first LSN
}

// incarnations in the order of their first LSN, which is strictly rising: those
// without a record are dropped when the next begins.
type incarnations []incarnation

// at returns the incarnation that holds lsn.
func (s incarnations) at(lsn LSN) (uuid.UUID, bool) {
	i, found := slices.BinarySearchFunc(s, lsn, func(in incarnation, lsn LSN) int {
		switch {
		case in.first < lsn:
			return -1
		case in.first > lsn:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 {
		return uuid.UUID{}, false
	}
	return s[i].id, true
}

// begin returns s with an incarnation that begins at first.
func (s incarnations) begin(id uuid.UUID, first LSN) incarnations {
	out := slices.Clone(s)
	for len(out) > 0 && out[len(out)-1].first >= first {
		out = out[:len(out)-1]
	}
	return append(out, incarnation{id, first})
}

// keptFrom returns those that are needed while first is the first record kept:
// the one of first-1 is the lowest that a sink can name.
func (s incarnations) keptFrom(first LSN) incarnations {
	i := 0
	for i+1 < len(s) && s[i+1].first < first {
		i++
	}
	return s[i:]
}

func (s incarnations) validate() error {
	if len(s) == 0 {
		return fmt.Errorf("%w: no incarnation", errHeaderFrame)
	}
	for i, in := range s {
		if in.id == uuid.Nil || in.first == 0 || i > 0 && in.first <= s[i-1].first {
			return fmt.Errorf("%w: incarnation %d of %d", errHeaderFrame, i+1, len(s))
		}
	}
	return nil
}

func (s incarnations) has(id uuid.UUID) bool {
	return slices.ContainsFunc(s, func(in incarnation) bool { return in.id == id })
}
