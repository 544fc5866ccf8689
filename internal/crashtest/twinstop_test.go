package crashtest_test

import (
	"context"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// Of walproxy's time-outs for a PostgreSQL that says nothing, in the long form.
var hastyEnv = []string{"WALPROXY_PGWIRE__CONNECT_TIMEOUT=2s", "WALPROXY_PGWIRE__AWAY={check_interval: 50ms, keep_logins: true, answer_timeout: 2s}"}

// stopBriefly stops PostgreSQL amid a step, for less than any time-out: nobody notices more
// than that it takes longer.
func (w *twins) stopBriefly(ctx context.Context) {
	w.Helper()
	w.note("-- PostgreSQL is stopped for a moment")
	w.amid(ctx, func() {
		w.cluster.Pause(w.T)
		time.Sleep(50*time.Millisecond + time.Duration(w.chance.Int64N(int64(500*time.Millisecond))))
		w.cluster.Continue(w.T)
	})
	w.note("-- PostgreSQL goes on")
	w.steps(ctx, 3)
}

// stopLong stops PostgreSQL for longer than walproxy waits for it, one time of four for longer
// than the sink does. Some of the times walproxy is killed meanwhile.
func (w *twins) stopLong(ctx context.Context) {
	w.Helper()
	d := 9 * time.Second
	if w.chance.IntN(4) == 0 {
		d = 40 * time.Second
	}
	w.note("-- PostgreSQL is stopped for %v", d)
	w.kills++
	w.stopped = make(chan struct{})
	w.amid(ctx, func() {
		w.cluster.Pause(w.T)
		time.AfterFunc(d, func() {
			defer close(w.stopped)
			w.cluster.Continue(w.T)
		})
	})
	kills := w.chance.IntN(3) == 0
	for n := 0; w.stopped != nil; n++ {
		select {
		case <-w.stopped:
			w.awaken()
			continue
		default:
		}
		if kills && n == 3 {
			w.killWalproxy(ctx)
		}
		w.steps(ctx, 1)
		time.Sleep(10 * time.Millisecond) // or all that is said is refused
	}
	w.steps(ctx, 5)
}

// awaken waits until PostgreSQL goes on, if it is stopped.
func (w *twins) awaken() {
	if w.stopped != nil {
		<-w.stopped
		w.stopped = nil
		w.kills++ // who was in a transaction may be told now
		w.note("-- PostgreSQL goes on")
	}
}

// endLeft ends what sessions have left behind that ended while PostgreSQL was stopped: it
// does not know of that, and may still do what they asked for.
func (w *twins) endLeft(ctx context.Context) {
	w.Helper()
	conn := pgtest.Connect(w.T, w.store)
	defer func() { _ = conn.Close(ctx) }()
	_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'walproxy' AND pid <> pg_backend_pid()`)
	must(w.T, err)
	w.kills++
}
