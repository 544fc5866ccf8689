package aerowire_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/aerosuite/transcript"
)

// TestTranscripts: what a real Aerospike server answered is what the endpoint
// answers, but for transcript's rules and the exceptions below. With
// WALPROXY_TEST_AEROSPIKE that server is asked again: its own transcript is no
// exception.
func TestTranscripts(t *testing.T) {
	if realServer == "" { // which has one namespace
		t.Parallel()
	}
	files, err := filepath.Glob("testdata/*.transcript.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		t.Run(name, func(t *testing.T) {
			if realServer == "" {
				t.Parallel()
			}
			tr, err := transcript.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			addr := realServer
			if addr == "" {
				addr = newRig(t).addr
			} else {
				client(t) // which empties it
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			differences, err := tr.Replay(ctx, addr)
			if err != nil {
				t.Fatal(err)
			}
			report(t, tr, differences)
		})
	}
}

// report fails for each difference, and tells the first few of each case.
func report(t *testing.T, tr *transcript.Transcript, differences []transcript.Difference) {
	t.Helper()
	const tell = 12
	told := map[string]int{}
	for _, d := range differences {
		if told[d.Case]++; told[d.Case] <= tell {
			t.Error(d)
		}
	}
	t.Logf("%d answers, %d differ: %v", len(tr.Exchanges), len(differences), told)
}
