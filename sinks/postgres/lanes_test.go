package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// shop is a schema as people have them.
var shop = []string{
	`CREATE TABLE customers (id text PRIMARY KEY, email text UNIQUE, name text DEFAULT 'nobody', credit int NOT NULL DEFAULT 0 CHECK (credit >= 0))`,
	`CREATE TABLE orders (id bigint PRIMARY KEY, customer text REFERENCES customers ON DELETE RESTRICT, total numeric(8,2) CHECK (total < 500),
		tax numeric GENERATED ALWAYS AS (total * 0.1) STORED, note varchar(6))`,
	`CREATE TABLE items (order_id bigint REFERENCES orders ON DELETE CASCADE, line int, sku text NOT NULL, qty int NOT NULL CHECK (qty > 0),
		PRIMARY KEY (order_id, line))`,
	`CREATE TABLE tree (id text PRIMARY KEY, parent text REFERENCES tree, n int)`,
	`CREATE TABLE log (at bigint, what text, id text)`,
	`CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO log SELECT count(*), TG_TABLE_NAME || ' ' || TG_OP, coalesce(NEW.id, OLD.id)::text FROM log; RETURN NULL; END $$`,
	`CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION audit()`,
	`CREATE TABLE stock (sku text PRIMARY KEY, n int CHECK (n > -9), place text)`,
	`CREATE TABLE parts (id text, n int, t text, PRIMARY KEY (id)) PARTITION BY HASH (id)`,
	`CREATE TABLE parts0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0)`,
	`CREATE TABLE parts1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1)`,
	`CREATE TABLE booking (id text PRIMARY KEY, span int4range, EXCLUDE USING gist (span WITH &&))`,
}

var shopTables = []string{"customers", "orders", "items", "tree", "log", "stock", "parts", "booking", "notes"}

// shopMutation draws a write to one of them, or to a document table.
func shopMutation(rt *rapid.T) *walproxyv1.Mutation {
	letter := func() string { return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "letter") }
	n := func() int64 { return rapid.Int64Range(-1, 5).Draw(rt, "n") }
	number := func() *walproxyv1.Key { return mutation.Int64(rapid.Int64Range(1, 3).Draw(rt, "id")) }
	someone := func() any {
		return rapid.SampledFrom([]any{"a", "b", "c", nil}).Draw(rt, "reference")
	}
	var collection string
	var key *walproxyv1.Key
	var all, some, plus fields
	switch collection = rapid.SampledFrom([]string{"customers", "orders", "items", "tree", "stock", "parts", "booking", "notes"}).Draw(rt, "collection"); collection {
	case "customers":
		key, all, some, plus = mutation.String(letter()), fields{"email": someone(), "credit": n()}, fields{"email": someone()}, fields{"credit": n()}
	case "orders":
		key, all = number(), fields{"customer": someone(), "total": mutation.Decimal(fmt.Sprintf("%d.005", n()*120))}
		some, plus = fields{"note": "much " + letter() + letter()[:n()&1]}, fields{"total": mutation.Decimal("120.005")}
	case "items":
		key, all = mutation.Composite(number(), number()), fields{"sku": letter(), "qty": n()}
		some, plus = fields{"sku": someone()}, fields{"qty": n()}
	case "tree":
		key, all, some, plus = mutation.String(letter()), fields{"parent": someone()}, fields{"parent": someone(), "n": n()}, fields{"n": n()}
	case "stock":
		key, all, some, plus = mutation.String(letter()), fields{"n": n(), "place": letter()}, fields{"place": letter()}, fields{"n": -n()}
	case "parts":
		key, all, some, plus = mutation.String(letter()), fields{"n": n(), "t": letter()}, fields{"t": letter()}, fields{"n": n()}
	case "booking":
		from := n()
		key, all, some, plus = mutation.String(letter()), fields{"span": fmt.Sprintf("[%d,%d)", from, from+2)}, fields{"span": "empty"}, fields{"span": int64(1)}
	default:
		key, all, some, plus = mutation.String(letter()), fields{"n": n(), "t": letter()}, fields{"u": letter()}, fields{"n": n()}
	}
	switch rapid.SampledFrom([]string{"set", "set", "set", "merge", "merge", "increment", "delete", "touch", "absent"}).Draw(rt, "kind") {
	case "set":
		return set(collection, key, all)
	case "merge":
		return merge(collection, key, some)
	case "increment":
		return increment(collection, key, plus)
	case "delete":
		return mutation.Delete(collection, key)
	case "touch":
		return mutation.Touch(collection, key)
	}
	return set(collection, key, all, mutation.IfAbsent())
}

// TestLanesAreInvisible: on tables that judge each other's rows, several lanes
// that apply batches at once, with faults, end in the same state and with the
// same dead letters as one lane that applies record by record.
func TestLanesAreInvisible(t *testing.T) {
	dsn := suiteDatabase(t)
	rapid.Check(t, func(rt *rapid.T) {
		lanes := rapid.IntRange(2, 4).Draw(rt, "lanes")
		o := Options{AutoCreate: true}
		if rapid.Bool().Draw(rt, "with a version column") {
			o.Collections = []Collection{{Pattern: "stock", VersionColumn: "version"}}
		}
		ddl := append([]string{}, shop...)
		if len(o.Collections) > 0 {
			ddl = append(ddl, "ALTER TABLE stock ADD version bigint NOT NULL")
		}
		one, many := newTarget(rt, dsn, o, 1, ddl...), newTarget(rt, dsn, o, lanes, ddl...)
		defer one.end()
		defer many.end()
		many.fault = faults(many, rapid.Uint64().Draw(rt, "faults"))
		var records []sinks.Record
		clock := time.Unix(1_600_000_000, 0).UTC()
		for i := range rapid.IntRange(10, 60).Draw(rt, "records") {
			records = append(records, sinks.Record{
				LSN: sinks.LSN(i + 1), Accepted: clock.Add(time.Duration(i) * time.Second), Bytes: 1,
				Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: shopMutation(rt)}},
			})
		}
		perLane := make([][]sinks.Record, lanes)
		for i := range records {
			m := records[i].Body.GetMutation()
			hash := mutation.Hash(m.GetCollection(), m.GetKey())
			if group := many.sink.LaneGroup(m.GetCollection()); group != "" {
				hash = mutation.Hash(group, mutation.String("group"))
			}
			perLane[hash%uint64(lanes)] = append(perLane[hash%uint64(lanes)], records[i])
		}
		sizes := rapid.SliceOfN(rapid.IntRange(1, 20), lanes, lanes).Draw(rt, "sizes")
		var wg sync.WaitGroup
		errs := make(chan error, lanes+1)
		for lane, mine := range perLane {
			wg.Go(func() {
				for len(mine) > 0 {
					n := min(sizes[lane], len(mine))
					if err := many.apply(lane, mine[:n]); err != nil {
						errs <- fmt.Errorf("lane %d: %w", lane, err)
						return
					}
					mine = mine[n:]
				}
			})
		}
		for i := range records {
			if err := one.apply(0, records[i:i+1]); err != nil {
				rt.Fatal(err)
			}
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			rt.Fatal(err)
		}
		for _, target := range []*target{one, many} { // nobody may have written notes
			if err := target.store.admin("CREATE TABLE IF NOT EXISTS " + target.store.name + ".notes (doc jsonb)"); err != nil {
				rt.Fatal(err)
			}
		}
		sameState(rt, one, many, shopTables...)
	})
}

// faults cuts off one call in five, at any moment, and ends the backends of one
// in twenty.
func faults(t *target, seed uint64) func(context.Context, context.CancelFunc) context.Context {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	return func(ctx context.Context, cancel context.CancelFunc) context.Context {
		mu.Lock()
		defer mu.Unlock()
		switch random.IntN(20) {
		case 0, 1, 2:
			time.AfterFunc(time.Duration(random.IntN(4000))*time.Microsecond, cancel)
		case 3:
			t.faults.Go(func() {
				// Its error is a backend's that is gone already, its own included.
				_ = t.store.admin(fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "+
					"WHERE query LIKE '%%%s%%' AND pid <> pg_backend_pid()", t.store.options.Schema))
			})
		}
		return ctx
	}
}
