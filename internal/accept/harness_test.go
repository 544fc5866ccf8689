package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a small sink with its own apply loop: it reads the real log and
// applies it to a map. Applying can be held, reads can be delayed.
type store struct {
	log      *wal.Log
	parkedBy wal.LSN // every key is, if set

	mu struct {
		sync.Mutex
		docs    map[string]*mutation.Document
		events  map[string][]mutation.StoredEvent
		applied wal.LSN
		hold    wal.LSN       // apply up to it only; 0: everything
		change  chan struct{} // closed at every change
		err     error         // why applying ended
		reads   int
		readErr error
		hang    bool          // reads wait for their context
		late    chan struct{} // and then for this; nil: no more
		onRead  func()        // called by every read, before it looks
		end     chan struct{} // reads answer what they found once this is closed
	}
	stop context.CancelFunc
	done sync.WaitGroup
}

func newStore() *store {
	s := &store{}
	s.mu.docs = map[string]*mutation.Document{}
	s.mu.events = map[string][]mutation.StoredEvent{}
	s.mu.change = make(chan struct{})
	return s
}

func (s *store) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.done.Go(func() {
		err := s.applyAll(ctx)
		s.set(func() { s.mu.err = err })
	})
}

func (s *store) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.mu.change)
	s.mu.change = make(chan struct{})
}

func (s *store) holdAt(lsn wal.LSN) { s.set(func() { s.mu.hold = lsn }) }

func (s *store) applyAll(ctx context.Context) error {
	r, err := s.log.NewReader(s.Applied() + 1)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		rec, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.until(ctx, func() bool { return s.mu.hold == 0 || rec.LSN <= s.mu.hold }); err != nil {
			return err
		}
		if err := s.apply(rec); err != nil {
			return fmt.Errorf("LSN %d: %w", rec.LSN, err)
		}
	}
}

func (s *store) until(ctx context.Context, ok func() bool) error {
	for {
		s.mu.Lock()
		reached, change, err := ok(), s.mu.change, s.mu.err
		s.mu.Unlock()
		if reached || err != nil {
			return err
		}
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *store) apply(rec wal.Record) (err error) {
	body, err := mutation.Decode(rec.Payload)
	if err != nil {
		return err
	}
	if statement := body.GetStatement(); statement != nil {
		s.set(func() {
			s.mu.docs[string(mutation.AppendKey(nil, statement.Collection, statement.Key))] = &mutation.Document{Version: rec.LSN}
			s.mu.applied = rec.LSN
		})
		return nil
	}
	ms, err := mutation.Mutations(body)
	if err != nil {
		return err
	}
	s.set(func() {
		for _, m := range ms {
			id := string(mutation.AppendKey(nil, m.Collection, m.Key))
			var e *mutation.Effect
			if e, err = mutation.Apply(s.mu.docs[id], m, rec.LSN, time.Unix(0, body.AcceptedUnixNanos)); err != nil {
				return
			}
			if e.Unchanged {
				continue
			}
			if e.DropEvents {
				delete(s.mu.events, id)
			}
			for i, event := range e.Events {
				s.mu.events[id] = append(s.mu.events[id], mutation.StoredEvent{Number: e.FirstEvent + uint64(i), LSN: rec.LSN, Event: event})
			}
			if delete(s.mu.docs, id); e.Document != nil {
				s.mu.docs[id] = e.Document
			}
		}
		s.mu.applied = rec.LSN
	})
	return err
}

func (s *store) Applied() wal.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.applied
}

func (s *store) Parked(string, *walproxyv1.Key) (wal.LSN, bool, error) {
	return s.parkedBy, s.parkedBy != 0, nil
}

func (s *store) WaitKey(ctx context.Context, _ string, _ *walproxyv1.Key, lsn wal.LSN) error {
	return s.Wait(ctx, lsn)
}

func (s *store) Wait(ctx context.Context, lsn wal.LSN) error {
	return s.until(ctx, func() bool { return s.mu.applied >= lsn })
}

func (s *store) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.reads++
	if f := s.mu.onRead; f != nil {
		s.mu.Unlock()
		f()
		s.mu.Lock()
	}
	if s.mu.hang {
		late := s.mu.late
		s.mu.Unlock()
		<-ctx.Done()
		if late != nil {
			<-late
		}
		s.mu.Lock()
		return nil, context.Cause(ctx)
	}
	if s.mu.readErr != nil {
		return nil, s.mu.readErr
	}
	doc := s.mu.docs[string(mutation.AppendKey(nil, collection, key))]
	if end := s.mu.end; end != nil {
		s.mu.Unlock()
		<-end
		s.mu.Lock()
	}
	if doc == nil {
		return nil, mutation.ErrNotFound
	}
	copied := *doc
	copied.Fields = maps.Clone(doc.Fields)
	return &copied, nil
}

func (s *store) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	if _, err := s.Read(ctx, collection, key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.mu.events[string(mutation.AppendKey(nil, collection, key))]
	events = events[min(int(from)-1, len(events)):]
	return events[:min(limit, len(events))], nil
}

// gateFS lets a test hold the log's disk: while shut, a directory sync waits, and
// so, in the end, does a group that needs a new segment.
type gateFS struct {
	vfs.FS
	mu   sync.Mutex
	open chan struct{} // nil: open
}

func (g *gateFS) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gateFS) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

func (g *gateFS) SyncDir(name string) error {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if open != nil {
		<-open
	}
	return g.FS.SyncDir(name)
}

// rig is an acceptor on a real log and state store.
type rig struct {
	t     testing.TB
	dir   string
	opts  Options
	wal   wal.Options
	log   *wal.Log
	state *state.Store
	store *store
	*Acceptor
}

// newRig opens everything in dir. prepare may change the options before the log
// is opened; r.store is made by then.
func newRig(t testing.TB, dir string, prepare func(*rig)) *rig {
	t.Helper()
	r := openRig(t, dir, prepare)
	var err error
	if r.Acceptor, err = New(t.Context(), r.log, r.state, r.opts); err != nil {
		t.Fatal(err)
	}
	r.store.run()
	t.Cleanup(r.close)
	return r
}

// openRig is newRig without an acceptor.
func openRig(t testing.TB, dir string, prepare func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, store: newStore()}
	r.opts = Options{
		Routes:  []Route{{Collections: []string{"*"}, Sinks: []string{"main"}}},
		Targets: map[string]Target{"main": {Loop: r.store, Reader: r.store}},
		KeyTypes: func(collection string) mutation.KeyType {
			if collection == "numbers" {
				return mutation.KeyInt64
			}
			return mutation.KeyString
		},
	}
	r.wal = wal.Options{MinFree: -1}
	if prepare != nil {
		prepare(r)
	}
	attach := func(stream uuid.UUID, empty bool, newest uint64) (uint64, error) {
		var err error
		if r.state, err = state.Open(filepath.Join(dir, "state"), state.Options{}); err != nil {
			return 0, err
		}
		return r.state.Bind(stream, empty, newest)
	}
	r.wal.Attach = attach
	var err error
	if r.log, err = wal.Open(filepath.Join(dir, "log"), r.wal); err != nil {
		t.Fatal(err)
	}
	r.store.log = r.log
	return r
}

// close ends everything in order; twice is fine.
func (r *rig) close() {
	sealErr := r.log.Seal(context.Background())
	closeErr := r.Acceptor.Close()
	r.store.stop()
	r.store.done.Wait()
	for _, err := range []error{sealErr, closeErr, r.state.Close(), r.log.Close()} {
		if err != nil && !errors.Is(err, wal.ErrPoisoned) {
			r.t.Error(err)
		}
	}
}

// crash returns a copy of the directory as a crash right now would leave it,
// without the data that nobody synced being lost: a kill, not a power cut.
func (r *rig) crash() string {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(r.dir)); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func record(m *walproxyv1.Mutation) *walproxyv1.Record {
	return &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: m}}
}

func group(id string, ms ...*walproxyv1.Mutation) *walproxyv1.Record {
	g := &walproxyv1.Group{RequestId: id}
	for _, m := range ms {
		g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
	}
	return &walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: g}}
}

// do submits and waits.
func (r *rig) do(ctx context.Context, rec *walproxyv1.Record) (Result, error) {
	p, err := r.Submit(ctx, rec)
	if err != nil {
		return Result{}, err
	}
	return p.Wait(ctx)
}

// must is do of a mutation that succeeds.
func (r *rig) must(m *walproxyv1.Mutation) Result {
	r.t.Helper()
	res, err := r.do(r.t.Context(), record(m))
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

var one = map[string]*walproxyv1.Value{"n": mutation.Int64Value(1)}

func set(key string, options ...mutation.Option) *walproxyv1.Mutation {
	return mutation.New("c", mutation.String(key), []*walproxyv1.Op{mutation.SetOp(one)}, options...)
}

func increment(key string, options ...mutation.Option) *walproxyv1.Mutation {
	return mutation.New("c", mutation.String(key), []*walproxyv1.Op{mutation.IncrementOp(one)}, options...)
}
