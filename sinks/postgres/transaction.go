package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/sinks"
)

// begin is explicit about what role or database may set otherwise. It is not
// about READ WRITE: a server that was made read-only is left alone.
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED"

var (
	// errNotMoved ends a transaction whose checkpoints are elsewhere.
	errNotMoved = errors.New("the checkpoints are not where the batch starts")
	// errRolledBack: COMMIT answered with ROLLBACK.
	errRolledBack = errors.New("the server rolled back instead of committing")
	// errNotOwner: the connection with the stream's lock was lost.
	errNotOwner = errors.New("the stream's lock is not held; applying waits until it is taken again")
)

// staleLimit is how often one Apply reads the catalogue again.
const staleLimit = 3

// transaction is the link of one apply transaction.
type transaction struct {
	conn   *pgconn.PgConn
	lead   []command // before the first data: begin and the checkpoints
	begun  bool
	stream *stream // a round trip under way; nil: none
	before int     // commands in it that no planner has sent
	sent   bool    // a COMMIT was sent
	done   bool    // and answered
}

// open begins a round trip, unless one is under way.
func (t *transaction) open(ctx context.Context) {
	if t.stream != nil {
		return
	}
	t.stream, t.before = openStream(ctx, t.conn), 0
	if !t.begun {
		t.begun, t.before = true, len(t.lead)
		t.stream.queue(t.lead)
	}
}

// own implements link.
func (t *transaction) own() session {
	own, _ := t.conn.CustomData()[sessionKey].(session)
	return own
}

// send implements link.
func (t *transaction) send(ctx context.Context, commands []command) error {
	t.open(ctx)
	t.stream.queue(commands)
	return t.stream.flush()
}

// run implements link.
func (t *transaction) run(ctx context.Context, commands []command, commit bool) ([]answer, error) {
	t.open(ctx)
	own := t.stream.commands
	t.stream.queue(commands)
	if commit {
		failpoint.Hit("sink-before-commit")
		t.stream.queue([]command{{sql: "COMMIT"}})
		t.sent = true
	}
	answers, err := t.end()
	if at, ok := errors.AsType[*commandError](err); ok {
		at.index -= t.before
		if at.index < 0 && codeOf(err) == codeMoved {
			return nil, errNotMoved
		}
	}
	if err != nil {
		return nil, err
	}
	if commit {
		if tag := answers[len(answers)-1].tag.String(); tag != "COMMIT" {
			return nil, fmt.Errorf("%w: %s", errRolledBack, tag)
		}
		if err := replicated(t.conn); err != nil {
			return nil, err
		}
		t.done = true
		failpoint.Hit("sink-after-commit")
	}
	return answers[own : own+len(commands)], nil
}

// end ends the round trip that is under way, if there is one.
func (t *transaction) end() ([]answer, error) {
	if t.stream == nil {
		return nil, nil
	}
	s := t.stream
	t.stream = nil
	return s.end()
}

// Apply implements sinks.Sink.
func (s *Sink) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	conn, err := s.acquire(ctx, s.applyPool)
	if err != nil {
		return nil, s.closedOr(s.classify(err, false))
	}
	defer s.release(conn)
	began := time.Now()
	results, err := s.applyOn(ctx, conn, b)
	if err == nil && results == nil {
		s.metrics.applied(b, time.Since(began))
		s.sweep.applied(b)
		return sinks.Results(len(b.Records), sinks.Applied, nil), nil
	}
	if err == nil {
		s.metrics.rejected(results)
	}
	return results, s.closedOr(err)
}

// closedOr tells a call that Close cut off from one that failed by itself.
func (s *Sink) closedOr(err error) error {
	if err != nil && s.calls.IsCut() {
		return sinks.WithOutcome(sinks.OutcomeOf(err), errors.Join(sinks.ErrClosed, err))
	}
	return err
}

// applyOn returns nil, nil if all of b is applied.
func (s *Sink) applyOn(ctx context.Context, conn *pgxpool.Conn, b *sinks.Batch) ([]sinks.Result, error) {
	if !s.owner.holds() {
		return s.look(ctx, conn, b, errNotOwner)
	}
	pc := conn.Conn().PgConn()
	for try := 1; ; try++ {
		if len(b.Records) > 0 {
			if err := s.planner.prepare(ctx, pc, b); err != nil {
				return nil, s.classify(err, false)
			}
		}
		results, sent, err := s.attempt(ctx, conn, b)
		switch {
		case err == nil:
			return results, nil
		case errors.Is(err, errNotMoved):
			return s.look(ctx, conn, b, err)
		case errors.Is(err, errExists): // again, as upserts: it is not hoped for twice
		case errors.Is(err, errStale) && try <= staleLimit:
			if err := s.planner.refresh(ctx, pc, false); err != nil {
				return nil, s.classify(err, false)
			}
		case errors.Is(err, errStale) && codeOf(err) != "" && codeOf(err) != codeChanged:
			return nil, s.classify(err, sent) // it is not the catalogue
		case errors.Is(err, errStale):
			return nil, s.classify(sinks.WithOutcome(sinks.Retry, fmt.Errorf("sink postgres: %d times in a row: %w", try, err)), false)
		default:
			return nil, s.classify(err, sent)
		}
	}
}

// attempt is one transaction. It leaves none open on a connection that is used
// again.
func (s *Sink) attempt(ctx context.Context, conn *pgxpool.Conn, b *sinks.Batch) (results []sinks.Result, sent bool, err error) {
	t := &transaction{conn: conn.Conn().PgConn(), lead: s.lead(b)}
	defer rollback(conn.Conn())
	defer func() { _, _ = t.end() }() // of a planner that has given up; rollback sees what came of it
	if len(b.Records) == 0 {
		_, err = t.run(ctx, nil, true)
		return nil, t.sent, err
	}
	results, err = s.planner.stage(ctx, t, b)
	if err == nil && results == nil && !t.done {
		return nil, t.sent, sinks.WithOutcome(sinks.Halt, errors.New("sink postgres: a batch was planned without its commit"))
	}
	return results, t.sent, err
}

// lead is what stands before the data of b.
func (s *Sink) lead(b *sinks.Batch) []command {
	begin := command{sql: begin}
	var lane, incarnation, lsn, fromIncarnation, fromLSN []string
	for _, m := range b.Moves {
		lane = append(lane, strconv.Itoa(m.Lane))
		incarnation = append(incarnation, m.To.Incarnation.String())
		lsn = append(lsn, strconv.FormatUint(uint64(m.To.LSN), 10))
		fromIncarnation = append(fromIncarnation, m.From.Incarnation.String())
		fromLSN = append(fromLSN, strconv.FormatUint(uint64(m.From.LSN), 10))
	}
	count, epoch := strconv.Itoa(len(b.Moves)), strconv.FormatUint(b.Epoch, 10)
	if b.Relane {
		return []command{
			begin,
			{
				sql: fmt.Sprintf(`WITH moved AS (UPDATE %[1]s.store SET lanes = $1::int4 WHERE epoch = $2::int8 RETURNING 1)
					SELECT %[1]s.moved((SELECT count(*) FROM moved), 1)`, s.schema),
				params: texts(count, epoch),
			},
			{sql: fmt.Sprintf("DELETE FROM %s.lane", s.schema)},
			{
				sql: fmt.Sprintf(`INSERT INTO %s.lane (lane, incarnation, lsn, epoch)
					SELECT m.lane, m.incarnation, m.lsn, $4::int8 FROM unnest($1::int4[], $2::uuid[], $3::int8[]) AS m (lane, incarnation, lsn)`, s.schema),
				params: texts(array(lane), array(incarnation), array(lsn), epoch),
			},
		}
	}
	return []command{begin, {
		sql: fmt.Sprintf(`WITH moved AS (UPDATE %[1]s.lane l SET incarnation = m.incarnation, lsn = m.lsn
			FROM unnest($1::int4[], $2::uuid[], $3::int8[], $4::uuid[], $5::int8[]) AS m (lane, incarnation, lsn, from_incarnation, from_lsn)
			WHERE l.lane = m.lane AND l.epoch = $6::int8 AND l.lsn = m.from_lsn AND l.incarnation = m.from_incarnation RETURNING 1)
			SELECT %[1]s.moved((SELECT count(*) FROM moved), $7::int8)`, s.schema),
		params: texts(array(lane), array(incarnation), array(lsn), array(fromIncarnation), array(fromLSN), epoch, count),
	}}
}

func texts(values ...string) [][]byte {
	params := make([][]byte, len(values))
	for i, v := range values {
		params[i] = []byte(v)
	}
	return params
}

// array of values that need no quotes.
func array(values []string) string { return "{" + strings.Join(values, ",") + "}" }

// look finds out what a batch whose checkpoints did not move is: applied before
// (nil, nil), fenced, or to be tried again because of why.
func (s *Sink) look(ctx context.Context, conn *pgxpool.Conn, b *sinks.Batch, why error) ([]sinks.Result, error) {
	stored, err := s.checkpoint(ctx, conn.Conn())
	if err != nil {
		return nil, s.classify(err, false)
	}
	_, done, err := stored.Begin(b)
	switch {
	case err == nil && done && !b.Relane:
		return nil, s.classify(s.confirm(ctx, conn, b), true)
	case err == nil:
		return nil, s.classify(sinks.WithOutcome(sinks.Retry, fmt.Errorf("sink postgres: %w", why)), false)
	case stored.wentBack(b):
		return nil, fmt.Errorf("%w: the store went back behind what was applied (a failover that lost commits, or a restored backup): restart to apply again from where it is", err)
	}
	return nil, err
}
