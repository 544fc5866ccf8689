package pgwire

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// TestAlteredUnderWriters: columns, types and constraints change, in a session and past the
// endpoint, under sessions that write and are not asked to wait: each write that was
// acknowledged is there, or is a dead letter that says what PostgreSQL had against it; none
// that was refused is.
func TestAlteredUnderWriters(t *testing.T) {
	t.Parallel()
	alterations, until := 15, time.Now().Add(patience)
	if os.Getenv("WALPROXY_LONG") != "" {
		alterations, until = 1<<30, time.Now().Add(10*time.Minute)
	}
	r := newBehindRig(t, "CREATE TABLE items (id int PRIMARY KEY, name varchar(20) NOT NULL, n int)", items(), func(o *behindOptions) {
		o.change = append(o.change, func(o *Options) {
			// A change past the endpoint waits in PostgreSQL for a transaction that waits at the
			// gate for the sink, which waits behind the change.
			o.WriteBehind.LogTransactions, o.WriteBehind.GateTimeout, o.WriteBehind.ReadTimeout = true, 5*time.Second, 5*time.Second
		})
	})
	seed := seedOf(t)
	w := &alteredWriters{rig: r, acked: map[int]bool{}, refused: map[int]string{}}
	var writers sync.WaitGroup
	for i, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		conn := r.connect(mode)
		writers.Go(func() { w.write(t, conn, rand.New(rand.NewPCG(seed, uint64(i))), (i+1)<<24) })
	}
	stop := sync.OnceFunc(func() { w.stop.Store(true); writers.Wait() })
	defer stop()
	chance := rand.New(rand.NewPCG(seed, 99))
	through, past := r.connect(pgx.QueryExecModeSimpleProtocol), pgtest.Connect(t, r.direct)
	list := []string{"ALTER TABLE items ADD COLUMN extra text NOT NULL DEFAULT 'e'", "ALTER TABLE items DROP COLUMN IF EXISTS extra", "ALTER TABLE items ALTER COLUMN n TYPE bigint",
		"ALTER TABLE items ALTER COLUMN n TYPE int", "ALTER TABLE items ALTER COLUMN n TYPE text", "ALTER TABLE items ALTER COLUMN n TYPE int USING n::int", "ALTER TABLE items RENAME COLUMN n TO m",
		"ALTER TABLE items RENAME COLUMN m TO n", "ALTER TABLE items ALTER COLUMN name TYPE varchar(9) USING left(name, 9)", "ALTER TABLE items ALTER COLUMN name TYPE varchar(20)",
		"ALTER TABLE items ADD CONSTRAINT few CHECK (length(name) < 8) NOT VALID", "ALTER TABLE items DROP CONSTRAINT IF EXISTS few", "ALTER TABLE items ADD COLUMN more int",
		"ALTER TABLE items ALTER COLUMN more SET NOT NULL", "ALTER TABLE items DROP COLUMN IF EXISTS more"}
	for n := range alterations {
		if time.Now().After(until) || w.stop.Load() {
			break
		}
		sql := list[chance.IntN(len(list))]
		if n < len(list) { // each of them once
			sql = list[n]
		}
		conn := []*pgx.Conn{through, past}[chance.IntN(2)]
		_, err := conn.Exec(bounded(t), sql)
		if c := code(err); err != nil && !slices.Contains([]string{"42701", "42703", "42710", "42804", "23502", "22P02", "40P01", "55P03"}, c) {
			t.Errorf("%s: %v", sql, err)
		}
		from, end := w.done.Load(), time.Now().Add(patience)
		for w.done.Load() < from+20 && !w.stop.Load() && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
	}
	stop()
	w.compare(t)
	if t.Failed() {
		t.Logf("WALPROXY_SEED=%d", seed)
	}
}

// alteredWriters are those who write meanwhile.
type alteredWriters struct {
	rig  *behindRig
	stop atomic.Bool
	done atomic.Int64

	mu      sync.Mutex
	acked   map[int]bool
	refused map[int]string
}

// write writes rows with keys from first on, each once, singly and in groups of one transaction.
func (w *alteredWriters) write(t *testing.T, conn *pgx.Conn, r *rand.Rand, first int) {
	const insert = "INSERT INTO items (id, name, n) VALUES ($1, $2, $3)"
	for id := first; !w.stop.Load(); {
		ids := []int{id}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var err error
		if r.IntN(8) == 0 {
			ids = append(ids, id+1)
			err = together(ctx, conn, func(tx pgx.Tx) error {
				for _, id := range ids {
					if _, err := tx.Exec(ctx, insert, id, fmt.Sprint("name ", id%1000), id%7); err != nil {
						return err
					}
				}
				return nil
			})
		} else {
			_, err = conn.Exec(ctx, insert, id, fmt.Sprint("name ", id%1000), id%7)
		}
		cancel()
		id += len(ids)
		if c := code(err); conn.IsClosed() || c != "" && (c[:2] == "08" || c[:2] == "57" || c[:2] == "XX") {
			t.Errorf("a write of %d: %v", id, err)
			w.stop.Store(true)
		}
		w.mu.Lock()
		for _, id := range ids {
			if err == nil {
				w.acked[id] = true
			} else {
				w.refused[id] = err.Error()
			}
		}
		w.mu.Unlock()
		w.done.Add(1)
	}
}

// together is pgx.BeginFunc that does not hide why a ROLLBACK failed.
func together(ctx context.Context, conn *pgx.Conn, f func(pgx.Tx) error) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// compare the rows and the dead letters with what was told.
func (w *alteredWriters) compare(t *testing.T) {
	r := w.rig
	if err := r.proxy.WaitSink(bounded(t), "main", r.proxy.Newest("items")); err != nil {
		t.Fatal(err)
	}
	rows, err := r.admin.Query(bounded(t), "SELECT id::int FROM items")
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	dead, codes := map[int]bool{}, map[string]int{}
	for l := range w.letters(t) {
		codes[l.Details["sqlstate"]]++ // "": the sink refused it itself
		if l.Reason == "" {
			t.Errorf("dead letter %d does not say why: %v", l.LSN, l.Details)
		}
		for _, k := range l.Keys {
			_, key, err := mutation.ParseKey(k)
			if err != nil {
				t.Fatal(err)
			}
			id, err := strconv.Atoi(mutation.KeyText(key))
			if err != nil {
				t.Fatal(err)
			}
			dead[id] = true
		}
	}
	there := map[int]bool{}
	for _, id := range list {
		there[id] = true
		if why, told := w.refused[id]; told {
			t.Errorf("row %d is there, and was refused: %s", id, why)
		}
		if dead[id] {
			t.Errorf("row %d is there, and a dead letter", id)
		}
	}
	lost := 0
	for id := range w.acked {
		if !there[id] && !dead[id] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d acknowledged writes are neither rows nor dead letters", lost)
	}
	for id := range dead {
		if !w.acked[id] {
			t.Errorf("dead letter of %d, which was refused: %s", id, w.refused[id])
		}
	}
	t.Logf("%d acknowledged, %d refused, %d rows, dead letters by SQLSTATE: %v, written behind: %d", len(w.acked), len(w.refused), len(list), codes, r.logged())
}

// letters are all dead letters.
func (w *alteredWriters) letters(t *testing.T) iter.Seq[walproxy.DeadLetter] {
	return func(yield func(walproxy.DeadLetter) bool) {
		for from := wal.LSN(1); ; {
			list, err := w.rig.proxy.DeadLetters("main", from, 1000)
			if err != nil {
				t.Error(err)
			}
			for _, l := range list {
				if from = l.LSN + 1; !yield(l) {
					return
				}
			}
			if len(list) == 0 {
				return
			}
		}
	}
}
