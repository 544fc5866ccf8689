package walproxy

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/tally"
	"github.com/walproxy/walproxy/wal"
)

// Rates are measured: the difference of two looks at the counters, over the time that
// was between them.
const (
	measureInterval = time.Second
	// measureWindow is what a rate is measured over, as soon as there is that much.
	measureWindow = time.Minute
	// measureWindowMin is how long it takes until there are rates at all.
	measureWindowMin = 2 * time.Second
	// ageInterval is how often the oldest record of a sink is looked for.
	ageInterval = 5 * time.Second
	// quarantineInterval is how often the quarantine is measured.
	quarantineInterval = 30 * time.Second
)

// measured is one look at the counters.
type measured struct {
	at             time.Time
	records, bytes uint64 // made durable since Open
	used           int64  // by log and state store
	timings        wal.Timings
	sinks          []measuredSink
}

type measuredSink struct {
	turn     uint64
	exact    bool // lag is no upper bound
	added    uint64
	lag      uint64
	lagBytes int64
	applied  uint64 // records
}

// measures are the looks of the window, the oldest first.
type measures struct {
	mu struct {
		sync.Mutex
		looks      []measured
		oldest     []oldestRecord // by sink
		quarantine int64
	}
}

// oldestRecord of those that a sink has not passed.
type oldestRecord struct {
	lsn      LSN
	accepted time.Time // zero: not known
}

// look reads the counters.
func (p *Proxy) look(now time.Time) measured {
	stats := p.log.Stats()
	m := measured{at: now, records: stats.Records, bytes: stats.PayloadBytes, used: stats.Bytes + p.state.Bytes(), timings: p.log.Timings()}
	for _, s := range p.sinks {
		one := measuredSink{turn: s.turn(), added: s.added.records.Load(), applied: s.status().Records}
		one.lag, one.lagBytes, one.exact = p.lagOf(s)
		m.sinks = append(m.sinks, one)
	}
	return m
}

// measure looks every second until ctx ends.
func (p *Proxy) measure(ctx context.Context) {
	ticker := time.NewTicker(measureInterval)
	defer ticker.Stop()
	var ages, quarantine time.Time
	for {
		now := time.Now()
		p.measures.add(p.look(now))
		if now.Sub(ages) >= ageInterval {
			p.measureAges(ctx)
			ages = now
		}
		if now.Sub(quarantine) >= quarantineInterval {
			bytes := bytesUnder(filepath.Join(p.options.logDir(), "quarantine"))
			p.measures.mu.Lock()
			p.measures.mu.quarantine = bytes
			p.measures.mu.Unlock()
			quarantine = now
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// add keeps a look, and those of the window before it.
func (m *measures) add(look measured) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.looks = append(m.mu.looks, look)
	for len(m.mu.looks) > 2 && look.at.Sub(m.mu.looks[1].at) >= measureWindow {
		m.mu.looks = m.mu.looks[1:]
	}
}

// measureAges looks for the oldest record that each sink has not passed. A failure
// leaves the age unknown: the loop meets the same one, and says so.
func (p *Proxy) measureAges(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, measureInterval)
	defer cancel()
	found := make([]oldestRecord, len(p.sinks))
	for i, s := range p.sinks {
		if records, _, _ := p.lagOf(s); records == 0 {
			continue
		}
		a := s.attempt.Load()
		after := a.loop.Applied()
		if !a.lag.lost(after) {
			after = max(after, a.lag.start)
		}
		lsn, accepted, ok, err := a.loop.Oldest(ctx, after, p.log.Durable())
		if err != nil {
			p.logger.Debug("the oldest record of a sink is not known", zap.String("sink", s.name), zap.Error(err))
		}
		if ok {
			found[i] = oldestRecord{lsn, accepted}
		}
	}
	p.measures.mu.Lock()
	defer p.measures.mu.Unlock()
	p.measures.mu.oldest = found
}

// bytesUnder is the size of the files under dir; 0 if there is none.
func bytesUnder(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fs.SkipDir
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

// Rates of what is logged.
type Rates struct {
	// Window that they were measured over, up to now; 0: not yet.
	Window time.Duration
	// Records and Bytes of writes per second.
	Records, Bytes float64
	// Growth of log and state store on disk, bytes per second; negative: they shrink.
	Growth float64
	// FullIn is how long it takes until writes are refused for want of room, at this
	// growth; 0: they grow too slowly to say, or not at all.
	FullIn time.Duration
	// Ack is how long records waited until they were durable, from when they were
	// queued; Sync is how long fsyncs took.
	Ack, Sync Quantiles
}

// Quantiles of what took a while: half of it took no longer than Median, 99 of 100 no
// longer than P99. Zero: there was none.
type Quantiles struct {
	Median, P99 time.Duration
}

func quantiles(then, now *tally.Histogram) Quantiles {
	h := now.Since(then)
	return Quantiles{Median: time.Duration(h.Quantile(0.5)), P99: time.Duration(h.Quantile(0.99))}
}

// SinkRates are those of one sink.
type SinkRates struct {
	// Added and Passed are records per second: those routed to it, and those that it
	// applied or made dead letters of.
	Added, Passed float64
	// Bytes by which its lag shrinks per second; negative: it grows.
	Bytes float64
	// LevelIn is how long it takes until the sink has everything, at these rates; 0: it
	// has, or it gets no closer.
	LevelIn time.Duration
	// Known: the sink's lag was counted all the time. Else only Passed is, of what was
	// applied.
	Known bool
}

// fullInMax is the longest time that is worth saying.
const fullInMax = 365 * 24 * time.Hour

// rates fills in what was measured, up to now.
func (p *Proxy) rates(st *Status) {
	p.measures.mu.Lock()
	defer p.measures.mu.Unlock()
	st.QuarantineBytes = p.measures.mu.quarantine
	for i, o := range p.measures.mu.oldest {
		if st.Sinks[i].Lag > 0 && o.lsn > st.Sinks[i].Applied { // else it was applied since
			st.Sinks[i].OldestLSN, st.Sinks[i].Oldest = o.lsn, o.accepted
		}
	}
	if len(p.measures.mu.looks) == 0 {
		return
	}
	then, now := p.measures.mu.looks[0], p.look(time.Now())
	took := now.at.Sub(then.at)
	if took < measureWindowMin {
		return
	}
	seconds := took.Seconds()
	st.Rates = Rates{
		Window:  took,
		Records: float64(now.records-then.records) / seconds,
		Bytes:   float64(now.bytes-then.bytes) / seconds,
		Growth:  float64(now.used-then.used) / seconds,
		Ack:     quantiles(&then.timings.Ack, &now.timings.Ack),
		Sync:    quantiles(&then.timings.Sync, &now.timings.Sync),
	}
	room := st.MaxBytes - now.used
	if st.MinFree >= 0 {
		room = min(room, st.Log.FreeBytes-st.MinFree)
	}
	st.Rates.FullIn = after(float64(max(room, 0)), st.Rates.Growth)
	for i := range now.sinks {
		st.Sinks[i].Rates = sinkRates(then.sinks[i], now.sinks[i], seconds)
	}
}

func sinkRates(then, now measuredSink, seconds float64) (r SinkRates) {
	r.Passed = max(float64(now.applied)-float64(then.applied), 0) / seconds
	if then.turn != now.turn || !then.exact || !now.exact {
		return r
	}
	r.Known = true
	added := float64(now.added - then.added)
	shrunk := float64(then.lag) - float64(now.lag)
	r.Added, r.Passed = added/seconds, max(added+shrunk, 0)/seconds
	r.Bytes = float64(then.lagBytes-now.lagBytes) / seconds
	r.LevelIn = after(float64(now.lag), shrunk/seconds)
	return r
}

// after is how long so much lasts at a rate per second; 0: for ever, or too long to say.
func after(amount, perSecond float64) time.Duration {
	if amount <= 0 || perSecond <= 0 {
		return 0
	}
	if seconds := amount / perSecond; seconds < fullInMax.Seconds() {
		return max(time.Duration(seconds*float64(time.Second)), 1)
	}
	return 0
}
