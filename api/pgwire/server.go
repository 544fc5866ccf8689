package pgwire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/internal/listen"
	"github.com/walproxy/walproxy/internal/slots"
)

// spare connections beyond MaxConnections are taken: for cancel requests, and to
// tell a client that there are too many.
const spare = 64

// statementsBytes of texts that were read are remembered.
const statementsBytes = 8 << 20

// Server is a running endpoint.
type Server struct {
	o       Options
	log     *zap.Logger
	metrics *metrics
	places  *places
	keys    keys

	presence   *presence // nil without Options.Away and a console
	pools      *pools    // nil without Options.Pool
	statements *statement.Cache

	consoles     atomic.Int32
	stopping     atomic.Bool
	slots        *slots.Pool   // one per connection
	stop         chan struct{} // closed by Close
	logins       context.Context
	cancelLogins context.CancelCauseFunc
	failed       chan error // capacity 1
	joined       sync.WaitGroup

	tables *tables        // that are written behind; nil: none
	behind *behindMetrics // theirs
	loops  []*loop        // of sessions without encryption
	turns  atomic.Uint64

	mu struct {
		sync.Mutex
		conns    map[net.Conn]struct{}
		sessions map[*session]struct{}
	}
	once sync.Once
	done chan struct{} // Close has finished
	err  error         // of Close; read after done
}

// Start serves o.Listener, which it closes.
func Start(o Options) (s *Server, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	s = &Server{
		o: o, log: o.Logger, places: newPlaces(o),
		slots: slots.New(o.MaxConnections + spare), stop: make(chan struct{}),
		failed: make(chan error, 1), done: make(chan struct{}),
	}
	s.mu.conns, s.mu.sessions = map[net.Conn]struct{}{}, map[*session]struct{}{}
	s.keys.by = map[uint32][]*session{}
	if o.Pool != nil {
		s.pools = newPools(s, *o.Pool)
	}
	if s.metrics, err = newMetrics(o.Registerer, s); err != nil {
		return nil, err
	}
	begun := s // an error returns nil
	defer func() {
		if err != nil {
			begun.takeMetricsBack()
		}
	}()
	if o.WriteBehind != nil {
		if s.behind, err = newBehindMetrics(o.Registerer); err != nil {
			return nil, err
		}
		s.tables = newTables(s, *o.WriteBehind, s.behind)
	}
	s.logins, s.cancelLogins = context.WithCancelCause(context.Background())
	if o.Away != nil || o.hasConsole() {
		s.statements = statement.NewCache(statementsBytes)
		if s.presence, err = newPresence(s); err != nil {
			return nil, err
		}
	}
	if s.loops, err = startLoops(s); err != nil {
		return nil, err
	}
	if s.presence != nil {
		s.joined.Go(s.presence.watch)
	}
	if s.pools != nil {
		s.joined.Go(s.pools.watch)
	}
	if s.tables != nil {
		s.joined.Go(func() {
			watching, stop := s.untilStop()
			defer stop()
			s.tables.watch.Run(watching)
		})
	}
	s.joined.Go(s.accept)
	s.joined.Go(s.sweep)
	return s, nil
}

// SetLimits changes Options.MaxConnections, MaxUserConnections and MaxDatabaseConnections.
// Nobody who is logged in is sent away for a smaller one.
func (s *Server) SetLimits(total, user, database int) {
	s.places.set(total, user, database)
	s.slots.Resize(total + spare)
}

// Failed delivers the error that ended the endpoint without a Close.
func (s *Server) Failed() <-chan error { return s.failed }

// accept serves connections until the server is closed.
func (s *Server) accept() {
	l := listen.Loop{Listener: s.o.Listener, Slots: s.slots, Stop: s.stop, Joined: &s.joined, Logger: s.log}
	if err := l.Run(s.serve); err != nil {
		s.failed <- fmt.Errorf("pgwire listener: %w", err)
	}
}

// serve returns when a connection is over.
func (s *Server) serve(raw net.Conn) {
	s.metrics.connections.Inc()
	s.mu.Lock()
	s.mu.conns[raw] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.conns, raw)
		s.mu.Unlock()
		_ = raw.Close() // everything that was promised is sent
	}()
	late := refuseLate(s.o.LoginTimeout)
	ctx, cancel := context.WithTimeoutCause(s.logins, s.o.LoginTimeout, late)
	defer cancel()
	interrupt := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(past) })
	defer interrupt()
	c, st, err := s.greet(ctx, raw)
	if err == nil && st.cancel != nil {
		if err := s.cancel(ctx, st.cancel); err != nil {
			s.log.Warn("a cancel request failed", zap.Error(err))
		}
		return
	}
	if err != nil {
		s.refuse(ctx, c, err)
		return
	}
	s.admit(ctx, c, st, interrupt)
}

// admit lets a client log in and serves it. interrupt ends what bounds the login;
// it returns false if the bound was reached.
func (s *Server) admit(ctx context.Context, c net.Conn, st *startup, interrupt func() bool) {
	if s.o.hasConsole() && st.database == consoleName && !st.replication {
		s.console(ctx, c, st, interrupt)
		return
	}
	if st.replication && s.o.RefuseReplication {
		s.refuse(ctx, c, refuseReplication())
		return
	}
	wait, cancel := context.WithTimeout(ctx, s.o.QueryWait)
	release, err := s.places.take(wait, st.user, st.database)
	cancel()
	if err != nil {
		s.refuse(ctx, c, err)
		return
	}
	defer release()
	x := newSession(s, c, st)
	defer x.leave()
	if s.tables != nil {
		var f *failure
		if x.chosen, f = choose(st); f != nil {
			s.refuse(ctx, c, &refusal{code: f.code, message: f.message, hint: f.hint, reason: "protocol"})
			return
		}
	}
	fromClient, fromServer, err := x.logIn(ctx, st)
	if err == nil && !interrupt() {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		s.refuse(ctx, c, err)
		if x.upstream != nil {
			_ = x.upstream.Close() // nobody is logged in
		}
		return
	}
	x.carrier = x.carriedBy(st)
	s.register(x)
	why := x.run(fromClient, fromServer)
	s.mu.Lock()
	delete(s.mu.sessions, x)
	s.mu.Unlock()
	s.ended(x, why)
}

// carriedBy finds who carries a session that is logged in.
func (x *session) carriedBy(st *startup) carrier {
	if x.s.tables != nil && !st.replication {
		return newAttended(x, x.s.tables)
	}
	if c := x.carry(); c != nil {
		return c
	}
	return newRelay(x)
}

func (s *Server) register(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.sessions[x] = struct{}{}
}

// nextLoop deals sessions out.
func (s *Server) nextLoop() *loop { return s.loops[s.turns.Add(1)%uint64(len(s.loops))] }

func (s *Server) ended(x *session, why error) {
	r, ok := errors.AsType[*refusal](why)
	if !ok {
		s.metrics.ended.WithLabelValues("closed").Inc()
		return
	}
	s.metrics.ended.WithLabelValues(r.reason).Inc()
	if r.reason != "stopping" {
		s.log.Info("a session was ended", append(x.fields(), zap.Error(r))...)
	}
}

// refuse tells a client why there is no session.
func (s *Server) refuse(ctx context.Context, c net.Conn, err error) {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		s.metrics.ended.WithLabelValues("login").Inc()
		if errors.Is(err, errStartupLength) {
			linger(c)
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errToldAlready) && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.log.Debug("no login", zap.Stringer("client", c.RemoteAddr()), zap.Error(err))
		}
		return
	}
	s.metrics.ended.WithLabelValues(r.reason).Inc()
	if r.reason == "upstream_away" {
		s.log.Warn("no login", zap.Stringer("client", c.RemoteAddr()), zap.Error(r))
	}
	_ = c.SetDeadline(time.Now().Add(lastWord))
	if _, err := c.Write(r.appendTo(nil)); err == nil { // else it is gone
		linger(c)
	}
}

// untilStop returns a context that ends when the server is closed. Its cancel must be
// called.
func (s *Server) untilStop() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	s.joined.Go(func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// sweep ends sessions whose time is up. Sessions are looked at instead of having
// timers: what they do every microsecond costs nothing that way.
func (s *Server) sweep() {
	tick := time.NewTicker(s.o.sweepInterval())
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, x := range s.list() {
				if r := x.overdue(now); r != nil {
					s.joined.Go(func() { x.end(r) })
				}
			}
		case <-s.stop:
			return
		}
	}
}

func (o *Options) sweepInterval() time.Duration {
	shortest := min(o.IdleInTransactionTimeout, o.StallTimeout)
	if o.IdleTimeout > 0 {
		shortest = min(shortest, o.IdleTimeout)
	}
	return min(max(shortest/8, 10*time.Millisecond), time.Second)
}

func (s *Server) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*session, 0, len(s.mu.sessions))
	for x := range s.mu.sessions {
		list = append(list, x)
	}
	return list
}

// Close stops listening, ends logins and every session that is in no transaction,
// waits until ctx ends for the others to come to that point, cuts off those that do
// not and joins every goroutine. It may be called twice; the second call waits for
// the first.
func (s *Server) Close(ctx context.Context) error {
	s.once.Do(func() {
		defer close(s.done)
		s.mu.Lock()
		s.stopping.Store(true)
		s.mu.Unlock()
		close(s.stop)
		s.err = s.o.Listener.Close()
		s.cancelLogins(endStopping())
		for _, x := range s.list() {
			x.stop()
		}
		stop := context.AfterFunc(ctx, func() {
			if left := s.list(); len(left) > 0 {
				s.log.Warn("sessions were cut off", zap.Int("sessions", len(left)), zap.NamedError("cause", context.Cause(ctx)))
				for _, x := range left {
					x.cut(endStopping())
				}
			}
			s.closeAll()
		})
		s.joined.Wait()
		stop()
		if s.pools != nil {
			s.pools.close()
		}
		for _, l := range s.loops {
			l.close()
		}
		s.takeMetricsBack()
	})
	<-s.done
	return s.err
}

// takeMetricsBack leaves none of them registered.
func (s *Server) takeMetricsBack() {
	s.metrics.close()
	if s.behind != nil {
		s.behind.close()
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.conns {
		_ = c.Close()
	}
}
