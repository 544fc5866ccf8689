package postgres

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/walproxy/walproxy/replay/looptest"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestLoop is the whole loop above the sink, from seeds: lanes, faults, deaths,
// rejections, retries of dead letters, compared with a model. A seed takes
// seconds here, so there are fewer than for other stores.
func TestLoop(t *testing.T) {
	dsn := suiteDatabase(t)
	h := sinktest.Harness{New: func() (sinktest.Store, error) {
		return newSuiteStore(dsn, Options{AutoCreate: true, Timeouts: hasty()})
	}}
	if os.Getenv("WALPROXY_SEED") != "" {
		looptest.Run(t, h)
		return
	}
	for range times(2, 60) {
		t.Setenv("WALPROXY_SEED", fmt.Sprint(rand.Uint64()>>16))
		looptest.Run(t, h)
	}
}
