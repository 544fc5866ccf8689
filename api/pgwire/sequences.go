package pgwire

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// sequences hands out values that are drawn from PostgreSQL's sequences in blocks,
// ahead of the INSERTs that get them. Each is handed out once; what is not when the
// endpoint ends, or what was drawn for an INSERT that is refused, is a gap.
type sequences struct {
	s     *Server
	query catalogue.Query
	block int
	pause time.Duration // behind a failure

	mu sync.Mutex
	by map[uint32]*drawn // by OID
}

// drawn are the values of one sequence.
type drawn struct {
	of     catalogue.Sequence
	values []int64
	done   chan struct{} // closed when a block has come, or has not; nil: none is on its way
	failed time.Time     // when one has not
}

func newSequences(s *Server, query catalogue.Query, o WriteBehind) *sequences {
	return &sequences{s: s, query: query, block: o.SequenceBlock, pause: o.Interval, by: map[uint32]*drawn{}}
}

// next draws a value; false: PostgreSQL has to. It waits for a block if there is none.
func (q *sequences) next(of *catalogue.Sequence) (n int64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.by[of.OID]
	if d == nil || d.of.File != of.File { // it was restarted
		d = &drawn{of: *of}
		q.by[of.OID] = d
	}
	for len(d.values) == 0 {
		if !q.drawLocked(d) {
			return 0, false
		}
		done := d.done
		q.mu.Unlock()
		<-done
		q.mu.Lock()
		if len(d.values) == 0 && !d.failed.IsZero() {
			return 0, false
		}
	}
	n, d.values = d.values[0], d.values[1:]
	if len(d.values) < q.block/2 {
		q.drawLocked(d)
	}
	return n, true
}

// forget drops what was drawn: a sequence was set.
func (q *sequences) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.by)
}

// drawLocked has a block drawn; false: there is no point in it now.
func (q *sequences) drawLocked(d *drawn) bool {
	if d.done != nil {
		return true
	}
	if !d.failed.IsZero() && time.Since(d.failed) < q.pause || q.s.isUpstreamAway() {
		return false
	}
	done := make(chan struct{})
	d.done = done
	q.s.joined.Go(func() {
		ctx, stop := q.s.untilStop()
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
		defer cancel()
		values, err := q.draw(ctx, d.of.OID)
		q.mu.Lock()
		defer q.mu.Unlock()
		d.values, d.done = append(d.values, values...), nil
		close(done)
		if err == nil {
			d.failed = time.Time{}
			return
		}
		if d.failed.IsZero() {
			q.s.log.Warn("no values can be drawn from a sequence: inserts that need them pass through", zap.String("sequence", d.of.Name), zap.Error(err))
		}
		d.failed = time.Now()
	})
	return true
}

// drawSQL draws as many values as there are before the sequence's end, one at least.
const drawSQL = `SELECT pg_catalog.nextval(%[1]d::pg_catalog.oid::pg_catalog.regclass) FROM pg_catalog.generate_series(1, (
 SELECT greatest(1, least(%[2]d, trunc((CASE WHEN seqincrement > 0 THEN seqmax - coalesce(last, seqstart)::numeric ELSE coalesce(last, seqstart)::numeric - seqmin END) / abs(seqincrement))))::int
 FROM pg_catalog.pg_sequence, pg_catalog.pg_sequence_last_value(%[1]d::pg_catalog.oid::pg_catalog.regclass) AS last WHERE seqrelid = %[1]d))`

func (q *sequences) draw(ctx context.Context, oid uint32) (values []int64, err error) {
	rows, err := q.query(ctx, fmt.Sprintf(drawSQL, oid, q.block))
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		n, err := strconv.ParseInt(row[0], 10, 64)
		if err != nil {
			return nil, err
		}
		values = append(values, n)
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("there is no sequence with the OID %d", oid)
	}
	return values, nil
}

// isUpstreamAway reports that PostgreSQL is known to be away.
func (s *Server) isUpstreamAway() bool {
	if s.presence == nil {
		return false
	}
	_, away := s.presence.away()
	return away != nil
}

// whileUpstream returns a context that ends when PostgreSQL is known to be away.
func (s *Server) whileUpstream() context.Context {
	if s.presence == nil {
		return context.Background()
	}
	return s.presence.here()
}
