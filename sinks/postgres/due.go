package postgres

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/horizon"
	"github.com/walproxy/walproxy/sinks"
)

const (
	// lull is for how many of Expiry.Every ends are gathered where nothing is
	// applied: so seldom is the log asked for the time, at most.
	lull = 50
	// lookAnew is when ends are looked for again at the latest, which bounds what a
	// clock that was set can do.
	lookAnew = time.Hour
)

// horizonOf is what sinks.Expirer's UseHorizon takes.
type horizonOf func(context.Context) (sinks.LSN, time.Time, error)

// UseHorizon implements sinks.Expirer.
func (s *Sink) UseHorizon(f func(context.Context) (sinks.LSN, time.Time, error)) {
	w := s.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.ask, w.mu.asked = f, 0
}

// changed notes that there may be other ends than those that were looked at.
func (w *sweeper) changed() {
	select {
	case w.fresh <- struct{}{}:
	default:
	}
}

// idle removes what has ended where nothing is applied that would tell the time, and
// returns when to look again; zero: when something is applied.
func (w *sweeper) idle() (again time.Time) {
	now := time.Now()
	w.mu.Lock()
	ask, asked, epoch := w.mu.ask, w.mu.asked, w.mu.epoch
	at, low := w.mu.horizon.At(), sinks.Checkpoint{Lanes: w.mu.lanes}.Low().LSN
	w.mu.Unlock()
	switch {
	case ask == nil:
		return time.Time{}
	case !w.sink.owner.holds():
		return now.Add(relook)
	}
	end, due, err := w.next(epoch)
	switch {
	case err != nil:
		w.failed("", err)
		return now.Add(relook)
	case due.IsZero() || due.After(now):
		return due
	case !at.After(end) && asked > low: // a lane is on its way there
		return time.Time{}
	case !at.After(end):
		if err := w.look(ask, epoch); err != nil {
			w.failed("", err)
			return now.Add(relook)
		}
	}
	w.rounds()
	return now.Add(lull * w.sink.o.Expiry.Every)
}

// look asks the log how far time has come.
func (w *sweeper) look(ask horizonOf, epoch uint64) error {
	ctx, cancel := context.WithTimeout(w.ctx, w.sink.o.Timeouts.Statement)
	defer cancel()
	above, at, err := ask(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if epoch == w.mu.epoch {
		w.mu.asked = above
		w.mu.horizon.Observe(horizon.Sample{LSN: above, Accepted: at}, sinks.Checkpoint{Lanes: w.mu.lanes}.Low().LSN)
	}
	return nil
}

// next is the first end of a row that is not removed yet, and when it is worth
// looking for it; zero: there is none.
func (w *sweeper) next(epoch uint64) (end, due time.Time, err error) {
	if err := w.list(epoch); err != nil {
		return end, due, err
	}
	for _, name := range slices.Sorted(maps.Keys(w.collections)) {
		first, at, err := w.nextOf(w.collections[name])
		if err != nil {
			return end, due, fmt.Errorf("%s: %w", name, err)
		}
		if !at.IsZero() && (due.IsZero() || at.Before(due)) {
			end, due = first, at
		}
	}
	return end, due, nil
}

// nextOf is next of one collection. What was passed over is due when it is looked
// at again.
func (w *sweeper) nextOf(e *expiring) (end, due time.Time, err error) {
	var m *mapping
	var row [][]byte
	err = w.onConn(func(conn *pgconn.PgConn) (err error) {
		if m, err = w.sink.planner.lookup(w.ctx, conn, e.collection); err != nil || m == nil {
			return err
		}
		row, err = firstEnds(w.ctx, conn, w.sink.schema, m, e.cursor)
		return err
	})
	if err != nil || m == nil {
		return end, due, err
	}
	now, clock := time.Now(), fromMicroseconds(readInteger(row[0]))
	if row[1] != nil {
		end = fromMicroseconds(readInteger(row[1]))
		// By the server's clock, which deletes, and by this one, which is asked.
		due = now.Add(min(max(end.Add(w.sink.o.Expiry.Margin).Sub(clock), end.Sub(now))+time.Millisecond, lookAnew))
	}
	if row[2] != nil && (due.IsZero() || e.again.Before(due)) {
		end, due = fromMicroseconds(readInteger(row[2])), e.again
	}
	return end, due, nil
}

// firstEnds reads the server's clock, the first end behind the cursor, and the first
// up to it.
func firstEnds(ctx context.Context, conn *pgconn.PgConn, schema string, m *mapping, after cursor) ([][]byte, error) {
	from, params := m.table.quoted()+" AS t WHERE true", [][]byte(nil)
	var types []uint32
	if !m.document {
		from, types, params = schema+".record AS t WHERE t.collection = $1", []uint32{oidText}, [][]byte{[]byte(m.collection)}
	}
	first := func(condition string) string {
		return fmt.Sprintf("(SELECT t.expires_at FROM %s AND t.expires_at IS NOT NULL%s ORDER BY t.expires_at LIMIT 1)", from, condition)
	}
	behind, before := first(""), "NULL::timestamptz"
	if after.end != nil {
		types, params = append(types, oidTimestamptz), append(params, after.end)
		behind = first(fmt.Sprintf(" AND t.expires_at > $%d", len(params)))
		before = first(fmt.Sprintf(" AND t.expires_at <= $%d", len(params)))
	}
	answers, err := runPipeline(ctx, conn, []command{{
		sql: fmt.Sprintf("SELECT clock_timestamp(), %s, %s", behind, before), types: types, params: params, formats: binaryParams, results: binaryParams,
	}})
	if err != nil {
		return nil, err
	}
	return answers[0].rows[0], nil
}

// noteEnds notes the collections that a batch brings the first end to, before it is
// applied: a process that is killed behind it leaves no rows that nobody looks for.
func (p *tablePlanner) noteEnds(ctx context.Context, conn *pgconn.PgConn, b *sinks.Batch) error {
	for i := range b.Records {
		for m := range mutationsOf(b.Records[i].Body) {
			if m.GetExpiresAt() == nil {
				continue
			}
			if err := p.noteEnd(ctx, conn, m.GetCollection()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *tablePlanner) noteEnd(ctx context.Context, conn *pgconn.PgConn, collection string) error {
	m := p.mapping(collection)
	if m == nil || m.flags.noted.Load() {
		return nil
	}
	_, err := runPipeline(ctx, conn, []command{noteExpiring(quote(p.o.Schema), []string{collection})})
	if err == nil {
		m.flags.noted.Store(true)
	}
	return err
}

// noteExpiring puts collections into table expiring.
func noteExpiring(schema string, collections []string) command {
	names := newArray(oidText, len(collections))
	for _, name := range collections {
		names.element([]byte(name))
	}
	return command{
		sql:   fmt.Sprintf("INSERT INTO %s.expiring (collection) SELECT unnest($1) ON CONFLICT DO NOTHING", schema),
		types: []uint32{oidTextArray}, params: [][]byte{names.bytes()}, formats: binaryParams,
	}
}

// mutationsOf are the mutations of a record: one, or a group's.
func mutationsOf(body *walproxyv1.Record) iter.Seq[*walproxyv1.Mutation] {
	return func(yield func(*walproxyv1.Mutation) bool) {
		if m := body.GetMutation(); m != nil {
			yield(m)
			return
		}
		for _, member := range body.GetGroup().GetMembers() {
			if m := member.GetMutation(); m != nil && !yield(m) {
				return
			}
		}
	}
}

// failed reports why nothing was removed; it is tried again.
func (w *sweeper) failed(collection string, err error) {
	if w.ctx.Err() != nil {
		return
	}
	w.sink.log.Debug("expired rows were not removed", zap.String("collection", collection), zap.Error(w.sink.classify(err, false)))
}
