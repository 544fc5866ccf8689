package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/wal"
)

// TestVerdict: the exit code says the worst of what happened.
func TestVerdict(t *testing.T) {
	left := &walproxy.RemainingError{Records: map[string]uint64{"main": 7}}
	other := errors.New("close failed")
	for _, c := range []struct {
		name             string
		failure, closing error
		code             int
		says             string
	}{
		{"clean", nil, nil, exitOK, "everything acknowledged is applied"},
		{"records stay", nil, left, exitRemaining, "7 records stay in the log for sink main"},
		{"records stay, joined", nil, errors.Join(nil, errors.Join(left)), exitRemaining, "7 records stay"},
		{"records stay and more", nil, errors.Join(left, other), exitFailed, "7 records stay"},
		{"close failed", nil, other, exitFailed, ""},
		{"poisoned at close", nil, fmt.Errorf("x: %w", wal.ErrPoisoned), exitFailed, ""},
		{"poisoned, drained", wal.ErrPoisoned, wal.ErrPoisoned, exitFailed, ""},
		{"poisoned, records stay", wal.ErrPoisoned, errors.Join(wal.ErrPoisoned, left), exitFailed, "7 records stay"},
		{"listener", other, nil, exitFailed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := verdict(c.failure, c.closing, &out)
			code := exitOK
			var coded *exitError
			if errors.As(err, &coded) {
				code = coded.code
			}
			if code != c.code || (err == nil) != (c.code == exitOK) || !strings.Contains(out.String(), c.says) {
				t.Errorf("got %d, %v, %q", code, err, out.String())
			}
			if c.failure != nil && !errors.Is(err, c.failure) {
				t.Errorf("the failure is lost: %v", err)
			}
		})
	}
}
