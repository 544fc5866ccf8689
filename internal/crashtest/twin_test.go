package crashtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// twins are a database behind walproxy, both of which are killed, and one that is not,
// to which the same is said.
type twins struct {
	*server
	cluster  *pgtest.Cluster
	store    string // DSN of the database behind walproxy
	twin     string // DSN of the other
	chance   *rand.Rand
	sessions []*twinSession
	killed   time.Time     // walproxy, last
	kills    int           // of either
	stopping bool          // walproxy is being killed
	stopped  chan struct{} // closed when PostgreSQL, which is stopped, goes on; nil: it is not
	letters  int           // dead letters that are due
	doubtful int           // ... that may be
	counts   map[string]int
	past     []string // of the round
}

// twinSession is one session in each.
type twinSession struct {
	*twins
	*twinAuthor
	through, other *wire
	all            bool // it reads what everybody wrote
	caughtUp       bool // a read on this connection saw what the last one wrote
	kills          int  // when it logged in
	tx, otherTx    byte
	keyed          []keyedQuery // of this round, that were acknowledged
}

// keyedQuery is a write under an idempotency key, and what it was told.
type keyedQuery struct {
	key, query query
	told       reply
}

func newTwins(t *testing.T, r *rand.Rand, sessions int) *twins {
	w := &twins{cluster: pgtest.New(t, pgtest.Options{}), chance: r, counts: map[string]int{}}
	w.store, w.twin = w.cluster.Database(t), pgtest.Shared(t).Database(t)
	for _, dsn := range []string{w.store, w.twin} {
		conn := pgtest.Connect(t, dsn)
		_, err := conn.Exec(t.Context(), twinDDL)
		must(t, err, conn.Close(t.Context()))
	}
	w.server = onPostgres(t, w.store,
		"WALPROXY_SINKS__MAIN__COLLECTIONS={items: {table: public.items, key: [id], key_type: int64, on_reject: skip}, parts: {table: public.parts, key: [item, part], key_type: composite}}",
		"WALPROXY_PGWIRE__LISTEN=127.0.0.1:0", "WALPROXY_PGWIRE__UPSTREAM=postgres://"+w.cluster.Addr(),
		"WALPROXY_PGWIRE__AWAY={check_interval: 50ms, keep_logins: true}", "WALPROXY_PGWIRE__SINK=main",
		"WALPROXY_PGWIRE__GATE_TIMEOUT=20s", "WALPROXY_PGWIRE__READ_TIMEOUT=20s", // longer than the sink's longest wait between two attempts
		"WALPROXY_PGWIRE__WRITE_BEHIND={public.items: {safe: true, assume_rows: true}, public.parts: {safe: true}}")
	if long() {
		w.env = append(w.env, hastyEnv...)
	}
	for n := range sessions {
		w.sessions = append(w.sessions, &twinSession{twins: w, all: n%2 == 0, tx: 'I', otherTx: 'I',
			twinAuthor: &twinAuthor{r: rand.New(rand.NewPCG(r.Uint64(), 0)), number: n + 1}})
	}
	return w
}

// begin starts walproxy.
func (w *twins) begin(ctx context.Context, env ...string) {
	w.Helper()
	how := []string{"WALPROXY_PGWIRE__TRANSACTIONS=" + []string{"log", "log", "pass"}[w.chance.IntN(3)]}
	if w.chance.IntN(3) == 0 {
		how = append(how, "WALPROXY_PGWIRE__POOL={mode: transaction, size: 2, reserve: 1, reserve_timeout: 10ms}")
	}
	if len(env) == 0 || w.tryStart(ctx, append(env, how...)...) != nil { // it may kill itself before it is ready
		w.start(ctx, how...)
	}
}

// over takes note that walproxy has ended: all sessions have.
func (w *twins) over() {
	w.killed = time.Now()
	w.kills++
	w.stopping = false
	for _, s := range w.sessions {
		s.drop()
	}
}

// bothUp starts what does not run.
func (w *twins) bothUp(ctx context.Context) {
	w.Helper()
	w.awaken()
	if !w.cluster.Running() {
		w.cluster.Start(w.T)
	}
	w.restart(ctx)
}

// states of both databases, once everything is applied and no backend of an earlier
// walproxy is left, which could still do something.
func (w *twins) states(ctx context.Context) (through, other string) {
	w.Helper()
	w.bothUp(ctx)
	conn := pgtest.Connect(w.T, w.store)
	defer func() { _ = conn.Close(ctx) }()
	for left := 1; left > 0; time.Sleep(time.Millisecond) {
		must(w.T, conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND backend_start < $1 AND pid <> pg_backend_pid()", w.killed).Scan(&left))
	}
	w.drained(ctx)
	must(w.T, conn.QueryRow(ctx, twinState).Scan(&through))
	twin := pgtest.Connect(w.T, w.twin)
	defer func() { _ = twin.Close(ctx) }()
	must(w.T, twin.QueryRow(ctx, twinState).Scan(&other))
	return through, other
}

// drained waits until everything is applied, also if walproxy kills itself at it.
func (w *twins) drained(ctx context.Context) {
	w.Helper()
	for err := w.client.WaitDrained(ctx); err != nil; err = w.client.WaitDrained(ctx) {
		if ctx.Err() != nil || !w.ends() {
			w.fatalf("%v\n%s", err, w.process.Tail())
		}
		w.restart(ctx)
	}
}

// compare both databases, and count the dead letters.
func (w *twins) compare(ctx context.Context) {
	w.Helper()
	through, other := w.states(ctx)
	if through != other {
		w.fatalf("the databases differ: %s", differences(through, other))
	}
	out, err := w.command(nil, "dlq", "ls", "--json")
	must(w.T, err)
	var list struct {
		Letters []json.RawMessage `json:"dead_letters"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		w.fatalf("%v: %s", err, out)
	}
	if letters := len(list.Letters); letters < w.letters || letters > w.letters+w.doubtful {
		w.fatalf("there are %d dead letters, want %d, or up to %d more:\n%s", letters, w.letters, w.doubtful, out)
	}
}

// differences of two texts, in lines.
func differences(a, b string) string {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out strings.Builder
	for _, l := range left {
		if !slices.Contains(right, l) {
			fmt.Fprintf(&out, "\nthrough walproxy: %s", l)
		}
	}
	for _, l := range right {
		if !slices.Contains(left, l) {
			fmt.Fprintf(&out, "\ndirectly:         %s", l)
		}
	}
	return out.String()
}

func (w *twins) fatalf(format string, args ...any) {
	w.Helper()
	w.Logf("what was done:\n%s", strings.Join(w.past, "\n"))
	w.Fatalf(format, args...)
}

func (w *twins) note(format string, args ...any) {
	w.past = append(w.past, fmt.Sprintf(format, args...))
}

func (s *twinSession) drop() {
	for _, c := range []*wire{s.through, s.other} {
		if c != nil {
			c.close()
		}
	}
	s.through, s.other, s.tx, s.otherTx, s.names = nil, nil, 'I', 'I', nil
}

// connect logs in to both.
func (s *twinSession) connect(ctx context.Context) {
	s.Helper()
	config, err := pgx.ParseConfig(s.store)
	must(s.T, err)
	parameters := map[string]string{"walproxy.read": "session"}
	if s.all {
		parameters["walproxy.read"] = "all"
	}
	for s.through == nil {
		s.through, err = openWire(ctx, pgtest.DSN(s.process.Addr("pgwire"), config.User, config.Database), parameters)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			s.fatalf("session %d: login: %v\n%s", s.number, err, s.process.Tail())
		}
		s.bothUp(ctx) // who did not log in before needs PostgreSQL
		time.Sleep(time.Millisecond)
	}
	s.other, err = openWire(ctx, s.twin, parameters)
	must(s.T, err)
	s.caughtUp, s.kills = false, s.twins.kills
}

// step asks something of both, and compares. during, if not nil, is called meanwhile.
func (s *twinSession) step(ctx context.Context, during func()) {
	s.Helper()
	if s.through == nil {
		s.connect(ctx)
	}
	list, catchesUp := s.queries()
	s.run(ctx, list, catchesUp, during)
}

// run is step with these queries. It reports whether none of them was refused or lost.
func (s *twinSession) run(ctx context.Context, list []query, catchesUp bool, during func()) (done bool) {
	s.Helper()
	done = true
	for _, q := range list {
		s.note("session %d (%c): %s", s.number, s.tx, q.does)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if during != nil {
			during()
		}
	}()
	defer func() { <-over }()
	var messages []pgproto3.FrontendMessage
	for _, q := range list {
		messages = append(messages, q.messages...)
	}
	broken := s.through.send(messages)
	fresh := false
	for i, q := range list {
		got := reply{}
		if broken == nil {
			got, broken = s.through.receive()
		}
		if broken != nil {
			<-over
			s.lost(ctx, list[i:], fmt.Errorf("%w %q", broken, got.lines))
			return false
		}
		switch s.hear(q, got) {
		case refusedThis:
			catchesUp, done = false, false
		case deadThis:
			fresh = true
		}
	}
	s.caughtUp = s.caughtUp || catchesUp
	if fresh { // reads on this one fail from now on
		<-over
		s.drop()
	}
	return done
}

// queries are what a step asks: each that can be asked may change something only if it
// is the only one, or not in a transaction. catchesUp: behind them the session may
// read what it wrote before it logged in.
func (s *twinSession) queries() (list []query, catchesUp bool) {
	s.inside = s.tx != 'I'
	s.hot = !slices.ContainsFunc(s.sessions, func(o *twinSession) bool { return o != s && o.tx != 'I' })
	switch n := s.twinAuthor.r.IntN(12); {
	case n < 4 && (s.caughtUp || s.all):
		return []query{s.rows(s.all)}, false
	case n < 4 && !s.inside:
		return []query{simple("SET walproxy.read = 'all'", false), s.rows(false), simple("SET walproxy.read = 'session'", false)}, true
	case n < 5 && !s.inside:
		return s.pipeline(), false
	}
	return []query{s.next()}, false
}

// heard is what an answer means.
type heard int

const (
	equalToTwin heard = iota
	refusedThis       // nothing was done, as documented: PostgreSQL is away
	deadThis          // it will be a dead letter, as documented: the key is taken
)

// hear does what was answered to the twin, too, and compares.
func (s *twinSession) hear(q query, got reply) heard {
	s.Helper()
	s.tx = got.tx
	// Who began to wait before it was known that PostgreSQL is away waits his time out.
	away := s.stopped != nil || !s.cluster.Running()
	refused := got.code == "57P03" || got.code == "08006" || got.code == "55P03" && away
	if refused || got.code == "25P02" && s.otherTx == 'E' && away { // it would be told what is wrong with the text
		s.note("  refused: %q", got.lines)
		s.counts["refused"]++
		s.follow()
		return refusedThis
	}
	want, err := s.other.ask(q.messages)
	if err != nil {
		s.fatalf("session %d: the twin: %v", s.number, err)
	}
	s.otherTx = want.tx
	if q.taken && want.code == "23505" && slices.Contains(got.lines, "C INSERT 0 1") {
		s.letters++
		s.counts["dead letters"]++
		return deadThis
	}
	if !q.comparable(got).equal(q.comparable(want)) {
		s.fatalf("session %d: %s\n got %q\nwant %q\n%s", s.number, q.does, got.lines, want.lines, s.process.Tail())
	}
	s.counts["equal"]++
	return equalToTwin
}

// follow has the twin's transaction stand as the session's does.
func (s *twinSession) follow() {
	s.Helper()
	say := func(sql string) {
		r, err := s.other.ask(simple(sql, false).messages)
		if err != nil {
			s.fatalf("session %d: the twin: %v", s.number, err)
		}
		s.otherTx = r.tx
	}
	if s.tx != s.otherTx && s.otherTx != 'I' {
		if s.tx == 'I' {
			say("ROLLBACK")
		} else if s.tx == 'E' {
			say("SELECT 1/0")
		}
	} else if s.tx != s.otherTx {
		if say("BEGIN"); s.tx == 'E' {
			say("SELECT 1/0")
		}
	}
	if s.tx != s.otherTx {
		s.fatalf("session %d stands at %c, its twin at %c", s.number, s.tx, s.otherTx)
	}
}

// lost is what is to be done when the session ended before list was answered: what
// became of it is read.
func (s *twinSession) lost(ctx context.Context, list []query, why error) {
	s.Helper()
	s.note("  unknown: %v", why)
	s.counts["unknown"]++
	if s.kills == s.twins.kills && !s.stopping && !s.ends() {
		s.fatalf("session %d ended, and nothing was killed: %v\n%s", s.number, why, s.process.Tail())
	}
	s.through.close()
	s.through = nil
	other := s.other
	s.other = nil
	defer other.close()
	inside := s.tx != 'I'
	s.drop()
	changes := slices.ContainsFunc(list, func(q query) bool { return q.changes && (!inside || q.ends) })
	if !changes {
		s.restart(ctx)
		return
	}
	if s.stopped != nil {
		s.awaken()
		s.endLeft(ctx)
	}
	through, twin := s.states(ctx)
	for _, q := range list {
		if through == twin {
			break
		}
		s.counts["unknown, done"]++
		s.note("  done: %s", q.does)
		if _, err := other.ask(q.messages); err != nil {
			s.fatalf("session %d: the twin: %v", s.number, err)
		}
		through, twin = s.states(ctx)
	}
	if list[0].taken {
		s.doubtful++
	}
	if through != twin {
		s.fatalf("session %d: what was under way is done by half, or what was before is lost: %s", s.number, differences(through, twin))
	}
}

// ends reports whether walproxy kills itself: that may be known a little later.
func (w *twins) ends() bool {
	select {
	case <-w.process.Ended():
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

func (w *twins) ended() bool {
	select {
	case <-w.process.Ended():
		return true
	default:
		return false
	}
}

// restart starts walproxy if it has ended.
func (w *twins) restart(ctx context.Context) {
	w.Helper()
	if w.ended() {
		w.over()
		w.begin(ctx)
	}
}

// killWalproxy at whatever it does.
func (w *twins) killWalproxy(ctx context.Context) {
	w.Helper()
	w.note("-- walproxy is killed")
	w.process.Kill()
	w.over()
	w.begin(ctx)
}

// killPostgres in one of the ways there are.
func (w *twins) killPostgres() {
	w.kills++
	[]func(testing.TB){w.cluster.Kill, w.cluster.KillAll, w.cluster.Stop}[w.chance.IntN(3)](w.T)
}

// steps of whichever session.
func (w *twins) steps(ctx context.Context, n int) {
	w.Helper()
	for range n {
		w.sessions[w.chance.IntN(len(w.sessions))].step(ctx, nil)
	}
}

// amid has something done while a step is under way.
func (w *twins) amid(ctx context.Context, f func()) {
	w.Helper()
	s := w.sessions[w.chance.IntN(len(w.sessions))]
	if s.through == nil {
		s.connect(ctx)
	}
	after := time.Duration(w.chance.Int64N(int64(3 * time.Millisecond))) // a random instant, not a condition
	s.step(ctx, func() { time.Sleep(after); f() })
}

// TestTwinKills has sessions of mixed queries, one query at a time, on tables that are
// written behind and directly on a second database, while walproxy and PostgreSQL are
// killed or stopped, between queries and amid them: the same is answered, but for what is
// documented, the same is read, and the same is there in the end, each key with the same
// past. What became of a query without an answer is read: all of it was done, or
// nothing.
func TestTwinKills(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	r := rng(t)
	w := newTwins(t, r, 3)
	logged := uint64(0)
	// Of each round of the short form.
	kinds := [][]int{{raceKind}, {0, 1, 5}, {unreportedPostgres}, {2, 3, 4}}
	for round := range times(4, 300) {
		w.past = nil
		for _, s := range w.sessions {
			s.keyed = nil
		}
		var env []string
		if round%4 == 1 {
			points := []string{"wal-after-write", "wal-after-sync", "accept-after-enqueue", "sink-before-commit", "sink-after-commit", "replay-mid-apply", "state-before-sync"}
			env = append(env, fmt.Sprintf("WALPROXY_FAILPOINTS=%s=%d", points[r.IntN(len(points))], 1+r.IntN(30)))
		}
		w.begin(ctx, env...)
		w.steps(ctx, 10+r.IntN(20))
		kind := r.IntN(eventKinds)
		if round < len(kinds) && !long() {
			kind = kinds[round][r.IntN(len(kinds[round]))]
		}
		w.event(ctx, kind)
		if round == 2 || long() && r.IntN(4) == 0 {
			w.stopBriefly(ctx)
		}
		w.steps(ctx, 5+r.IntN(20))
		w.bothUp(ctx)
		if r.IntN(2) == 0 {
			w.killWalproxy(ctx)
		}
		w.compare(ctx)
		if status, err := w.client.Status(ctx); err == nil { // or it has killed itself
			logged = max(logged, status.Log.Appended)
		}
		w.process.Kill()
		w.over()
	}
	t.Logf("%v; %d records", w.counts, logged)
	if n := w.counts["equal"]; int(logged) < n/10 {
		t.Errorf("only %d records were logged for %d queries", logged, n)
	}
}

// Kinds of events.
const (
	raceKind           = 6 + iota
	unreportedPostgres // killed
	stoppedPostgres
	eventKinds
)

// event is what happens amid a round.
func (w *twins) event(ctx context.Context, kind int) {
	w.Helper()
	switch kind {
	case 0:
		w.killWalproxy(ctx)
	case 1:
		w.note("-- walproxy is being killed")
		w.stopping = true
		w.amid(ctx, w.process.Kill)
		w.bothUp(ctx)
	case 2:
		w.note("-- PostgreSQL is killed")
		w.killPostgres()
		w.steps(ctx, 2+w.chance.IntN(15))
		if w.chance.IntN(2) == 0 {
			w.killWalproxy(ctx)
			w.steps(ctx, 2+w.chance.IntN(5))
		}
		w.bothUp(ctx)
	case 3:
		w.note("-- PostgreSQL is being killed")
		w.kills++
		w.amid(ctx, w.killPostgres)
		w.steps(ctx, 1+w.chance.IntN(5))
		w.bothUp(ctx)
	case 4:
		w.note("-- both are killed")
		w.killPostgres()
		w.steps(ctx, w.chance.IntN(5))
		w.killWalproxy(ctx)
		w.steps(ctx, w.chance.IntN(5))
	case 5:
		w.note("-- walproxy ends")
		w.stop()
		w.over()
		w.begin(ctx)
	case raceKind:
		w.race(ctx)
		w.unreported(ctx, func() { w.killWalproxy(ctx) })
		w.repeatKeyed(ctx)
	case unreportedPostgres:
		w.note("-- PostgreSQL is killed")
		w.unreported(ctx, w.killPostgres)
		w.bothUp(ctx)
	case stoppedPostgres:
		w.stopLong(ctx)
	}
}
