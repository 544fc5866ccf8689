package wal

import (
	"context"
	"fmt"
)

// Prove returns nil once the log has shown that it works: the committer has come round
// and an fsync that began after the call has succeeded, of records if there are any, else
// of the watermark, which is written again for it. It waits as long as the disk does, or
// ctx. ErrPoisoned: it can not; ErrClosed: it need not any more.
func (l *Log) Prove(ctx context.Context) error {
	l.mu.Lock()
	if err := l.refusal(); err != nil {
		l.mu.Unlock()
		return err
	}
	next := l.mu.queue.filling // not what is in flight: its fsync may have begun
	next.prove = true
	outcome := next.settlement
	wake(l.kick)
	l.mu.Unlock()
	return Ticket{settlement: outcome}.Wait(ctx)
}

// prove syncs what is written and writes something of its own: an fsync of nothing may
// succeed without the disk.
func (l *Log) prove() error {
	if err := l.writer.file.sync(); err != nil {
		return fmt.Errorf("sync %s: %w", l.writer.seg.place(), err)
	}
	return l.mark.rewrite(l.watermarkNow)
}

// settleProof is settle of a group without records.
func (l *Log) settleProof(g *group, err error) {
	l.mu.Lock()
	if err != nil {
		l.poisonLocked(err)
	}
	err = l.mu.err
	l.mu.inflight, l.mu.writing = nil, false
	l.mu.Unlock()
	g.batches[0].settle(err)
	l.recycle(g)
}
