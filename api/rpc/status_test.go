package rpc_test

import (
	"encoding/json"
	"testing"

	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestMeasuredStatus: whether writes are taken, and what was measured.
func TestMeasuredStatus(t *testing.T) {
	r := newRig(t)
	r.want(r.do("GET", "/v1/status", ""), 200, "accepting", "true", "refusing", "nothing", "log.min_free", "-1")
	hold := make(chan struct{})
	r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(hold), Times: sinktest.Always})
	defer func() { r.sink.Clear(); close(hold) }()
	until(t, "rates and the age of the backlog", func() bool {
		r.want(r.do("PUT", "/v1/orders/1", `{}`), 200)
		var st struct {
			Window float64 `json:"window_seconds"`
			Log    struct {
				Rate float64 `json:"records_per_second"`
			}
			Sinks []struct {
				Known  bool    `json:"rates_known"`
				Added  float64 `json:"records_added_per_second"`
				Level  float64 `json:"level_in_seconds"`
				Oldest uint64  `json:"oldest_lsn"`
				Age    float64 `json:"oldest_seconds"`
			}
		}
		a := r.do("GET", "/v1/status", "")
		if err := json.Unmarshal([]byte(a.raw), &st); err != nil {
			t.Fatal(err)
		}
		s := st.Sinks[0]
		return st.Window >= 2 && st.Log.Rate > 0 && s.Known && s.Added > 0 && s.Level == 0 && s.Oldest == 1 && s.Age > 0
	})
}
