package recent

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestTee: warnings are kept, bounded in number and size, and everything is logged as before.
func TestTee(t *testing.T) {
	next, observed := observer.New(zapcore.ErrorLevel)
	log := New(3)
	logger := zap.New(next).WithOptions(zap.WrapCore(log.Tee)).Named("sink").With(zap.String("sink", "main"))
	logger.Info("nothing")
	for n := range 4 {
		logger.Warn("again", zap.Int("n", n))
	}
	logger.Error(strings.Repeat("x", 5000), zap.Error(errors.New("gone")), zap.Duration("took", time.Second))
	if observed.Len() != 1 {
		t.Errorf("%d lines were logged, want the error", observed.Len())
	}
	got := log.Entries()
	if len(got) != 3 || got[0].Level != "error" || got[1].Message != "again" || got[1].Fields["n"] != int64(3) {
		t.Fatalf("%+v", got)
	}
	first := got[0]
	if len(first.Message) > textMax+3 || first.Logger != "sink" || first.Fields["sink"] != "main" ||
		first.Fields["error"] != "gone" || first.Fields["took"] != "1s" {
		t.Errorf("%+v", first)
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
	if (*Log)(nil).Entries() == nil {
		t.Error("no entries are null in JSON")
	}
}
