package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// callTimeout bounds every call into the sink under test.
const callTimeout = 30 * time.Second

// collection that the cases write to.
const collection = "sinktest"

// tb is what a rig needs of *testing.T and *rapid.T.
type tb interface {
	Helper()
	Logf(string, ...any)
	Errorf(string, ...any)
	Fatalf(string, ...any)
}

// rig drives one store as the apply loop does and keeps a model of what has to
// be in it.
type rig struct {
	t     tb
	h     Harness
	store Store
	sink  sinks.Sink
	open  bool

	claim sinks.Claim
	cp    sinks.Checkpoint // as the loop knows it
	inc   uuid.UUID        // the log's incarnation
	last  sinks.LSN        // the last record made
	clock time.Time        // accept time of the last record
	model model
	// history is every record that was applied, for a Settler; kept: some of it was
	// settled, and with it the checkpoint.
	history []sinks.Record
	kept    bool
}

func newRig(t tb, h Harness) *rig {
	t.Helper()
	store, err := h.New()
	if err != nil {
		t.Fatalf("Harness.New: %v", err)
	}
	r := &rig{
		t: t, h: h, store: store, inc: uuid.New(), model: model{},
		claim: sinks.Claim{Stream: uuid.New(), Owner: "sinktest", Lanes: 1},
		// Long past by any store's clock: whoever judges expiry by it shows.
		clock: time.Unix(1_600_000_000, 0).UTC(),
	}
	r.reopen()
	return r
}

func (r *rig) reopen() {
	r.t.Helper()
	sink, err := r.store.Open()
	if err != nil {
		r.t.Fatalf("Store.Open: %v", err)
	}
	r.sink, r.open = sink, true
}

func (r *rig) close() {
	r.t.Helper()
	if !r.open {
		return
	}
	r.open = false
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := r.sink.Close(ctx); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}

func (r *rig) remove() {
	r.t.Helper()
	r.close()
	if err := r.store.Remove(); err != nil {
		r.t.Errorf("Store.Remove: %v", err)
	}
}

// crash kills the sink and opens the store again, without a claim.
func (r *rig) crash() {
	r.t.Helper()
	r.open = false
	if s, ok := r.sink.(sinks.Settler); ok {
		r.kept = r.kept || s.Settled() > 0
	}
	if err := r.store.Crash(r.sink); err != nil {
		r.t.Fatalf("Store.Crash: %v", err)
	}
	r.reopen()
}

// fresh makes the first claim.
func (r *rig) fresh() {
	r.t.Helper()
	r.claim.Fresh = true
	r.resume()
	r.claim.Fresh = false
}

// resume claims the stream and checks that the checkpoint is the one expected, or
// brings a Settler to where it was.
func (r *rig) resume() {
	r.t.Helper()
	before := r.cp
	cp := r.claims()
	if r.settles() {
		r.catchUp(before.Lanes)
		return
	}
	if before.Lanes != nil && !slices.Equal(cp.Lanes, before.Lanes) {
		r.t.Fatalf("Resume returned lanes %v, want %v: the checkpoint must be exactly as the last applied batch left it", cp.Lanes, before.Lanes)
	}
}

// claims claims the stream and takes over what the store says.
func (r *rig) claims() sinks.Checkpoint {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	claim := r.claim
	if r.settles() && !r.kept { // as the loop does: its store may have lost the checkpoint
		claim.Fresh, claim.Lanes = true, max(claim.Lanes, len(r.cp.Lanes))
	}
	cp, err := r.sink.Resume(ctx, claim)
	if err != nil {
		r.t.Fatalf("Resume: %v", err)
	}
	if cp.Epoch <= r.cp.Epoch {
		r.t.Fatalf("Resume returned epoch %d after %d: every claim needs a higher one, or the old owner is not fenced", cp.Epoch, r.cp.Epoch)
	}
	if cp.Stream != r.claim.Stream {
		r.t.Fatalf("Resume returned stream %v, claimed was %v", cp.Stream, r.claim.Stream)
	}
	r.cp = cp
	r.cp.Lanes = slices.Clone(cp.Lanes)
	return cp
}

func (r *rig) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

// record makes the next record of the log.
func (r *rig) record(ms ...*walproxyv1.Mutation) sinks.Record {
	r.t.Helper()
	r.last++
	r.clock = r.clock.Add(time.Millisecond)
	return recordOf(r.t, r.last, r.clock, ms)
}

// at is record with an accept time.
func (r *rig) at(accepted time.Time, ms ...*walproxyv1.Mutation) sinks.Record {
	r.t.Helper()
	r.clock = accepted.Add(-time.Millisecond)
	return r.record(ms...)
}

func recordOf(t tb, lsn sinks.LSN, accepted time.Time, ms []*walproxyv1.Mutation) sinks.Record {
	t.Helper()
	body := &walproxyv1.Record{Format: 1, AcceptedUnixNanos: accepted.UnixNano()}
	if len(ms) == 1 {
		if err := mutation.Validate(ms[0]); err != nil {
			t.Fatalf("sinktest made an invalid mutation: %v", err)
		}
		body.Body = &walproxyv1.Record_Mutation{Mutation: ms[0]}
	} else {
		g := &walproxyv1.Group{}
		for _, m := range ms {
			g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
		}
		if err := mutation.ValidateGroup(g); err != nil {
			t.Fatalf("sinktest made an invalid group: %v", err)
		}
		body.Body = &walproxyv1.Record_Group{Group: g}
	}
	return sinks.Record{LSN: lsn, Accepted: accepted, Body: body, Bytes: proto.Size(body)}
}

// point is where the log is at lsn.
func (r *rig) point(lsn sinks.LSN) sinks.Point {
	return sinks.Point{Incarnation: r.inc, LSN: lsn}
}

// batch moves a lane from its checkpoint to the last of records, or to the last
// record made if there are none.
func (r *rig) batch(lane int, records ...sinks.Record) *sinks.Batch {
	to := r.last
	if len(records) > 0 {
		to = records[len(records)-1].LSN
	}
	return &sinks.Batch{
		Epoch: r.cp.Epoch, Records: records,
		Moves: []sinks.Move{{Lane: lane, From: r.cp.Lanes[lane], To: r.point(to)}},
	}
}

// call applies without judging the answer, but for what holds of every answer.
func (r *rig) call(b *sinks.Batch) ([]sinks.Result, error) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	return r.callCtx(ctx, b)
}

func (r *rig) callCtx(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	r.t.Helper()
	bodies := make([]proto.Message, len(b.Records))
	for i := range b.Records {
		bodies[i] = proto.Clone(b.Records[i].Body)
	}
	results, err := r.sink.Apply(ctx, b)
	for i := range bodies {
		if !proto.Equal(bodies[i], b.Records[i].Body) {
			r.t.Fatalf("Apply changed the body of LSN %v: it is shared with other sinks", b.Records[i].LSN)
		}
	}
	if err := shape(b, results, err); err != nil {
		r.t.Fatalf("Apply: %v", err)
	}
	return results, err
}

// shape checks what holds of every answer of Apply.
func shape(b *sinks.Batch, results []sinks.Result, err error) error {
	if results == nil && err == nil && len(b.Records) > 0 {
		return fmt.Errorf("no results and no error for %d records; results may be nil only if the error speaks for all of them", len(b.Records))
	}
	if results != nil && len(results) != len(b.Records) {
		return fmt.Errorf("%d results for %d records; there must be one each, in order", len(results), len(b.Records))
	}
	for i, res := range results {
		if res.Outcome != sinks.Applied && res.Err == nil {
			return fmt.Errorf("LSN %v is %v without an error that says why", b.Records[i].LSN, res.Outcome)
		}
	}
	return nil
}

// outcomes is what an answer says of each record.
func outcomes(b *sinks.Batch, results []sinks.Result, err error) []sinks.Outcome {
	if results == nil {
		results = sinks.Results(len(b.Records), sinks.OutcomeOf(err), err)
	}
	list := make([]sinks.Outcome, len(results))
	for i, res := range results {
		list[i] = res.Outcome
	}
	return list
}

// mustApply applies b, which has to work, and moves the loop's checkpoint and
// the model along.
func (r *rig) mustApply(b *sinks.Batch) {
	r.t.Helper()
	r.mustReport(b)
	r.applied(b)
}

// mustReport applies b and wants every record Applied; the model does not move.
func (r *rig) mustReport(b *sinks.Batch) {
	r.t.Helper()
	results, err := r.call(b)
	if err != nil {
		r.t.Fatalf("Apply of %s: %v", describe(b), err)
	}
	for i, res := range results {
		if res.Outcome != sinks.Applied {
			r.t.Fatalf("Apply of %s: LSN %v is %v (%v), want applied", describe(b), b.Records[i].LSN, res.Outcome, res.Err)
		}
	}
}

// applied tells the loop's checkpoint and the model that b is in the store.
func (r *rig) applied(b *sinks.Batch) {
	r.t.Helper()
	for i := range b.Records {
		if err := r.model.apply(&b.Records[i]); err != nil {
			r.t.Fatalf("sinktest: the model rejects LSN %v: %v", b.Records[i].LSN, err)
		}
	}
	r.history = append(r.history, b.Records...)
	if b.Relane {
		r.cp.Lanes = make([]sinks.Point, len(b.Moves))
	}
	for _, m := range b.Moves {
		r.cp.Lanes[m.Lane] = m.To
	}
}

// mustFence wants b refused with sinks.ErrFenced.
func (r *rig) mustFence(b *sinks.Batch, what string) {
	r.t.Helper()
	results, err := r.call(b)
	if !errors.Is(err, sinks.ErrFenced) {
		r.t.Fatalf("Apply of %s, %s: results %v, error %v; want an error that Is sinks.ErrFenced", describe(b), what, results, err)
	}
	if o := sinks.OutcomeOf(err); o != sinks.Halt {
		r.t.Fatalf("the fenced Apply's error has outcome %v, want halt: a fenced owner must not try again", o)
	}
}

func describe(b *sinks.Batch) string {
	s := fmt.Sprintf("batch (epoch %d", b.Epoch)
	if n := len(b.Records); n > 0 {
		s += fmt.Sprintf(", %d records, LSN %v to %v", n, b.Records[0].LSN, b.Records[n-1].LSN)
	}
	for _, m := range b.Moves {
		s += fmt.Sprintf(", lane %d from %v to %v", m.Lane, m.From.LSN, m.To.LSN)
	}
	if b.Relane {
		s += ", relane"
	}
	return s + ")"
}

func (r *rig) reader() sinks.Reader {
	r.t.Helper()
	if r.h.Reader != nil {
		return r.h.Reader(r.sink)
	}
	reader, ok := r.sink.(sinks.Reader)
	if !ok {
		r.t.Fatalf("%T is no sinks.Reader and Harness.Reader is missing: the suite has to see what is in the store", r.sink)
	}
	return reader
}

// check compares everything the model holds or held with the store.
func (r *rig) check() {
	r.t.Helper()
	for _, k := range slices.Sorted(mapKeys(r.model)) {
		r.checkKey(k)
	}
}

// mustStay checks that the store and its checkpoint are still as the model: what
// was refused has changed nothing. It claims the stream again.
func (r *rig) mustStay() {
	r.t.Helper()
	r.resume()
	r.check()
}
