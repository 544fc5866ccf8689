package wal

import "context"

// aloneMin is after how many groups in a row, during which nothing else came, a writer
// counts as being alone.
const aloneMin = 8

// EnqueueToLead is Enqueue for who calls Lead behind it, at once: where nobody else
// writes, the record is not made durable before. Others' records, Seal and Prove do not wait for that.
func (l *Log) EnqueueToLead(ctx context.Context, payload []byte) (Ticket, error) {
	return l.enqueue(ctx, payload, true)
}

// Lead makes the record of EnqueueToLead durable on the caller's own goroutine if nobody
// else is at it. A writer that is alone is spared two changes of goroutine so, each of
// which may wake a thread. Then it lasts as long as the disk does. It may be called
// again, and does nothing for records of Enqueue.
func (t Ticket) Lead() {
	if t.leads != nil {
		t.leads.lead(t.settlement)
	}
}

// lead does what the committer would do for the batch of s.
func (l *Log) lead(s *settlement) {
	g := l.takeToLead(s)
	if g != nil {
		l.settle(g, l.write(g))
	}
}

// takeToLead is takeGroup for who leads; nil: it is the committer's.
func (l *Log) takeToLead(s *settlement) *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &l.mu.queue
	if q.filling.settlement != s || q.filling.empty() {
		return nil // somebody has it
	}
	if l.mu.err != nil || l.mu.committing || l.mu.writing || len(q.written) > 0 {
		wake(l.kick)
		return nil
	}
	l.mu.leading = true
	rest := q.next()
	l.toWrite(rest)
	return l.fly(rest)
}

// endLead has the committer go on if there is something for it. Under mu.
func (l *Log) endLead() {
	l.mu.leading = false
	q := &l.mu.queue
	if !q.filling.empty() || q.filling.prove || len(q.written) > 0 || l.mu.writing || l.mu.sealed || l.mu.err != nil {
		wake(l.kick)
	}
}
