package rpc

import (
	"net/http"

	"github.com/walproxy/walproxy"
)

// status is the answer of GET /v1/status.
type status struct {
	Stream     string       `json:"stream"`
	Log        logStatus    `json:"log"`
	StateBytes int64        `json:"state_bytes"`
	Sinks      []sinkStatus `json:"sinks"`
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
	Error     string       `json:"error,omitempty"`
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
		Stream: st.Stream, StateBytes: st.StateBytes,
		Log: logStatus{
			Appended: st.Log.Appended, Durable: st.Log.Durable, First: st.Log.First,
			Bytes: st.Log.Bytes, FreeBytes: st.Log.FreeBytes, Segments: st.Log.Segments,
			Syncs: st.Log.Syncs, Groups: st.Log.Groups, Records: st.Log.Records,
			Error: errorText(st.Log.Err),
		},
	}
	for i := range st.Sinks {
		out.Sinks = append(out.Sinks, newSinkStatus(&st.Sinks[i]))
	}
	return out
}

func newSinkStatus(sink *walproxy.SinkStatus) sinkStatus {
	return sinkStatus{
		Name: sink.Name, State: string(sink.State), Error: errorText(sink.Err), Paused: sink.Paused,
		Epoch: sink.Epoch, Applied: sink.Applied, Checkpoint: sink.Checkpoint,
		Lag: sink.Lag, LagBytes: sink.LagBytes, MaxLagBytes: sink.MaxLagBytes,
		Lanes: sink.Lanes, Records: sink.Records, Batches: sink.Batches, Retries: sink.Retries,
		DeadLetters: sink.DeadLetters, ParkedKeys: sink.ParkedKeys,
		HeldRecords: sink.HeldRecords, HeldBytes: sink.HeldBytes, LostRecords: sink.LostRecords,
		Owner: sink.Store.Owner, LaneGroups: sink.Store.LaneGroups, Warnings: sink.Store.Warnings,
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
