package crashtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	"github.com/walproxy/walproxy/internal/crashtest/embedded"
	"github.com/walproxy/walproxy/internal/ledger"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/internal/powerfs"
)

const (
	soakDisk  = 4 << 30
	soakFloor = 16 * mib // log.min_free
	// renewEvery so many rounds clients write to records anew: else comparing takes ever longer.
	renewEvery = 8
)

// soak is what TestSoak runs.
type soak struct {
	*testing.T
	ctx      context.Context
	r        *rand.Rand
	mount    *powerfs.Mount
	servers  []*soaked
	behind   *behind
	store    *aeroStore // of one node, on another disk; nil: none
	writer   *writer
	rounds   int
	happened map[string]int
	// forgiving: the disk was full, and a server may still end of that.
	forgiving bool
}

// soaked is a server with its clients.
type soaked struct {
	*server
	name string
	// begin starts it; loads are its clients beside those of the API; acked is what they
	// were told; compare is done when they have stopped; renew has them write to other records.
	begin   func(ctx context.Context, env ...string)
	loads   func(ctx context.Context) (stop func())
	acked   func() int64
	compare func(ctx context.Context)
	renew   func()
	base    *uses // of its first round; nil: it has to come
}

// uses is what a process holds.
type uses struct{ goroutines, files, mib int }

func (u uses) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d MiB", u.goroutines, u.files, u.mib)
}

// newSoak prepares an embedded proxy and servers, each with clients of the API (REST and
// Connect) and others: of the Aerospike endpoint on the embedded store; of the PostgreSQL
// endpoint, written behind and directly; and, if all is set, of the Aerospike endpoint in
// front of a node.
func newSoak(ctx context.Context, t *testing.T, all bool) *soak {
	t.Helper()
	k := &soak{T: t, ctx: ctx, r: rng(t), mount: newPowerMount(t), happened: map[string]int{}}
	k.mount.Disk().SetCapacity(soakDisk)
	k.writer = newWriter(t)
	k.writer.dir = filepath.Join(k.mount.Dir(), "embedded")
	k.add("pebble", soakedPebble(t))
	k.behind = newBehind(t, k.r, 4)
	k.add("postgres", soakedBehind(k.behind))
	if all {
		k.store = newAeroStore(ctx, t, 1)
		k.add("aerospike", soakedFront(newFront(t, k.store)))
	}
	return k
}

func (k *soak) add(name string, s *soaked) {
	s.name, s.dir = name, filepath.Join(k.mount.Dir(), name)
	s.env = append(s.env, fmt.Sprintf("WALPROXY_LOG__MIN_FREE=%d", soakFloor))
	s.writers, s.batch, s.pad = 6, 10, 100
	k.servers = append(k.servers, s)
}

// soakedPebble is a server on the embedded store, with Aerospike clients.
func soakedPebble(t *testing.T) *soaked {
	a := onEndpoint(newServer(t, "", "WALPROXY_AEROWIRE__LISTEN="+keptAddr(t)), "soak", 4, evaluated)
	a.comesBack = true
	return &soaked{
		server: a.server, begin: a.server.start, acked: a.total.Load, renew: a.renew,
		loads: func(context.Context) func() {
			c := a.connect()
			stop := a.load(c)
			return func() { stop(); c.Close() }
		},
		compare: func(ctx context.Context) {
			c := a.connect()
			defer c.Close()
			a.check(ctx, c)
		},
	}
}

// soakedBehind is one in front of PostgreSQL, with clients of its endpoint.
func soakedBehind(b *behind) *soaked {
	return &soaked{
		server: b.server, begin: b.begin, acked: b.total.Load, loads: b.load, renew: b.renew,
		compare: func(ctx context.Context) {
			b.settleKeyed(ctx)
			b.compare(ctx)
		},
	}
}

// soakedFront is one in front of an Aerospike node, with clients of its endpoint and
// raw commands.
func soakedFront(f *front) *soaked {
	return &soaked{
		server: f.server, begin: f.server.start, acked: f.total.Load, renew: f.aerospike.renew,
		loads: func(ctx context.Context) func() {
			c := f.connect()
			stop, imported := f.aerospike.load(c), f.importing(ctx)
			return func() { stop(); imported(); c.Close() }
		},
		compare: func(ctx context.Context) {
			c := f.connect()
			defer c.Close()
			f.check(ctx, c)
		},
	}
}

// renew empties the tables and has the clients write to them anew. Nothing is under way.
func (b *behind) renew() {
	b.Helper()
	conn := pgtest.Connect(b.T, b.direct)
	_, err := conn.Exec(b.Context(), "TRUNCATE entry, journal")
	must(b.T, err, conn.Close(b.Context()))
	for _, c := range b.clients {
		c.units = nil
		clear(c.own)
		clear(c.seen)
	}
}

// round starts what does not run, loads it, lets event happen, and compares.
func (k *soak) round(event string) {
	k.Helper()
	k.startAll()
	must(k.T, k.writer.start(k.ctx, engine(k.r.IntN(2))))
	var stops []func()
	for _, s := range k.servers {
		rest, procedures, others := s.load(k.ctx), s.procedures(k.ctx, 2), s.loads(k.ctx)
		stops = append(stops, func() { rest(); procedures(); others() })
	}
	k.more(1 + k.r.Int64N(60))
	k.hurt(event)
	k.more(10)
	for _, stop := range stops {
		stop()
	}
	k.writer.kill()
	k.rounds++
	if k.forgiving {
		k.mend()
	}
	for _, s := range k.servers {
		s.server.check(k.ctx)
		s.compare(k.ctx)
		s.flat(k.ctx)
		if k.rounds%renewEvery == 0 {
			s.renew()
			s.ledger, s.keys = ledger.New(), fmt.Sprintf("r%d.", k.rounds)
		}
		if k.r.IntN(4) == 0 {
			s.stop()
		}
	}
	k.writer.check(k.ctx)
	if k.rounds%renewEvery == 0 {
		must(k.T, os.RemoveAll(k.writer.dir))
		k.writer.ledger = ledger.New()
	}
}

// startAll starts the servers that do not run.
func (k *soak) startAll() {
	k.Helper()
	for _, s := range k.servers {
		if !s.alive() {
			s.begin(k.ctx, engine(k.r.IntN(2)))
		}
	}
}

// more waits until every client kind of every server has been told of more.
func (k *soak) more(n int64) {
	k.Helper()
	for _, s := range k.servers {
		api, others := s.ledger.Acked()+int(n), s.acked()+n
		waitFor(k.ctx, k.T, fmt.Sprintf("%s: %d more", s.name, n), func() bool {
			if !s.alive() {
				k.ended(s)
			}
			return s.ledger.Acked() >= api && s.acked() >= others
		})
	}
}

// mend starts the servers again whose embedded store has failed, which asks for that.
func (k *soak) mend() {
	k.Helper()
	k.forgiving = false
	for _, s := range k.servers {
		status, err := s.client.Status(k.ctx)
		if err == nil && !slices.ContainsFunc(status.Sinks, func(sink ledger.SinkStatus) bool { return sink.State == "halted" }) {
			continue
		}
		s.process.Kill()
		s.begin(k.ctx, engine(k.r.IntN(2)))
	}
}

// ended starts a server again that may have ended.
func (k *soak) ended(s *soaked) {
	k.Helper()
	if s.endedWell(); !k.forgiving {
		k.Fatalf("%s ended with exit code %d\n%s", s.name, s.process.ExitCode(), s.process.Tail())
	}
	s.begin(k.ctx, engine(k.r.IntN(2)))
}

func (s *soaked) alive() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.Ended():
		return false
	default:
		return true
	}
}

// endUnderLoad ends a server by SIGTERM while its clients write: records may stay.
func (s *soaked) endUnderLoad(ctx context.Context) {
	s.Helper()
	if code, err := s.process.Terminate(readyTimeout); err != nil || code != 0 && code != exitRemaining {
		s.Fatalf("%s: SIGTERM: exit code %d, %v\n%s", s.name, code, err, s.process.Tail())
	}
}

// endedWell wants the end of a server to be one with an error.
func (s *soaked) endedWell() {
	s.Helper()
	if code := s.process.ExitCode(); code <= 0 || strings.Contains(s.process.Tail(), "panic: ") {
		s.Fatalf("%s: exit code %d\n%s", s.name, code, s.process.Tail())
	}
}

// probe sends a write of its own.
func (s *soaked) probe(ctx context.Context) error {
	w := ledger.Write{Kind: ledger.Event, Key: s.keys + "probe", Token: "probe-" + strconv.FormatInt(time.Now().UnixNano(), 36), Pad: 10_000}
	s.ledger.Attempt(w)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answers, errs := s.client.Send(ctx, ledger.Single, []ledger.Write{w})
	switch {
	case errs[0] == nil:
		s.ledger.Ack(w.Token, answers[0].LSN, answers[0].Repeat)
	case ledger.Refused(errs[0]):
		s.ledger.Refuse(w.Token)
	}
	return errs[0]
}

// refuses reports that the log is full, and fails the test if the server has ended.
func (s *soaked) refuses(ctx context.Context) bool {
	s.Helper()
	if !s.alive() {
		s.Fatalf("%s ended with exit code %d\n%s", s.name, s.process.ExitCode(), s.process.Tail())
	}
	refusal, ok := errors.AsType[*ledger.APIError](s.probe(ctx))
	return ok && refusal.Code == "log_full" && refusal.Retryable
}

// procedures writes by so many clients of the Connect procedures until stop is called.
// What was not answered is of unknown outcome: load sends it again.
func (s *soaked) procedures(ctx context.Context, clients int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	run, keys, to := s.runs, s.keys, s.ledger
	for client := range clients {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				w := ledger.Write{Kind: ledger.Kind(n % 3), Key: fmt.Sprintf("%sk%d", keys, n%10), Delta: int64(n), Token: fmt.Sprintf("p%d-%d-%d", run, client, n)}
				for !s.procedure(ctx, to, w) && ctx.Err() == nil {
					select {
					case <-ctx.Done():
					case <-time.After(10 * time.Millisecond): // not as fast as it is refused
					}
				}
			}
		})
	}
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

// procedure sends a write once.
func (s *soaked) procedure(ctx context.Context, to *ledger.Ledger, w ledger.Write) (acked bool) {
	m, err := embedded.Mutation(w)
	if err != nil {
		s.Error(err)
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	to.Attempt(w)
	client := walproxyv1connect.NewWriteServiceClient(http.DefaultClient, s.client.Base())
	answer, err := client.Write(ctx, connect.NewRequest(&walproxyv1.WriteRequest{Write: &walproxyv1.WriteRequest_Mutation{Mutation: m}}))
	if err == nil {
		to.Ack(w.Token, answer.Msg.GetLsn(), answer.Msg.GetRepeat())
	}
	return err == nil
}

// uses asks what the server holds.
func (s *soaked) uses(ctx context.Context) uses {
	s.Helper()
	u := uses{goroutines: s.goroutines(ctx)}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.process.PID()))
	must(s.T, err)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.PID()))
	must(s.T, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib := 0
	_, err = fmt.Sscan(rest, &kib)
	must(s.T, err)
	u.files, u.mib = len(files), kib>>10
	return u
}

// flat compares what the server holds with its first round, and with the bound.
func (s *soaked) flat(ctx context.Context) {
	s.Helper()
	now := s.uses(ctx)
	if s.base == nil {
		s.base = &now
	}
	if now.goroutines > s.base.goroutines+50 || now.files > s.base.files+100 {
		s.Fatalf("%s: %v, after the first round %v", s.name, now, *s.base)
	}
	if held, ok := peak(s.process.PID()); ok && held > memoryMost {
		s.Fatalf("%s: at most %d MiB, want %d", s.name, held/mib, memoryMost/mib)
	}
}

// goroutines is how many the server has.
func (s *server) goroutines(ctx context.Context) int {
	s.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/metrics", s.process.Addr("admin")), nil)
	must(s.T, err)
	answer, err := http.DefaultClient.Do(request)
	must(s.T, err)
	defer func() { must(s.T, answer.Body.Close()) }()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, err := strconv.Atoi(text)
			must(s.T, err)
			return n
		}
	}
	s.Fatal("the metrics have no go_goroutines")
	return 0
}
