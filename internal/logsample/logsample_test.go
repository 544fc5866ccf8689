package logsample

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestFlood: of 1000 like errors 10 and each 100th are written, none goes uncounted, and
// what is unlike them is not touched.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, seen := observer.New(zapcore.InfoLevel)
		s := New(Settings{Every: time.Second, First: 10, Thereafter: 100})
		log := zap.New(s.Wrap(next)).Named("a").With(zap.Int("with", 1))
		for range 1000 {
			log.Error("away")
			log.Debug("below the level")
		}
		log.Named("b").Error("away")
		log.Warn("away")
		log.Error("other")
		written, leftOut := 0, uint64(0)
		for _, e := range seen.FilterMessage("away").AllUntimed() {
			if e.Level == zapcore.ErrorLevel && e.LoggerName == "a" {
				written++
				n, _ := e.ContextMap()[LeftOut].(uint64)
				leftOut += n
			}
		}
		if written != 19 || s.Dropped(zapcore.ErrorLevel) != 981 || s.Dropped(zapcore.DebugLevel) != 0 {
			t.Errorf("%d written, %d dropped, %d debug", written, s.Dropped(zapcore.ErrorLevel), s.Dropped(zapcore.DebugLevel))
		}
		if seen.Len() != 19+3 {
			t.Errorf("%d lines", seen.Len())
		}
		time.Sleep(2 * time.Second) // another span
		log.Error("away")
		last := seen.All()[seen.Len()-1]
		n, _ := last.ContextMap()[LeftOut].(uint64)
		if leftOut += n; leftOut != 981 || last.ContextMap()["with"] != int64(1) {
			t.Errorf("the lines say that %d were left out: %v", leftOut, last)
		}
	})
}

// TestSet: settings change while it runs; 0 writes all.
func TestSet(t *testing.T) {
	next, seen := observer.New(zapcore.DebugLevel)
	s := New(Settings{Every: time.Hour, First: 1})
	log := zap.New(s.Wrap(next))
	for range 5 {
		log.Info("x")
	}
	s.Set(Settings{})
	for range 5 {
		log.Info("x")
	}
	if seen.Len() != 6 || s.Dropped(zapcore.InfoLevel) != 4 || s.Dropped(zapcore.FatalLevel) != 0 {
		t.Errorf("%d written, %d dropped", seen.Len(), s.Dropped(zapcore.InfoLevel))
	}
}
