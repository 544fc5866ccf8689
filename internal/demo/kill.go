package demo

import (
	"context"
	"fmt"
	"time"
)

// lookInterval between two looks at how far the server is.
const lookInterval = 5 * time.Millisecond

// killInDrain kills the server d.Kills times, each time when the next part of
// the records is acked and some of them wait to be applied, and restarts it.
func (d *demo) killInDrain(ctx context.Context, written <-chan struct{}) error {
	for i := range d.Kills {
		part := d.Records * (i + 1) / (d.Kills + 1)
		k, err := d.waitForDrain(ctx, part, written)
		if err != nil {
			return err
		}
		began := time.Now()
		d.server.Kill()
		if err := d.start(ctx); err != nil {
			return err
		}
		k.restart = time.Since(began)
		d.kills = append(d.kills, k)
		d.down += k.restart
	}
	select {
	case <-written:
		return nil
	case <-ctx.Done():
		return nil // whoever ended it says why
	case <-d.server.Ended():
		return d.gone()
	}
}

func (d *demo) gone() error {
	return fmt.Errorf("demo: the server ended by itself with exit code %d\n%s", d.server.ExitCode(), d.server.Tail())
}

// waitForDrain waits until that many records are acked and the drain is under
// way. When the clients have ended and nothing is left to drain, it is too late.
func (d *demo) waitForDrain(ctx context.Context, acked int, written <-chan struct{}) (kill, error) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return kill{}, context.Cause(ctx)
		case <-d.server.Ended():
			return kill{}, d.gone()
		case <-tick.C:
		}
		now := d.ledger.Acked()
		if now < acked {
			continue
		}
		status, err := d.client.Status(ctx)
		if err != nil {
			continue // busy or ended: the next look tells
		}
		var applied uint64
		for _, sink := range status.Sinks {
			applied = max(applied, sink.Applied)
		}
		if lag := status.Lag(); lag > 0 && applied > 0 {
			return kill{acked: now, lag: lag, midDrain: true}, nil
		}
		select {
		case <-written:
			return kill{acked: now}, nil
		default:
		}
	}
}
