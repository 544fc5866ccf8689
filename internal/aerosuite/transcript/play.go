package transcript

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// pause is how long the player waits for a request of nothing.
const pause = 100 * time.Millisecond

// Play sends requests to a server and appends what it answers to t. That it hung
// up instead is an empty answer; none at all is an error.
func (t *Transcript) Play(ctx context.Context, server, name string, requests [][]byte) error {
	p := &player{server: server}
	defer p.hangUp()
	for _, b := range requests {
		if b == nil {
			time.Sleep(pause)
			continue
		}
		req, err := parse(b)
		if err != nil {
			return err
		}
		at := time.Now()
		answer, err := p.ask(ctx, req, b)
		if context.Cause(ctx) != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errAway) {
			return fmt.Errorf("%s: %w", req, err)
		}
		if err != nil {
			answer = nil
		}
		t.Exchanges = append(t.Exchanges, Exchange{Case: name, At: at, Request: b, Answer: answer})
	}
	return nil
}
