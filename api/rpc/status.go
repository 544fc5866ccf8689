package rpc

import (
	"math"
	"net/http"
	"time"

	"github.com/walproxy/walproxy"
)

// status is the answer of GET /v1/status.
type status struct {
	Stream string `json:"stream"`
	// Accepting: writes are taken, as far as log and proxy are concerned; else Refusing
	// says why not.
	Accepting bool   `json:"accepting"`
	Refusing  string `json:"refusing,omitempty"`
	Draining  bool   `json:"draining,omitempty"`
	// WindowSeconds is what the rates are measured over; 0: there are none yet.
	WindowSeconds float64      `json:"window_seconds"`
	Log           logStatus    `json:"log"`
	StateBytes    int64        `json:"state_bytes"`
	Sinks         []sinkStatus `json:"sinks"`
}

type logStatus struct {
	Appended  walproxy.LSN `json:"appended"`
	Durable   walproxy.LSN `json:"durable"`
	First     walproxy.LSN `json:"first"`
	Bytes     int64        `json:"bytes"`
	FreeBytes int64        `json:"free_bytes"`
	Segments  int          `json:"segments"`
	Syncs     uint64       `json:"syncs"`
	Groups    uint64       `json:"groups"`
	Records   uint64       `json:"records"`
	// Bounds: of log and state store together, and of free space; -1: none.
	MaxBytes int64 `json:"max_bytes"`
	MinFree  int64 `json:"min_free"`
	// Set aside by starts and repairs; they count for no bound.
	QuarantineBytes int64 `json:"quarantine_bytes,omitempty"`
	// Writes per second, and bytes by which log and state store grow.
	RecordsRate float64 `json:"records_per_second"`
	BytesRate   float64 `json:"bytes_per_second"`
	GrowthRate  float64 `json:"growth_bytes_per_second"`
	// Seconds from when a record was queued until it was durable, and of an fsync: half of
	// them, and 99 of 100, took no longer.
	AckMedian  float64 `json:"ack_seconds_median,omitempty"`
	AckP99     float64 `json:"ack_seconds_p99,omitempty"`
	SyncMedian float64 `json:"sync_seconds_median,omitempty"`
	SyncP99    float64 `json:"sync_seconds_p99,omitempty"`
	// Seconds until writes are refused for want of room, at this growth.
	FullSeconds float64 `json:"full_in_seconds,omitempty"`
	Error       string  `json:"error,omitempty"`
}

type sinkStatus struct {
	Name       string       `json:"name"`
	State      string       `json:"state"`
	Error      string       `json:"error,omitempty"`
	Paused     bool         `json:"paused,omitempty"`
	Epoch      uint64       `json:"epoch"`
	Applied    walproxy.LSN `json:"applied"`
	Checkpoint walproxy.LSN `json:"checkpoint"`
	// Records routed to the sink and not passed by it, their bytes in the log, and
	// the bound of those.
	Lag         uint64 `json:"lag"`
	LagBytes    int64  `json:"lag_bytes"`
	LagAtMost   bool   `json:"lag_at_most,omitempty"` // both are upper bounds for now
	MaxLagBytes int64  `json:"max_lag_bytes,omitempty"`

	Lanes   []walproxy.LSN `json:"lanes"`
	Records uint64         `json:"records"`
	Batches uint64         `json:"batches"`
	Retries uint64         `json:"retries"`
	// Dead letters, parked ones included, and the keys that they park.
	DeadLetters uint64 `json:"dead_letters"`
	ParkedKeys  int    `json:"parked_keys"`
	// Records copied out of the log because the sink is far behind.
	HeldRecords uint64 `json:"held_records,omitempty"`
	HeldBytes   uint64 `json:"held_bytes,omitempty"`
	// LSNs that a repair of the log gave up and the sink has passed.
	LostRecords uint64 `json:"lost_records,omitempty"`
	// LSNs that are applied and that a restart of the store could still take back.
	Unsettled uint64 `json:"unsettled,omitempty"`
	// Records per second that were routed to the sink, and that it has passed; bytes by
	// which its lag shrinks; seconds until it is level at that. RatesKnown: the lag was
	// counted all the time; else only records_passed_per_second is known.
	RatesKnown   bool    `json:"rates_known"`
	AddedRate    float64 `json:"records_added_per_second"`
	PassedRate   float64 `json:"records_passed_per_second"`
	LagRate      float64 `json:"lag_shrinks_bytes_per_second"`
	LevelSeconds float64 `json:"level_in_seconds,omitempty"`
	// The first record that the sink has not passed, and how long ago it was accepted.
	OldestLSN     walproxy.LSN `json:"oldest_lsn,omitempty"`
	OldestSeconds float64      `json:"oldest_seconds,omitempty"`

	DeadLetterBytes uint64 `json:"dead_letter_bytes"`
	// What the store says: who owns the stream there, and which of its tables share
	// lanes, by lane group.
	Owner      string              `json:"owner,omitempty"`
	LaneGroups map[string][]string `json:"lane_groups,omitempty"`
	// What somebody should look at in the store.
	Warnings []string `json:"warnings,omitempty"`
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request, _ target) *Error {
	if q := parseQuery(r); q.failed != nil {
		return q.failed
	}
	return reply(w, newStatus(s.core.Status()))
}

func newStatus(st walproxy.Status) status {
	out := status{
		Stream: st.Stream, Draining: st.Draining, StateBytes: st.StateBytes, Accepting: st.Refusing == "", Refusing: st.Refusing,
		WindowSeconds: tenths(st.Rates.Window.Seconds()),
		Log: logStatus{
			Appended: st.Log.Appended, Durable: st.Log.Durable, First: st.Log.First,
			Bytes: st.Log.Bytes, FreeBytes: st.Log.FreeBytes, Segments: st.Log.Segments,
			Syncs: st.Log.Syncs, Groups: st.Log.Groups, Records: st.Log.Records,
			Error: errorText(st.Log.Err), MaxBytes: st.MaxBytes, MinFree: st.MinFree, QuarantineBytes: st.QuarantineBytes,
			RecordsRate: tenths(st.Rates.Records), BytesRate: tenths(st.Rates.Bytes), GrowthRate: tenths(st.Rates.Growth),
			FullSeconds: tenths(st.Rates.FullIn.Seconds()),
			AckMedian:   micros(st.Rates.Ack.Median), AckP99: micros(st.Rates.Ack.P99),
			SyncMedian: micros(st.Rates.Sync.Median), SyncP99: micros(st.Rates.Sync.P99),
		},
	}
	for i := range st.Sinks {
		out.Sinks = append(out.Sinks, newSinkStatus(&st.Sinks[i]))
	}
	return out
}

func newSinkStatus(sink *walproxy.SinkStatus) sinkStatus {
	out := sinkStatus{
		Name: sink.Name, State: string(sink.State), Error: errorText(sink.Err), Paused: sink.Paused,
		Epoch: sink.Epoch, Applied: sink.Applied, Checkpoint: sink.Checkpoint,
		Lag: sink.Lag, LagBytes: sink.LagBytes, LagAtMost: sink.LagAtMost, MaxLagBytes: sink.MaxLagBytes,
		Lanes: sink.Lanes, Records: sink.Records, Batches: sink.Batches, Retries: sink.Retries,
		DeadLetters: sink.DeadLetters, ParkedKeys: sink.ParkedKeys,
		HeldRecords: sink.HeldRecords, HeldBytes: sink.HeldBytes, LostRecords: sink.LostRecords, Unsettled: sink.Unsettled,
		Owner: sink.Store.Owner, LaneGroups: sink.Store.LaneGroups, Warnings: sink.Store.Warnings,

		RatesKnown: sink.Rates.Known, AddedRate: tenths(sink.Rates.Added), PassedRate: tenths(sink.Rates.Passed),
		LagRate: tenths(sink.Rates.Bytes), LevelSeconds: tenths(sink.Rates.LevelIn.Seconds()),
		DeadLetterBytes: sink.DeadLetterBytes,
	}
	if !sink.Oldest.IsZero() {
		out.OldestLSN = sink.OldestLSN
		out.OldestSeconds = max(tenths(time.Since(sink.Oldest).Seconds()), 0.1)
	}
	return out
}

// tenths rounds to what is worth showing.
func tenths(n float64) float64 { return math.Round(10*n) / 10 }

// micros is d in seconds, to the microsecond.
func micros(d time.Duration) float64 { return d.Round(time.Microsecond).Seconds() }

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
