package crashtest_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// front is the load on a server in front of Aerospike: of clients of its endpoint,
// whose writes are logged and forwarded, and which write and delete a record each; of
// one that imports commands; and of clients of the API.
type front struct {
	*aerospike
	store     *aeroStore
	registers []*register
	commands  *commands
	rounds    int
}

// register is a record that one client writes and deletes.
type register struct {
	key   *as.Key
	turn  int
	could []int // that it may hold; 0: it is absent
}

// commands are list appends that are logged as raw messages.
type commands struct {
	stream string
	acked  int
}

const commandsEach = 300 // of one record

func newFront(t *testing.T, store *aeroStore) *front {
	t.Helper()
	store.killable()
	// Its clients stay as they are when it is killed.
	s := onAerospike(t, store, "WALPROXY_AEROWIRE__LISTEN="+keptAddr(t))
	s.writers, s.batch, s.pad = 4, 2, 20
	f := &front{aerospike: onEndpoint(s, "crash-"+uuid.NewString()[:8], 8, frontWrite), store: store, commands: &commands{stream: uuid.NewString()}}
	f.comesBack, f.loses, f.also = true, store.loses(), f.turnOver
	for i := range f.mine {
		f.registers = append(f.registers, &register{key: f.key(fmt.Sprint("register", i)), could: []int{0}})
	}
	return f
}

// asks is whether the store is asked to write a number, which is logged otherwise.
func asks(n int) bool { return n%5 == 0 }

// frontWrite appends a number to a text and puts it into a list; the store has to
// append it to another.
func frontWrite(n int) ([]*as.Operation, bool) {
	ops := []*as.Operation{as.AppendOp(as.NewBin("text", fmt.Sprint(n, " "))), as.AddOp(as.NewBin("count", 1)), as.ListSetOp("slots", n%10, n)}
	if asks(n) {
		ops = append(ops, as.ListAppendOp("asked", n), as.GetBinOp("count"))
	}
	return ops, asks(n)
}

// turnOver writes or deletes the client's register.
func (f *front) turnOver(c *as.Client, client, n int) {
	if n%4 != 0 {
		return
	}
	r := f.registers[client]
	r.turn++
	v, before := r.turn, r.could
	var err as.Error
	if r.turn%2 == 1 {
		err = c.Put(nil, r.key, as.BinMap{"n": v})
	} else {
		var existed bool
		v = 0
		existed, err = c.Delete(nil, r.key)
		if err == nil && len(before) == 1 && existed != (before[0] != 0) {
			f.Errorf("register %d: deleted, and existed before: %v; it was %d", client, existed, before[0])
		}
	}
	switch fateOf(err, false) {
	case logged:
		r.could = []int{v}
	case unsure:
		r.could = append(slices.Clone(before), v)
	}
}

// importing sends commands until stop is called, each until it is answered.
func (f *front) importing(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := f.imported(ctx, f.commands.acked+1); err == nil {
				f.commands.acked++
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// commandKey is the record of the n-th command.
func (f *front) commandKey(n int) *as.Key { return f.key(fmt.Sprint("commands", n/commandsEach)) }

// imported sends the command of a number as a line of another log's export. Sent again,
// it is a repeat.
func (f *front) imported(ctx context.Context, n int) error {
	key := f.commandKey(n)
	message := &codec.Message{
		Header: codec.Header{Info2: codec.Info2Write},
		Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte("test")}, {Type: codec.FieldSet, Data: []byte(f.set)},
			{Type: codec.FieldDigest, Data: key.Digest()}},
		Ops: []codec.Op{
			{Type: codec.OpCDTModify, Particle: value.ParticleBlob, Name: []byte("list"), // list_append
				Value: value.Append(binary.BigEndian.AppendUint16(nil, 1), value.OfList([]value.Value{value.OfInt(int64(n))}, 0))},
			{Type: codec.OpIncrement, Particle: value.ParticleInteger, Name: []byte("count"), Value: binary.BigEndian.AppendUint64(nil, 1)},
		},
	}
	record, err := mutation.Encode(nil, &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Command{Command: &walproxyv1.Command{
		Message: codec.AppendMessage(nil, message), Collection: "test." + f.set, Key: mutation.Bytes(key.Digest())}}})
	if err != nil {
		return err
	}
	line, err := json.Marshal(map[string]any{"lsn": n, "stream": f.commands.stream, "sink": "main", "record": record})
	if err != nil {
		return err
	}
	return f.client.Import(ctx, "main", line)
}

// under runs during under the load, and compares when that has stopped. during leaves
// everything running.
func (f *front) under(ctx context.Context, during func()) {
	f.Helper()
	c := f.connect()
	defer c.Close()
	stops := []func(){f.load(c), f.importing(ctx)}
	stop := f.server.load(ctx)
	during()
	for _, stop := range append(stops, func() { stop() }) {
		stop()
	}
	f.check(ctx, c)
	f.server.check(ctx)
	if f.rounds++; f.rounds%10 == 0 {
		f.report()
	}
}

// check compares all that the clients of the endpoint and the commands wrote.
func (f *front) check(ctx context.Context, c *as.Client) {
	f.Helper()
	must(f.T, f.client.WaitDrained(ctx))
	f.aerospike.check(ctx, c)
	for i, r := range f.registers {
		v := 0
		if rec := f.get(ctx, c, r.key); rec != nil {
			v = rec.Bins["n"].(int)
		}
		if !slices.Contains(r.could, v) {
			f.Fatalf("register %d is %d, it could be one of %v", i, v, r.could)
		}
		r.could = []int{v}
	}
	from := max(0, f.commands.acked-2*commandsEach) / commandsEach * commandsEach // those before were compared
	for first := from; first <= f.commands.acked+1; first += commandsEach {
		f.checkCommands(first, f.get(ctx, c, f.commandKey(first)))
	}
}

// checkCommands compares the record of those from first on: the one that was sent last
// may be there or not.
func (f *front) checkCommands(first int, rec *as.Record) {
	f.Helper()
	last := min(f.commands.acked, first+commandsEach-1)
	want := max(0, last-max(first, 1)+1)
	var list []any
	count := 0
	if rec != nil {
		list, count = rec.Bins["list"].([]any), rec.Bins["count"].(int)
	}
	if more := len(list) - want; count != len(list) || more != 0 && (more != 1 || last < f.commands.acked) {
		f.Fatalf("commands from %d: %d in the list, counted %d; %d are acknowledged", first, len(list), count, want)
	}
	for i, n := range list {
		if n != max(first, 1)+i {
			f.Fatalf("commands from %d: %v stands at %d", first, n, i)
		}
	}
}

// TestKillAerospikeFront kills walproxy, the node, and both, under clients whose
// writes are logged and forwarded, and compares after each. The node loses what it had
// acknowledged last.
func TestKillAerospikeFront(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 2*time.Hour)
	store, r := newAeroStore(ctx, t, 1), rng(t)
	store.forgets = store.node != nil
	f := newFront(t, store)
	f.start(ctx)
	for round := range times(3, 90) {
		f.under(ctx, func() {
			f.more(ctx, 1+r.IntN(200))
			node := r.IntN(len(store.addrs))
			if round%3 != 2 {
				store.kill(ctx, node)
				f.more(ctx, 50) // acks go on
			}
			if round%3 == 1 {
				store.start(ctx, node)
				f.more(ctx, 1+r.IntN(100))
			}
			f.process.Kill()
			if round%3 == 0 {
				store.start(ctx, node)
			}
			f.start(ctx)
			f.more(ctx, 1+r.IntN(50))
		})
		if round%5 == 4 {
			f.renewed()
		}
	}
	f.report()
	f.server.stop()
}

// renewed has all clients write to other records.
func (f *front) renewed() {
	f.renew()
	f.keys = fmt.Sprint("r", f.runs, ".")
}

// report says what was done.
func (f *front) report() {
	f.Helper()
	f.Logf("%d rounds: %d writes over the endpoint, %d of which the store had acknowledged and lost; %d commands; %d writes over the API",
		f.rounds, f.total.Load(), f.lost, f.commands.acked, f.ledger.Acked())
}

// TestAerospikeClusterKills kills nodes of a cluster, and walproxy, under clients whose
// writes are logged and forwarded: partitions go to other nodes and back, and every
// write is there once, in order.
func TestAerospikeClusterKills(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 2*time.Hour)
	store, r := newAeroStore(ctx, t, 3), rng(t)
	f := newFront(t, store)
	f.start(ctx)
	for round := range times(3, 60) {
		f.under(ctx, func() {
			f.more(ctx, 1+r.IntN(200))
			node := r.IntN(len(store.addrs))
			store.kill(ctx, node)
			f.more(ctx, 100)
			if round%2 == 1 {
				f.process.Kill()
				f.start(ctx)
			}
			f.more(ctx, 50)
			store.start(ctx, node)
			f.more(ctx, 100)
		})
		if long() || round == 2 {
			f.scan(ctx)
		}
		if round%5 == 4 {
			f.renewed()
		}
	}
	f.report()
	f.server.stop()
}

// scan compares what a scan shows with the records that are there one by one.
func (f *front) scan(ctx context.Context) {
	f.Helper()
	c := f.connect()
	defer c.Close()
	var keys []*as.Key
	for _, n := range append(slices.Clone(f.old), f.mine...) {
		keys = append(keys, n.key)
	}
	for _, r := range f.registers {
		keys = append(keys, r.key)
	}
	for first := 0; first <= f.commands.acked+1; first += commandsEach {
		keys = append(keys, f.commandKey(first))
	}
	there := map[string]bool{}
	for _, key := range keys {
		if f.get(ctx, c, key) != nil {
			there[string(key.Digest())] = true
		}
	}
	// While a machine is slow a scan is told that partitions are not there.
	policy := as.NewScanPolicy()
	policy.MaxRetries, policy.SleepBetweenRetries, policy.SleepMultiplier = 1000, 50*time.Millisecond, 1
	results, err := c.ScanAll(policy, "test", f.set)
	if err != nil {
		f.Fatal(err)
	}
	for result := range results.Results() {
		if result.Err != nil {
			f.Fatal(result.Err)
		}
		if digest := string(result.Record.Key.Digest()); !there[digest] {
			f.Errorf("a scan shows %v, generation %d, which is not there, or twice", result.Record.Bins, result.Record.Generation)
		} else {
			delete(there, digest)
		}
	}
	for _, key := range keys {
		if there[string(key.Digest())] {
			f.Errorf("a scan does not show record %v", key.Value())
		}
	}
}
