package crashtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// change is one row of the journal that a unit is to leave.
type change struct {
	id, v   int64
	deletes bool
}

// unit is what a client wants done as a whole: a statement, several up to one Sync,
// or a transaction.
type unit struct {
	changes []change
	fate    fate
	how     string // for people
}

// write is a statement, and what it is to leave.
type write struct {
	sql    string
	args   []any
	change change
}

// behindClient writes to entry by way of the endpoint and remembers what it was told.
// Each value is sent once. The records of its own nobody else writes.
type behindClient struct {
	*behind
	number int64
	r      *rand.Rand
	conn   *pgx.Conn
	sent   int64
	keys   int64
	own    map[int64]int64 // what its records hold, as it was told; those in doubt it leaves alone
	seen   map[int64]bool  // those of own that this session wrote
	units  []*unit
	again  *keyed                 // of unknown outcome, under a key
	known  []*keyed               // the last ones that were acknowledged, oldest first
	at     atomic.Int32           // the mode in which it began what it does
	raced  bool                   // in this mode
	said   atomic.Pointer[string] // why the last unit that was not acknowledged was not
}

// keyed is a unit under an idempotency key.
type keyed struct {
	*unit
	write write
	key   string
}

// knownMax is how many writes under a key are repeated although they were acknowledged.
const knownMax = 8

// hotKeys are written by everybody.
const hotKeys = 3

func (c *behindClient) value() int64 {
	c.sent++
	return c.number<<32 | c.sent
}

const (
	insertEntry = "INSERT INTO entry (id, v) VALUES ($1, $2)"
	upsertEntry = insertEntry + " ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v"
	updateEntry = "UPDATE entry SET v = $2 WHERE id = $1"
	deleteEntry = "DELETE FROM entry WHERE id = $1"
)

// next makes a write to a record that taken does not have, and adds it there.
func (c *behindClient) next(taken map[int64]bool) write {
	v := c.value()
	var mine []int64
	for id := range c.own {
		if !taken[id] {
			mine = append(mine, id)
		}
	}
	slices.Sort(mine)
	hot := -1 - c.r.Int64N(hotKeys)
	var w write
	switch n := c.r.IntN(10); {
	case n < 3 && !taken[hot]:
		w = write{upsertEntry, []any{hot, v}, change{id: hot, v: v}}
	case n < 6 || len(mine) == 0:
		c.keys++
		id := c.number*1_000_000 + c.keys
		w = write{insertEntry, []any{id, v}, change{id: id, v: v}}
	default:
		id := mine[c.r.IntN(len(mine))]
		switch {
		case n == 6 && len(mine) > 3:
			w = write{deleteEntry, []any{id}, change{id: id, v: c.own[id], deletes: true}}
		case n == 7:
			w = write{upsertEntry, []any{id, v}, change{id: id, v: v}}
		default:
			w = write{updateEntry, []any{id, v}, change{id: id, v: v}}
		}
	}
	taken[w.change.id] = true
	return w
}

func (c *behindClient) some(n int) (list []write) {
	taken := map[int64]bool{}
	for range n {
		list = append(list, c.next(taken))
	}
	return list
}

// unit begins one; nothing of it was sent yet.
func (c *behindClient) unit(how string, writes ...write) *unit {
	u := &unit{how: how}
	for _, w := range writes {
		u.changes = append(u.changes, w.change)
	}
	c.units = append(c.units, u)
	return u
}

// told takes note of a unit's outcome.
func (c *behindClient) told(u *unit, err error) {
	u.fate = saidOf(err)
	if err != nil {
		u.how += ": " + err.Error()
		c.said.Store(&u.how)
	}
	for _, ch := range u.changes {
		switch {
		case ch.id < 0:
		case u.fate == unsure, u.fate == logged && ch.deletes:
			delete(c.own, ch.id)
		case u.fate == logged:
			c.own[ch.id], c.seen[ch.id] = ch.v, true
		}
	}
	switch u.fate {
	case logged:
		c.total.Add(1)
	case refused:
		time.Sleep(time.Millisecond) // not as fast as it is refused
	}
}

// saidOf: an ERROR says that nothing was done. What ends the session, or it without a
// word, leaves that open.
func saidOf(err error) fate {
	e, said := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return logged
	case said && e.SeverityUnlocalized == "ERROR":
		return refused
	}
	return unsure
}

// run writes until stop is closed. It goes on with a new session when its own ends.
func (c *behindClient) run(ctx context.Context, stop <-chan struct{}) error {
	defer c.hangUp()
	for {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		if c.conn == nil || c.conn.IsClosed() {
			if err := c.connect(ctx); err != nil {
				select {
				case <-stop:
				case <-time.After(5 * time.Millisecond): // not as fast as it is refused
				}
				continue
			}
		}
		if err := c.step(ctx); err != nil {
			return err
		}
	}
}

func (c *behindClient) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	config, err := pgx.ParseConfig(c.dsn())
	if err != nil {
		return err
	}
	config.DefaultQueryExecMode = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}[c.r.IntN(5)]
	c.hangUp()
	c.conn, err = pgx.ConnectConfig(ctx, config)
	clear(c.seen)
	return err
}

func (c *behindClient) hangUp() {
	if c.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // the server may be gone
	c.conn = nil
}

// keyedStep is a write under a key, of the kinds of step.
const keyedStep = 17

// step is one unit of some kind. An error is the test's.
func (c *behindClient) step(ctx context.Context) error {
	mode := c.mode.Load()
	c.at.Store(mode)
	c.raced = c.raced && mode == raceOnce
	n := c.r.IntN(20)
	switch {
	case c.again != nil:
		c.repeat(ctx)
		return nil
	case mode == raceOnce && !c.raced:
		c.raced = true
		c.race(ctx)
		return nil
	case mode == writeKeyed, mode == raceOnce, mode == halfKeyed && c.number%2 == 0:
		n = keyedStep
	}
	switch {
	case n < 7:
		w := c.some(1)[0]
		c.single(ctx, "one", w)
	case n < 10:
		c.group(ctx, c.some(1+c.r.IntN(4)), false)
	case n < 11:
		c.group(ctx, c.some(1+c.r.IntN(3)), true)
	case n < 13:
		c.pipeline(ctx, 2+c.r.IntN(6))
	case n < 15:
		c.transaction(ctx)
	case n < 16:
		w := c.some(1)[0]
		w.sql += " RETURNING id" // directly
		c.single(ctx, "returning", w)
	case n < 17:
		w := c.some(1)[0]
		w.sql, w.args = "INSERT INTO entry (id, v, note) VALUES ($1, $2, $3)", []any{w.change.id, w.change.v, strings.Repeat("x", 50)}
		u := c.unit("too long", w)
		_, err := c.conn.Exec(ctx, w.sql, w.args...)
		if c.told(u, err); u.fate == logged {
			return fmt.Errorf("client %d: a value that is too long was taken", c.number)
		}
	case n <= keyedStep:
		c.underKey(ctx, c.some(1)[0])
	default:
		return c.read(ctx)
	}
	return nil
}

func (c *behindClient) single(ctx context.Context, how string, w write) {
	u := c.unit(how, w)
	tag, err := c.conn.Exec(ctx, w.sql, w.args...)
	if c.told(u, err); err == nil && tag.RowsAffected() != 1 {
		c.Errorf("client %d: %s: %s of %v", c.number, how, tag, w)
	}
}

// underKey begins a write under a key; step repeats it until its outcome is known.
func (c *behindClient) underKey(ctx context.Context, w write) {
	c.again = &keyed{c.unit("under a key", w), w, fmt.Sprintf("k%d-%d", c.number, c.sent)}
	c.repeat(ctx)
}

// repeat sends a write under its key until its outcome is known.
func (c *behindClient) repeat(ctx context.Context) {
	k := c.again
	_, err := c.conn.Exec(ctx, "SET walproxy.idempotency_key = '"+k.key+"'")
	if err == nil {
		_, err = c.conn.Exec(ctx, k.write.sql, k.write.args...)
	} else if saidOf(err) == refused {
		return
	}
	first := k.fate == unsure && !strings.Contains(k.how, ":")
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "22023" {
		c.Errorf("client %d: the repeat of %+v is another write: %v", c.number, k.write, err)
		c.again = nil
		return
	}
	if saidOf(err) == refused && !first {
		return // of the first attempt that says nothing
	}
	if c.told(k.unit, err); k.fate != unsure {
		c.again = nil
	}
	if k.fate == logged {
		c.known = append(c.known, k)
		c.known = c.known[max(0, len(c.known)-knownMax):]
	}
}

// repeatKnown repeats what was acknowledged under a key: it is acknowledged again, and not
// done again, whatever was written behind it.
func (c *behindClient) repeatKnown(ctx context.Context) {
	for _, k := range c.known {
		if c.conn == nil || c.conn.IsClosed() {
			if err := c.connect(ctx); err != nil {
				c.Errorf("client %d: %v", c.number, err)
				return
			}
		}
		_, err := c.conn.Exec(ctx, "SET walproxy.idempotency_key = '"+k.key+"'")
		if err == nil {
			_, err = c.conn.Exec(ctx, k.write.sql, k.write.args...)
		}
		if err != nil {
			c.Errorf("client %d: the repeat of %+v, which was acknowledged under %s: %v", c.number, k.write, k.key, err)
			return
		}
	}
	c.known = nil
}

// race writes records of its own behind, often enough that what is pending of them waits
// for its turn, and then past the log, which waits for them.
func (c *behindClient) race(ctx context.Context) {
	const records = 4
	mine := c.some(records)
	for i := range mine {
		w := &mine[i]
		if w.change.deletes || w.change.id < 0 { // a record of its own that stays
			c.keys++
			w.change = change{id: c.number*1_000_000 + c.keys}
		}
	}
	upsert := func(w write) write {
		v := c.value()
		return write{upsertEntry, []any{w.change.id, v}, change{id: w.change.id, v: v}}
	}
	for range 2 {
		for _, w := range mine {
			for c.underKey(ctx, upsert(w)); c.again != nil; c.repeat(ctx) {
				if c.conn.IsClosed() {
					c.waits <- c.number
					return
				}
			}
		}
	}
	// Reads do not wait for the session's own writes: nothing but the gate does.
	_, err := c.conn.Exec(ctx, "SET walproxy.read = 'any'")
	c.waits <- c.number
	var direct []write
	for _, w := range mine {
		w = upsert(w)
		w.sql = updateEntry
		direct = append(direct, w)
	}
	if err == nil {
		c.directly(ctx, "race", direct)
	}
	c.hangUp()
}

// group sends writes up to one Sync: one unit. With a bad one among them it is refused.
func (c *behindClient) group(ctx context.Context, writes []write, bad bool) {
	u := c.unit("group", writes...)
	var b pgx.Batch
	for _, w := range writes {
		b.Queue(w.sql, w.args...)
	}
	if bad {
		b.Queue("INSERT INTO entry (id, v, note) VALUES ($1, $2, $3)", c.number*1_000_000, c.value(), strings.Repeat("x", 50))
	}
	err := c.conn.SendBatch(ctx, &b).Close()
	if c.told(u, err); bad && u.fate == logged {
		c.Errorf("client %d: a group with a bad value was taken", c.number)
	}
}

// pipeline sends n units before it reads an answer.
func (c *behindClient) pipeline(ctx context.Context, n int) {
	p := c.conn.PgConn().StartPipeline(ctx)
	writes, units := c.some(n), make([]*unit, n)
	for i, w := range writes {
		units[i] = c.unit("pipelined", w)
		var args [][]byte
		for _, a := range w.args {
			args = append(args, strconv.AppendInt(nil, a.(int64), 10))
		}
		p.SendQueryParams(w.sql, args, nil, nil, nil)
		p.SendPipelineSync()
	}
	broken := p.Flush()
	for _, u := range units {
		var failed error
		for synced := false; !synced && broken == nil; {
			result, err := p.GetResults()
			switch r := result.(type) {
			case *pgconn.ResultReader:
				_, err = r.Close()
			case *pgconn.PipelineSync:
				synced = true
			case nil:
				if err == nil {
					err = errors.New("the answer ends")
				}
			}
			if failed == nil {
				failed = err
			}
			if saidOf(err) == unsure {
				broken = err
			}
		}
		if broken != nil {
			failed = broken
		}
		c.told(u, failed)
	}
	_ = p.Close() // what went wrong was said
}

// transaction writes directly, at the gate.
func (c *behindClient) transaction(ctx context.Context) {
	c.directly(ctx, "transaction", c.some(1+c.r.IntN(3)))
}

func (c *behindClient) directly(ctx context.Context, how string, writes []write) {
	u := c.unit(how, writes...)
	_, err := c.conn.Exec(ctx, "BEGIN")
	for _, w := range writes {
		if err == nil {
			_, err = c.conn.Exec(ctx, w.sql, w.args...)
		}
	}
	if err != nil { // nothing was to be committed
		u.how += ": " + err.Error()
		for _, w := range writes {
			if w.change.deletes && saidOf(err) == unsure {
				delete(c.own, w.change.id)
			}
		}
		u.fate = refused
		time.Sleep(time.Millisecond) // not as fast as it is refused
		if !c.conn.IsClosed() {
			_, _ = c.conn.Exec(ctx, "ROLLBACK") // or the session is gone
		}
		return
	}
	tag, err := c.conn.Exec(ctx, "COMMIT")
	if err == nil && tag.String() != "COMMIT" {
		err = &pgconn.PgError{SeverityUnlocalized: "ERROR", Message: tag.String()}
	}
	c.told(u, err)
}

// read looks at a record that this session wrote last: it sees that.
func (c *behindClient) read(ctx context.Context) error {
	for id := range c.seen {
		want, ok := c.own[id]
		if !ok {
			continue
		}
		var v int64
		err := c.conn.QueryRow(ctx, "SELECT v FROM entry WHERE id = $1", id).Scan(&v)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && v != want {
			return fmt.Errorf("client %d reads %d of record %d, it wrote %d: %w", c.number, v, id, want, errors.Join(err))
		}
		return nil
	}
	return nil
}
