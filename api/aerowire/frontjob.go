package aerowire

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// A background query changes every record that it finds and answers before that. The
// cluster's own would change them past the log, and past the locks of their keys: it is
// done here, with a message for each record as if a client had sent it.

const (
	// jobsMax run at once, and as many done ones are remembered.
	jobsMax = 32
	// jobPartitions are scanned at once: what they hold is kept until it is done.
	jobPartitions = 64
	// jobKeysMax records of a job are changed at once.
	jobKeysMax = 8
	// jobAnswer is how long the answer waits for the end: clients that send no id, and
	// cannot ask whether a query is done, take the answer for that.
	jobAnswer = time.Second
)

// jobs of this run of the endpoint, the oldest first.
type jobs struct {
	mu   sync.Mutex
	list []*job
}

// job is one background query.
type job struct {
	id             uint64
	namespace, set string
	client         string
	kind           string // as the server names it
	each           codec.Message
	scan           codec.Message
	every          time.Duration // between two records; 0: none
	there          bool          // a function is called
	started        time.Time
	stop           context.CancelFunc

	succeeded, failed, filtered atomic.Int64
	partitions                  atomic.Int64 // that are done
	ended                       atomic.Int64 // unix milliseconds; 0: it runs
	aborted                     atomic.Bool
}

// udfBackground is the operation of a background query by a function.
const udfBackground = 2

// background reports that a message is a background query.
func background(m *codec.Message) bool {
	op, udf := m.Field(codec.FieldUDFOp)
	if udf {
		return len(op) != 1 || op[0] == udfBackground
	}
	return m.Info2&codec.Info2Write != 0
}

// newJob reads a background query.
func newJob(m *codec.Message, namespace, set string) (*job, error) {
	j := &job{namespace: namespace, set: set, kind: "background-ops", started: time.Now()}
	j.each = codec.Message{Header: codec.Header{Info2: codec.Info2Write | m.Info2&codec.Info2DurableDelete, Info3: codec.Info3UpdateOnly | m.Info3&codec.Info3ReplaceOnly, TTL: m.TTL}, Ops: m.Ops}
	j.scan = codec.Message{Header: codec.Header{Info1: codec.Info1Read | codec.Info1NoBins, Info3: codec.Info3PartitionDone}}
	var call []codec.Field
	id := rand.Uint64()
	for _, f := range m.Fields {
		switch f.Type {
		case codec.FieldUDFPackage, codec.FieldUDFFunction, codec.FieldUDFArguments:
			call = append(call, f)
		case codec.FieldTaskID:
			if len(f.Data) == 8 && binary.BigEndian.Uint64(f.Data) != 0 { // some clients always send 0
				id = binary.BigEndian.Uint64(f.Data)
			}
		case codec.FieldPerSecond:
			if len(f.Data) != 4 {
				return nil, codec.Parameter
			}
			if n := binary.BigEndian.Uint32(f.Data); n > 0 {
				j.every = time.Second / time.Duration(n)
			}
		case codec.FieldFilter:
			j.each.Fields = append(j.each.Fields, f)
			j.scan.Fields = append(j.scan.Fields, f)
		case codec.FieldNamespace, codec.FieldSet, codec.FieldIndexName, codec.FieldIndexRange, codec.FieldIndexType, codec.FieldIndexContext:
			j.scan.Fields = append(j.scan.Fields, f)
		}
	}
	j.id = id
	switch op, udf := m.Field(codec.FieldUDFOp); {
	case m.Info1&codec.Info1ShortQuery != 0, udf && (len(op) != 1 || op[0] != udfBackground || len(call) != 3):
		return nil, codec.Parameter
	case udf:
		j.kind, j.there = "background-udf", true
		j.each.Info3, j.each.Ops = 0, nil
		j.each.Fields = append(j.each.Fields, call...)
	case m.Info1&codec.Info1Read != 0, len(m.Ops) == 0, slices.ContainsFunc(m.Ops, func(op codec.Op) bool { return isRead(op.Type) }):
		return nil, codec.Parameter
	}
	return j, nil
}

// frontJob begins a background query, and answers. What is wrong with it shows in the
// scan of one partition.
func (s *Server) frontJob(ctx context.Context, m *codec.Message, namespace, set, client string) error {
	j, err := newJob(m, namespace, set)
	if err != nil {
		return err
	}
	j.client = strings.ReplaceAll(client, ":", "+")
	if reservedBin(&j.each) {
		return codec.BinName
	}
	first, err := s.findJob(ctx, j, 0, 1)
	if err != nil {
		return err
	}
	run, cancel := context.WithCancel(s.running)
	j.stop = cancel
	if err := s.jobs.add(j); err != nil {
		cancel()
		return err
	}
	s.joined.Go(func() {
		defer cancel()
		s.runJob(run, j, first)
	})
	soon := time.NewTimer(jobAnswer)
	defer soon.Stop()
	select {
	case <-soon.C:
	case <-run.Done():
	case <-ctx.Done():
	}
	return nil
}

// add takes up a job, and forgets the oldest that are done.
func (l *jobs) add(j *job) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var done, run int
	for _, other := range l.list {
		switch {
		case other.ended.Load() != 0:
			done++
		case other.id == j.id:
			return codec.Parameter
		default:
			run++
		}
	}
	if run >= jobsMax {
		return codec.Forbidden // as a server that runs as many queries as it may
	}
	l.list = append(slices.DeleteFunc(l.list, func(other *job) bool {
		old := other.ended.Load() != 0 && done >= jobsMax
		if old {
			done--
		}
		return old
	}), j)
	return nil
}

func (l *jobs) find(id string) *job {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.list {
		if strconv.FormatUint(j.id, 10) == id {
			return j
		}
	}
	return nil
}

// found is a record that a job is to change.
type found struct {
	set    string
	digest [codec.DigestBytes]byte
}

// findJob scans some partitions.
func (s *Server) findJob(ctx context.Context, j *job, from, to int) ([]found, error) {
	var whole []byte
	for id := from; id < to; id++ {
		whole = binary.LittleEndian.AppendUint16(whole, uint16(id))
	}
	m := j.scan
	m.Fields = append(slices.Clip(m.Fields), codec.Field{Type: codec.FieldPartitions, Data: whole},
		codec.Field{Type: codec.FieldTaskID, Data: binary.BigEndian.AppendUint64(nil, rand.Uint64())}) // the server knows the last one still
	var list []found
	result, err := s.o.Store.Scan(ctx, &m, func(r *codec.Message) error {
		digest, ok := r.Field(codec.FieldDigest)
		if !ok || r.Info3&codec.Info3PartitionDone != 0 || len(digest) != codec.DigestBytes {
			return nil
		}
		set, _ := r.Field(codec.FieldSet)
		list = append(list, found{string(set), [codec.DigestBytes]byte(digest)})
		return nil
	})
	switch {
	case err != nil:
		return nil, s.replied(&m, nil, err).Result
	case result != codec.OK:
		return nil, result
	}
	return list, nil
}

// runJob changes what is found, partition by partition; list is of the first.
func (s *Server) runJob(ctx context.Context, j *job, list []found) {
	defer func() { j.ended.Store(time.Now().UnixMilli()) }()
	from, to := 0, 1
	for {
		s.changeAll(ctx, j, list)
		j.partitions.Store(int64(to))
		if ctx.Err() != nil || to == partitions {
			break
		}
		from, to = to, min(to+jobPartitions, partitions)
		var err error
		if list, err = s.findJob(ctx, j, from, to); err != nil {
			j.aborted.Store(true)
			s.log.Warn("a background query has ended early", zap.Uint64("task", j.id), zap.Error(err))
			return
		}
	}
	if ctx.Err() != nil {
		j.aborted.Store(true)
	}
}

// changeAll changes records, some at once.
func (s *Server) changeAll(ctx context.Context, j *job, list []found) {
	var done sync.WaitGroup
	defer done.Wait()
	slots := make(chan struct{}, jobKeysMax)
	pace := time.NewTimer(0)
	defer pace.Stop()
	for _, f := range list {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case <-pace.C:
			pace.Reset(j.every)
		case <-ctx.Done():
			return
		}
		done.Go(func() {
			defer func() { <-slots }()
			s.change(ctx, j, f)
		})
	}
}

// change does a job's message on one record, and counts what became of it.
func (s *Server) change(ctx context.Context, j *job, f found) {
	defer func() {
		if v := recover(); v != nil { // as with a connection
			s.stats.panicked.Add(1)
			j.failed.Add(1)
			s.log.Error("a background query panicked; this is a defect, please report it", zap.Uint64("task", j.id), zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	each := j.each
	o := &operation{Message: &each, namespace: j.namespace, set: f.set, digest: f.digest, there: j.there}
	o.rawFilter, _ = each.Field(codec.FieldFilter)
	a := s.one(ctx, o)
	if err := a.wait(ctx); err != nil {
		j.failed.Add(1)
		return
	}
	switch a.Result {
	case codec.OK:
		j.succeeded.Add(1)
	case codec.NotFound: // it is gone
	case codec.FilteredOut:
		j.filtered.Add(1)
	default:
		j.failed.Add(1)
	}
}

// info is what query-show says of a job.
func (j *job) info() string {
	end, status := time.Now(), "active(ok)"
	var since time.Duration
	if at := j.ended.Load(); at != 0 {
		end, status = time.UnixMilli(at), "done(ok)"
		since = time.Since(end)
	}
	if j.aborted.Load() {
		status = strings.Replace(status, "(ok)", "(user-aborted)", 1)
	}
	set := ""
	if j.set != "" {
		set = ":set=" + j.set
	}
	return fmt.Sprintf("trid=%d:ns=%s%s:rps=0:active-threads=1:status=%s:job-progress=%.2f:run-time=%d:time-since-done=%d:recs-throttled=0:recs-filtered-meta=0:recs-filtered-bins=%d:recs-succeeded=%d:recs-failed=%d:from=%s:job-type=%s",
		j.id, j.namespace, set, status, float64(j.partitions.Load())*100/partitions, max(0, end.Sub(j.started)).Milliseconds(), since.Milliseconds(),
		j.filtered.Load(), j.succeeded.Load(), j.failed.Load(), j.client, j.kind)
}

// show answers query-show.
func (l *jobs) show(id string) string {
	if id != "" {
		if j := l.find(id); j != nil {
			return j.info()
		}
		return infoFail(codec.NotFound, "job not found")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := make([]string, 0, len(l.list))
	for _, j := range l.list {
		lines = append(lines, j.info())
	}
	return strings.Join(lines, ";")
}

// abort answers query-abort; without an id query-abort-all.
func (l *jobs) abort(id string, all bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, j := range l.list {
		if j.ended.Load() == 0 && (all || strconv.FormatUint(j.id, 10) == id) {
			j.stop()
			n++
		}
	}
	switch {
	case all:
		return fmt.Sprintf("number-of-queries-killed:%d", n)
	case id == "":
		return infoFail(codec.Parameter, "missing 'trid'")
	case n == 0:
		return infoFail(codec.NotFound, "trid not active")
	}
	return "ok"
}
