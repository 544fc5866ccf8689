package crashtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/wal"
)

// TestRepairServer and TestPostgresRepair write while the sink is paused, kill the
// server, damage its log, kill the repair too, and repair: every write that was not
// damaged is in the store then, once, and of the others it is said that they are lost.
func TestRepairServer(t *testing.T) {
	t.Parallel()
	testRepair(t, newServer(t, t.TempDir()))
}

func TestPostgresRepair(t *testing.T) {
	t.Parallel()
	testRepair(t, onPostgres(t, pgtest.Shared(t).Database(t)))
}

func testRepair(t *testing.T, s *server) {
	ctx := timeout(t, 3*time.Minute, 3*time.Minute)
	s.start(ctx)
	acked := map[string]wal.LSN{}
	s.once(ctx, acked, 20)
	must(t, s.client.WaitDrained(ctx))
	s.process.Kill()
	for range 6 { // each start begins a segment
		s.start(ctx, paused)
		s.once(ctx, acked, times(20, 600))
		s.process.Kill()
	}

	log := filepath.Join(s.dir, "log")
	damaged := harmLog(t, log)
	err := s.tryStart(ctx)
	if err == nil || !strings.Contains(err.Error(), "walproxy log repair") {
		t.Fatalf("the start: %v, want a refusal that names the command", err)
	}
	if out, err := s.command(nil, "log", "repair"); err == nil || !strings.Contains(out, "say --yes") {
		t.Fatalf("without --yes: %v\n%s", err, out)
	}
	for _, point := range []string{"repair-staged=1", "repair-set-aside=1", "repair-installed=2"} {
		if out, err := s.command([]string{"WALPROXY_FAILPOINTS=" + point}, "log", "repair", "--yes"); err == nil {
			t.Fatalf("%s did not kill:\n%s", point, out)
		}
	}
	if err := s.tryStart(ctx); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Fatalf("the start amid a repair: %v", err)
	}
	out, err := s.command(nil, "log", "repair", "--yes", "--json")
	var report walproxy.RepairReport
	if err != nil || json.Unmarshal([]byte(out), &report) != nil {
		t.Fatalf("log repair: %v\n%s", err, out)
	}
	lost := func(lsn wal.LSN) bool {
		for _, l := range report.Log.Lost {
			if l.First <= lsn && lsn <= l.Last {
				return true
			}
		}
		return false
	}
	if out, err := s.command(nil, "log", "repair", "--yes"); err != nil || !strings.Contains(out, "nothing to repair") {
		t.Fatalf("a second repair: %v\n%s", err, out)
	}

	s.start(ctx)
	must(t, s.client.WaitDrained(ctx))
	missing := 0
	for key, lsn := range acked {
		n := s.count(ctx, key)
		switch {
		case n == 0 && lost(lsn):
			missing++
		case n != 1:
			t.Errorf("LSN %d, which is lost: %v, is there %d times", lsn, lost(lsn), n)
		case lost(lsn) && lsn > 20:
			t.Errorf("LSN %d is there, and said to be lost", lsn)
		}
		if !damaged[lsn] && lost(lsn) {
			t.Errorf("LSN %d was not damaged, and is lost", lsn)
		}
	}
	if missing == 0 || missing > len(damaged) {
		t.Errorf("%d are missing, %d were damaged", missing, len(damaged))
	}
	before := len(acked)
	s.once(ctx, acked, 20)
	for key, lsn := range acked {
		if len(acked) == before || lsn == 0 {
			t.Fatalf("%s has LSN %d", key, lsn)
		}
	}
	must(t, s.client.WaitDrained(ctx))
	s.stop()
}

// once writes n increments, each of another record, and notes their LSNs.
func (s *server) once(ctx context.Context, acked map[string]wal.LSN, n int) {
	s.Helper()
	for range n {
		key := fmt.Sprintf("k%d", len(acked))
		var answer struct {
			LSN wal.LSN `json:"lsn"`
		}
		if code := s.call(ctx, http.MethodPost, "/v1/things/"+key+":increment", `{"n": 1}`, &answer); code != http.StatusOK {
			s.Fatalf("increment: %d", code)
		}
		for other, lsn := range acked {
			if lsn == answer.LSN {
				s.Fatalf("%s and %s have LSN %d", other, key, lsn)
			}
		}
		acked[key] = answer.LSN
	}
}

// count is how often a record was incremented.
func (s *server) count(ctx context.Context, key string) int {
	s.Helper()
	var answer struct {
		Fields struct {
			N int `json:"n"`
		} `json:"fields"`
	}
	switch code := s.call(ctx, http.MethodGet, "/v1/things/"+key, "", &answer); code {
	case http.StatusOK:
		return answer.Fields.N
	case http.StatusNotFound:
		return 0
	default:
		s.Fatalf("read %s: %d", key, code)
	}
	return 0
}

func (s *server) call(ctx context.Context, method, path, body string, answer any) (code int) {
	s.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.process.Addr("api")+path, strings.NewReader(body))
	must(s.T, err)
	resp, err := http.DefaultClient.Do(req)
	must(s.T, err)
	b, err := io.ReadAll(resp.Body)
	must(s.T, err, resp.Body.Close())
	if resp.StatusCode == http.StatusOK {
		must(s.T, json.NewDecoder(bytes.NewReader(b)).Decode(answer))
	}
	return resp.StatusCode
}

// harmLog flips bits in every ninth record from the third segment on, zeroes the header of a
// segment and removes another. It returns whose bytes it touched.
func harmLog(t *testing.T, log string) map[wal.LSN]bool {
	t.Helper()
	in, err := wal.Inspect(log, wal.InspectOptions{})
	must(t, err)
	damaged := map[wal.LSN]bool{}
	for i, seg := range in.Segments {
		if seg.Seq < 3 {
			continue
		}
		name := filepath.Join(log, seg.Path)
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || len(b) == 0 {
			continue
		}
		must(t, err)
		for f, err := range seg.Frames() {
			must(t, err)
			if i == 3 || f.LSN%9 == 0 {
				damaged[f.LSN] = true
				b[f.End-2] ^= 0x20
			}
		}
		switch i {
		case 2:
			clear(b[:60])
		case 3:
			must(t, os.RemoveAll(filepath.Dir(name)))
			continue
		}
		must(t, os.WriteFile(name, b, 0o644))
	}
	if len(damaged) == 0 || len(in.Segments) < 3 {
		t.Fatalf("%d records damaged in %d segments", len(damaged), len(in.Segments))
	}
	return damaged
}
