package replay

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// lingering is a lane without a log and a sink, on a clock of the test's own.
type lingering struct {
	*pipeline
	lane  *lane
	costs func(records int) time.Duration // of an Apply
	// What it did:
	began   []time.Time // of each batch
	sizes   []int
	waits   []time.Duration // of each record, until its batch was taken
	arrived []time.Time
	busy    time.Duration
}

func newLingering(o Options, costs func(int) time.Duration) *lingering {
	o.Name = "main"
	o, err := o.withDefaults()
	if err != nil {
		panic(err)
	}
	p := &pipeline{loop: &Loop{o: o}, size: size{o.Batch.Records, o.Batch.Bytes}}
	f := &feed{pipeline: p, room: make(chan struct{}, 1)}
	return &lingering{pipeline: p, costs: costs, lane: &lane{feed: f, wake: make(chan struct{}, 1)}}
}

// arrive queues a record.
func (l *lingering) arrive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.lane.feed
	l.arrived = append(l.arrived, time.Now())
	f.last++
	f.items++
	l.items++
	l.lane.ahead = append(l.lane.ahead, item{Record: sinks.Record{LSN: f.last, Bytes: 100}, previous: f.last - 1})
	f.bytes += 100 + recordOverhead
	l.lane.pushAhead(l.size)
}

// serve is runLane with a sink that does nothing, in its own time.
func (l *lingering) serve(t *testing.T) {
	for {
		to, wait, end := l.next(t.Context(), l.lane)
		if end {
			return
		}
		if to == 0 {
			timer := time.NewTimer(wait)
			select {
			case <-l.lane.wake:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		now := time.Now()
		l.began, l.sizes = append(l.began, now), append(l.sizes, len(l.lane.flight))
		l.mu.Lock()
		for _, it := range l.lane.flight {
			l.waits = append(l.waits, now.Sub(l.arrived[it.LSN-1]))
		}
		l.mu.Unlock()
		took := l.costs(len(l.lane.flight))
		l.busy += took
		time.Sleep(took)
		l.mu.Lock()
		l.flying--
		l.lane.feed.finishLocked(l.lane)
		l.mu.Unlock()
	}
}

// over feeds a lane with records that are gap() apart, and returns what it did.
func over(t *testing.T, o Options, records int, gap func() time.Duration, costs func(int) time.Duration) *lingering {
	l := newLingering(o, costs)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.serve(t)
	}()
	for range records {
		l.arrive()
		time.Sleep(gap())
	}
	l.lane.feed.drain()
	<-done
	return l
}

// TestLingerFollowsLoad: a record that comes now and then is applied at once; with a
// load the batches are as large as it takes for what each costs by itself not to count,
// and no record waits for longer than Linger.
func TestLingerFollowsLoad(t *testing.T) {
	const fixed, each = time.Millisecond, 20 * time.Microsecond
	costs := func(n int) time.Duration { return fixed + time.Duration(n)*each }
	var o Options
	o.Batch.Linger, o.Batch.Records = 200*time.Millisecond, 10_000
	for _, test := range []struct {
		name        string
		records     int
		gap         time.Duration
		atOnce      bool
		least, most int // records of a batch, in the middle
	}{
		{"now and then", 100, 50 * time.Millisecond, true, 1, 1},
		{"some", 2000, 5 * time.Millisecond, false, 4, 12},
		{"many", 40_000, 100 * time.Microsecond, false, 1000, 2400},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := over(t, o, test.records, func() time.Duration { return test.gap }, costs)
				if longest := slices.Max(l.waits); longest > o.Batch.Linger+costs(l.sizes[len(l.sizes)/2]) || test.atOnce && longest > 0 {
					t.Errorf("a record waited for %v", longest)
				}
				if n := middleOf(l.sizes); n < test.least || n > test.most {
					t.Errorf("batches of %d records, want %d to %d", n, test.least, test.most)
				}
			})
		})
	}
}

func middleOf(list []int) int { return slices.Sorted(slices.Values(list))[len(list)/2] }

// TestLingerProperty: whatever the load and the store, a record is not taken later than
// Linger after it could have been, nor later than Rest allows; and between two batches
// that are neither full nor so late there is that rest.
func TestLingerProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var o Options
		o.Batch.Linger = time.Duration(rapid.IntRange(1, 300).Draw(rt, "linger ms")) * time.Millisecond
		o.Batch.Rest = rapid.SampledFrom([]float64{-1, 0.5, 4, 32}).Draw(rt, "rest")
		o.Batch.Records = rapid.SampledFrom([]int{3, 50, 10_000}).Draw(rt, "records")
		seed := rapid.Uint64().Draw(rt, "seed")
		gap := rapid.IntRange(0, 50_000).Draw(rt, "gap us")
		cost := rapid.IntRange(0, 20_000).Draw(rt, "cost us")
		synctest.Test(t, func(t *testing.T) {
			random, randomCost := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
			var costs []time.Duration
			l := over(t, o, 200, func() time.Duration {
				if random.IntN(20) == 0 {
					return time.Second
				}
				return time.Duration(random.IntN(gap+1)) * time.Microsecond
			}, func(n int) time.Duration {
				took := time.Duration(randomCost.IntN(cost+1))*time.Microsecond + time.Duration(n)*time.Microsecond
				costs = append(costs, took)
				return took
			})
			if err := l.check(o, costs); err != "" {
				rt.Error(err)
			}
		})
	})
}

// check says what is wrong with what the lane did.
func (l *lingering) check(o Options, costs []time.Duration) string {
	first := wal.LSN(0)
	landed := time.Time{}
	rest := time.Duration(0)
	for i, began := range l.began {
		could := l.arrived[first] // when the batch's first could have been taken
		if i > 0 && could.Before(l.began[i-1]) {
			could = l.began[i-1]
		}
		free := landed // ... the lane being at another one
		if could.After(free) {
			free = could
		}
		latest := could.Add(o.Batch.Linger)
		if rested := landed.Add(rest); o.Batch.Rest >= 0 && rested.Before(latest) {
			latest = rested
		}
		if latest.Before(free) {
			latest = free
		}
		last := i == len(l.began)-1 // the end cuts it short
		full := l.sizes[i] >= o.Batch.Records
		switch {
		case began.After(latest):
			return "a batch was taken " + began.Sub(latest).String() + " late"
		case began.Before(latest) && !full && !last:
			return "a batch was taken " + latest.Sub(began).String() + " early"
		}
		first += wal.LSN(l.sizes[i])
		landed = began.Add(costs[i])
		rest = min(time.Duration(o.Batch.Rest*float64(costs[i])), o.Batch.Linger)
	}
	if int(first) != len(l.arrived) {
		return "records were left"
	}
	return ""
}
