package main

import (
	"context"
	"testing"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/dlq"
)

// seldom has a dead letter that is selected every so many LSNs, and looks at ten at once.
type seldom struct {
	letterBox
	every, last walproxy.LSN
}

func (s seldom) page(_ context.Context, _ string, _ *dlq.Filter, from walproxy.LSN, limit int) (page []dlq.Letter, next walproxy.LSN, err error) {
	for at := from; at < from+10; at++ {
		switch {
		case at > s.last:
			return page, 0, nil
		case at%s.every == 0 && len(page) == limit:
			return page, at, nil
		case at%s.every == 0:
			page = append(page, dlq.Letter{LSN: at})
		}
	}
	return page, from + 10, nil
}

// TestDLQListNext: where the list goes on is said also if the next that is selected is
// far behind; and not where there is none.
func TestDLQListNext(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	for _, c := range []struct {
		last walproxy.LSN
		more bool
	}{{205, true}, {105, false}, {100, false}} {
		f := letterFlags{sink: "main"}
		list, err := f.list(cmd, seldom{every: 100, last: c.last}, selection{from: 1}, 1)
		if err != nil || len(list.DeadLetters) != 1 || list.DeadLetters[0].LSN != 100 || c.more && list.Next == nil {
			t.Errorf("up to %d: %+v, %v", c.last, list, err)
		}
		if !c.more && list.Next != nil {
			t.Errorf("up to %d: goes on at %v", c.last, *list.Next)
		}
	}
}
