package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

// scrape is what /metrics says: by series, as `name{label="value"}`.
type scrape map[string]float64

var seriesLine = regexp.MustCompile(`^(walproxy_[a-z_]+(?:\{[^}]*\})?) (\S+)$`)

func scrapeOf(base string) (scrape, error) {
	answer, err := http.Get(base + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	s := scrape{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if m := seriesLine.FindStringSubmatch(lines.Text()); m != nil {
			if s[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// sum of all series of a name, with every label given as `label="value"`.
func (s scrape) sum(name string, labels ...string) (total float64) {
series:
	for series, value := range s {
		if of, _, _ := strings.Cut(series, "{"); of != name {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue series
			}
		}
		total += value
	}
	return total
}

// tallies are what the clients got.
type tallies struct {
	mu       sync.Mutex
	requests map[[2]string]int // by method and status
	items    map[string]int    // of POST /v1/mutations, by code
	sent     int               // writes that may have a record, counted before they are sent
	acked    int               // writes that were acknowledged and have a record of their own
	rejected int               // of them, those that the sink cannot apply
}

func (c *tallies) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// do sends a request that makes at most so many records.
func (c *tallies) do(client *http.Client, method, url, body string, records int, header ...string) (status int, answer []byte, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c.note(func() { c.sent += records })
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	c.note(func() { c.requests[[2]string{method, strconv.Itoa(resp.StatusCode)}]++ })
	return resp.StatusCode, answer, err
}

// expect is do of a request with one answer that is right.
func (c *tallies) expect(want int, client *http.Client, method, url, body string, records int, header ...string) error {
	status, answer, err := c.do(client, method, url, body, records, header...)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s: got %d, want %d: %s", method, url, status, want, answer)
	}
	if err == nil {
		c.note(func() { c.acked += records })
	}
	return err
}

// work is what one client does: writes of each kind, repeats, conflicts, reads, and one
// write that the sink cannot apply.
func (c *tallies) work(client *http.Client, base string, n, rounds int) error {
	record := fmt.Sprintf("%s/v1/orders/%d", base, n)
	for round := range rounds {
		key := fmt.Sprintf("%s-%d", record, round)
		lines := fmt.Sprintf(`{"collection":"things","key":"%[1]d-%[2]d","set":{"a":1}}
{"collection":"things","key":"%[1]d-%[2]d","set":{"a":2},"if_absent":true}
{"collection":"things","key":"%[1]d-%[2]d","increment":{"a":1}}
`, n, round)
		if err := errors.Join(
			c.expect(200, client, "PUT", key, `{"total": "text"}`, 1, "Idempotency-Key", key),
			c.expect(200, client, "PUT", key, `{"total": "text"}`, 0, "Idempotency-Key", key), // the first one's answer
			c.expect(412, client, "PUT", key, `{"total": 1}`, 0, "If-None-Match", "*"),
			c.expect(200, client, "GET", key, "", 0),
			c.expect(404, client, "GET", key+"-none", "", 0),
			c.expect(400, client, "PUT", key, `{`, 0),
			c.batch(client, base, lines, 2),
		); err != nil {
			return err
		}
	}
	if err := c.expect(200, client, "PUT", record, `{"total": "text"}`, 1); err != nil {
		return err
	}
	c.note(func() { c.rejected++ })
	return c.expect(200, client, "POST", record+":increment", `{"total": 1}`, 1)
}

// batch sends lines of which so many make a record.
func (c *tallies) batch(client *http.Client, base, lines string, records int) error {
	status, answer, err := c.do(client, "POST", base+"/v1/mutations", lines, records, "Content-Type", "application/x-ndjson")
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("%d %s %w", status, answer, err)
	}
	for line := range strings.Lines(string(answer)) {
		var item struct {
			LSN   uint64
			Error struct{ Code string }
		}
		if err := json.Unmarshal([]byte(line), &item); err != nil {
			return err
		}
		c.note(func() {
			if item.LSN > 0 {
				c.items["ok"]++
				c.acked++
			} else {
				c.items[item.Error.Code]++
			}
		})
	}
	return nil
}

// TestMetricsTruth: every metric of docs/metrics.md is compared with the truth by one of
// its parts: what clients got, what is in files, what a store says, or within what that
// allows.
func TestMetricsTruth(t *testing.T) {
	t.Parallel()
	parts := map[string]func(*testing.T, *judge){"log and API": logMetrics, "sessions": sessionMetrics, "pool": poolMetrics,
		"postgres": postgresMetrics, "aerospike": aerospikeMetrics, "aerowire": aerowireMetrics, "tracing": tracingMetrics}
	j := &judge{compared: map[string]bool{}}
	var ran atomic.Int64
	t.Run("part", func(t *testing.T) {
		for name, part := range parts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ran.Add(1)
				part(t, j)
			})
		}
	})
	if t.Failed() || int(ran.Load()) < len(parts) {
		return
	}
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("(?m)^\\| `(walproxy_[a-z_]+)` ").FindAllStringSubmatch(string(text), -1)
	if len(documented) < 80 {
		t.Errorf("only %d metrics found in docs/metrics.md: the pattern does not fit any more", len(documented))
	}
	for _, m := range documented {
		if !j.compared[m[1]] {
			t.Errorf("nothing compares %s with the truth", m[1])
		}
	}
}

// judge compares metrics with what they should say, and remembers which. Calls may be
// concurrent.
type judge struct {
	mu       sync.Mutex
	compared map[string]bool // names in docs/metrics.md
}

// within wants the sum of the series of a name that have the labels between two numbers.
func (j *judge) within(t *testing.T, s scrape, low, high float64, name string, labels ...string) {
	t.Helper()
	j.mu.Lock()
	j.compared[regexp.MustCompile(`_(sum|count|bucket)$`).ReplaceAllString(name, "")] = true
	j.mu.Unlock()
	if got := s.sum(name, labels...); !(got >= low && got <= high) {
		t.Errorf("%s%q is %v, the truth is %v to %v", name, labels, got, low, high)
	}
}

// same wants one number.
func (j *judge) same(t *testing.T, s scrape, want int, name string, labels ...string) {
	t.Helper()
	j.within(t, s, float64(want), float64(want), name, labels...)
}

// awaitSum scrapes until a sum is what it should be, and returns the scrape, whatever became of it.
func awaitSum(t *testing.T, admin string, want int, name string, labels ...string) (s scrape) {
	t.Helper()
	for deadline := time.Now().Add(150 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if s, err = scrapeOf(admin); err != nil {
			t.Fatal(err)
		}
		if s.sum(name, labels...) == float64(want) || time.Now().After(deadline) {
			return s
		}
	}
}

// setAside is what an earlier start has set aside, in bytes.
const setAside = 1234

// logMetrics scrapes while clients write and read, and when they have ended.
func logMetrics(t *testing.T, j *judge) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "log", "quarantine"), 0o700),
		os.WriteFile(filepath.Join(dir, "log", "quarantine", "tail"), make([]byte, setAside), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("", nil, []string{"WALPROXY_DATA_DIR=" + dir, "WALPROXY_LOG__MIN_FREE=-1",
		"WALPROXY_API__LISTEN=127.0.0.1:0", "WALPROXY_ADMIN__LISTEN=127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait() // behind the close, which ends them
	closed := false
	defer func() {
		if !closed {
			_ = i.close()
		}
	}()
	const writers, rounds = 8, 15
	base, admin := urlOf(i.apiListener, false), urlOf(i.adminListener, false)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	got := &tallies{requests: map[[2]string]int{}, items: map[string]int{}}
	for n := range writers {
		running.Go(func() {
			if err := got.work(client, base, n, rounds); err != nil {
				t.Error(err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	scrapes := underLoad(t, admin, got, ended)
	if t.Failed() {
		return
	}
	last := settledScrape(t, admin, got)
	got.check(t, last, j)
	standing(t, last, j, dir, got)
	last = held(t, admin, base, j, got)
	t.Logf("%d scrapes under load, %d records, %v", scrapes, got.acked, got.items)

	closed = true
	if err := i.close(); err != nil {
		t.Fatal(err)
	}
	records, bytes := logged(t, filepath.Join(dir, "log"))
	j.same(t, last, records, "walproxy_log_records_total")
	j.same(t, last, bytes, "walproxy_log_payload_bytes_total")
}

// underLoad scrapes until the clients have ended: never less than was acknowledged before
// the scrape, never more than was sent before its end, and no counter goes back.
func underLoad(t *testing.T, admin string, got *tallies, ended <-chan struct{}) (scrapes int) {
	t.Helper()
	before := scrape{}
	for {
		select {
		case <-ended:
			return scrapes
		default:
		}
		var acked, sent int
		got.note(func() { acked = got.acked })
		now, err := scrapeOf(admin)
		if err != nil {
			t.Fatal(err)
		}
		got.note(func() { sent = got.sent })
		records := now.sum("walproxy_log_records_total")
		if records < float64(acked) || records > float64(sent) {
			t.Errorf("%v records are durable; %d were acknowledged before the scrape, %d sent at its end", records, acked, sent)
		}
		if applied := now.sum("walproxy_sink_applied_lsn"); applied > now.sum("walproxy_log_durable_lsn") {
			t.Errorf("applied is %v, durable %v", applied, now.sum("walproxy_log_durable_lsn"))
		}
		for series, value := range before {
			if name, _, _ := strings.Cut(series, "{"); strings.HasSuffix(name, "_total") && now[series] < value {
				t.Errorf("%s went from %v to %v", series, value, now[series])
			}
		}
		before = now
		scrapes++
	}
}

// settledScrape is the one when everything is applied and every answer counted.
func settledScrape(t *testing.T, admin string, got *tallies) scrape {
	t.Helper()
	requests := 0
	for _, n := range got.requests {
		requests += n
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s, err := scrapeOf(admin)
		if err != nil {
			t.Fatal(err)
		}
		if s.sum("walproxy_sink_applied_lsn") == s.sum("walproxy_log_durable_lsn") && s.sum("walproxy_sink_checkpoint_lsn") == s.sum("walproxy_log_durable_lsn") &&
			s.sum("walproxy_http_requests_total") >= float64(requests) || time.Now().After(deadline) {
			return s
		}
	}
}

// check compares each counter with what the clients got.
func (c *tallies) check(t *testing.T, s scrape, j *judge) {
	t.Helper()
	same := func(want int, name string, labels ...string) {
		t.Helper()
		j.same(t, s, want, name, labels...)
	}
	for _, name := range []string{"walproxy_log_records_total", "walproxy_log_appended_lsn", "walproxy_log_durable_lsn", "walproxy_ack_seconds_count",
		"walproxy_log_group_records_sum", "walproxy_sink_applied_lsn", "walproxy_sink_checkpoint_lsn"} {
		same(c.acked, name)
	}
	for _, name := range []string{"walproxy_sink_dead_letters_made_total", "walproxy_sink_dead_letters", "walproxy_sink_parked_keys"} {
		same(c.rejected, name)
	}
	same(c.acked-c.rejected, "walproxy_sink_records_total", `sink="main"`)
	for _, name := range []string{"walproxy_sink_retries_total", "walproxy_logging_dropped_total", "walproxy_sink_lag_records", "walproxy_sink_lag_bytes",
		"walproxy_sink_queue_bytes", "walproxy_sink_oldest_seconds", "walproxy_http_requests_in_flight", "walproxy_http_cut_total"} { // of the last rpc.TestCutAnswer has some
		same(0, name)
	}
	requests := 0
	for key, n := range c.requests {
		requests += n
		same(n, "walproxy_http_requests_total", fmt.Sprintf("method=%q", key[0]), fmt.Sprintf("status=%q", key[1]))
	}
	same(requests, "walproxy_http_requests_total")
	same(requests, "walproxy_http_request_seconds_count")
	items := 0
	for code, n := range c.items {
		items += n
		same(n, "walproxy_http_mutations_total", fmt.Sprintf("code=%q", code))
	}
	same(items, "walproxy_http_mutations_total")
	// What no client sees: groups and batches, of at least one record each.
	groups := s.sum("walproxy_log_groups_total")
	for _, name := range []string{"walproxy_log_syncs_total", "walproxy_log_sync_seconds_count", "walproxy_log_group_records_count"} {
		same(int(groups), name)
	}
	for _, name := range []string{"walproxy_log_groups_total", "walproxy_sink_batches_total"} {
		j.within(t, s, 1, float64(c.acked), name)
	}
}

// standing compares what does not change while nobody writes.
func standing(t *testing.T, s scrape, j *judge, dir string, c *tallies) {
	t.Helper()
	in, err := wal.Inspect(filepath.Join(dir, "log"), wal.InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j.within(t, s, 1, float64(len(in.Segments)), "walproxy_log_segments") // one may be made ahead
	payload, size := s.sum("walproxy_log_payload_bytes_total"), 0.0
	for _, seg := range in.Segments {
		size += float64(seg.Bytes)
	}
	j.within(t, s, payload+32*float64(c.acked), min(size, payload+96*float64(c.acked)+1<<16), "walproxy_log_bytes") // frames around them
	j.same(t, s, 1, "walproxy_log_first_lsn")
	j.same(t, s, 64<<30, "walproxy_log_max_bytes")
	j.same(t, s, -1, "walproxy_log_min_free_bytes")
	j.same(t, s, 0, "walproxy_log_poisoned")
	j.same(t, s, setAside, "walproxy_log_quarantine_bytes")
	space, err := vfs.OS().Space(dir)
	if err != nil {
		t.Fatal(err)
	}
	j.within(t, s, float64(space.Free)/2, 2*float64(space.Free), "walproxy_log_free_bytes") // others use the disk
	j.within(t, s, 60, math.Inf(1), "walproxy_log_full_seconds")                            // of 64 GiB little was written
	j.same(t, s, 1, "walproxy_accepting")
	j.same(t, s, 0, "walproxy_draining")
	j.within(t, s, 1, 64<<20, "walproxy_state_bytes")
	for lane := range 4 {
		j.same(t, s, c.acked, "walproxy_sink_lane_checkpoint_lsn", fmt.Sprintf(`lane="%d"`, lane))
	}
	j.same(t, s, 4*c.acked, "walproxy_sink_lane_checkpoint_lsn")
	j.within(t, s, 1, 4, "walproxy_sink_concurrency")
	j.within(t, s, float64(c.rejected), float64(c.rejected)*1000, "walproxy_sink_dead_letter_bytes")
	j.same(t, s, 1, "walproxy_sink_epoch")
	j.same(t, s, 1, "walproxy_sink_state", `state="running"`)
	j.same(t, s, 1, "walproxy_sink_state")
	for _, name := range []string{"held_records", "held_bytes", "lost_records", "max_lag_bytes", "unsettled_records", "paused"} {
		j.same(t, s, 0, "walproxy_sink_"+name)
	}
}

// held compares what is otherwise nothing: while the sink is paused, and when writes are
// refused.
func held(t *testing.T, admin, base string, j *judge, c *tallies) scrape {
	t.Helper()
	post := func(path string) {
		t.Helper()
		answer, err := http.Post(base+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d", path, answer.StatusCode)
		}
	}
	post("/v1/sinks/main:pause")
	written := time.Now()
	for n := range 3 {
		if err := c.expect(200, http.DefaultClient, "PUT", fmt.Sprintf("%s/v1/held/%d", base, n), `{"a":1}`, 1); err != nil {
			t.Fatal(err)
		}
	}
	s := awaitSum(t, admin, 1, "walproxy_sink_state", `state="paused"`)
	j.same(t, s, 1, "walproxy_sink_state", `state="paused"`)
	j.same(t, s, 1, "walproxy_sink_paused")
	j.same(t, s, 3, "walproxy_sink_lag_records")
	for began := time.Now(); s.sum("walproxy_sink_oldest_seconds") == 0 && time.Since(began) < time.Minute; { // it is looked for every 5 s
		time.Sleep(100 * time.Millisecond)
		var err error
		if s, err = scrapeOf(admin); err != nil {
			t.Fatal(err)
		}
	}
	j.within(t, s, 1e-9, time.Since(written).Seconds(), "walproxy_sink_oldest_seconds")
	j.within(t, s, 3*10, 3*1000, "walproxy_sink_lag_bytes")
	j.same(t, s, c.acked-3, "walproxy_sink_applied_lsn")
	post("/v1/sinks/main:resume")
	s = awaitSum(t, admin, 0, "walproxy_sink_lag_records")
	j.same(t, s, c.acked, "walproxy_sink_applied_lsn")
	begun, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(begun, "PUT /v1/held/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	s = awaitSum(t, admin, 1, "walproxy_http_requests_in_flight")
	j.same(t, s, 1, "walproxy_http_requests_in_flight")
	_ = begun.Close()
	s = awaitSum(t, admin, 0, "walproxy_http_requests_in_flight")
	j.same(t, s, 0, "walproxy_http_requests_in_flight")
	post("/v1/drain")
	s = awaitSum(t, admin, 1, "walproxy_draining")
	j.same(t, s, 1, "walproxy_draining")
	j.same(t, s, 0, "walproxy_accepting")
	return s
}

// logged counts what a stopped log holds.
func logged(t *testing.T, dir string) (records, bytes int) {
	t.Helper()
	in, err := wal.Inspect(dir, wal.InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for frame, err := range in.Frames(1) {
		if err != nil {
			t.Fatal(err)
		}
		records++
		bytes += len(frame.Payload)
	}
	return records, bytes
}
