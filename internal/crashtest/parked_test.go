package crashtest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// TestParkedMemory: records that are parked and records that are pending, many
// of both, need neither memory nor a long start. Half of the pending ones park
// as well when they come.
func TestParkedMemory(t *testing.T) {
	t.Parallel()
	const keys = 200
	n := times(60_000, 10_000_000)
	ctx := timeout(t, 5*time.Minute, 2*time.Hour)
	s := newServer(t, t.TempDir(), "WALPROXY_LOG__SEGMENT_BYTES=16MiB",
		"WALPROXY_SINKS__MAIN__DEAD_LETTERS__BYTES=1TiB", "WALPROXY_SHUTDOWN__DRAIN_TIMEOUT=1s")
	s.start(ctx)
	s.post(ctx, keys, func(i int) string { return fmt.Sprintf(`{"collection":"parked","key":"%d","set":{"n":"text"}}`, i) })
	s.post(ctx, n, func(i int) string {
		return fmt.Sprintf(`{"collection":"parked","key":"%d","increment":{"n":%d},"merge":{"pad":"%050d"}}`, i%keys, i, i)
	})
	must(t, s.client.WaitDrained(ctx))
	s.letters(ctx, n, keys)
	s.memory("with the records parked", memoryMost)
	s.process.Kill()

	began := time.Now()
	s.start(ctx, paused)
	t.Logf("the start with %d dead letters took %s", n, time.Since(began).Round(time.Millisecond))
	s.post(ctx, n, func(i int) string {
		if i%2 == 0 {
			return fmt.Sprintf(`{"collection":"parked","key":"%d","increment":{"n":%d},"merge":{"pad":"%050d"}}`, i/2%keys, i, i)
		}
		return fmt.Sprintf(`{"collection":"fresh","key":"%d","set":{"pad":"%050d"}}`, i, i)
	})
	s.memory("with as many pending", memoryMost)
	s.process.Kill()

	began = time.Now()
	s.start(ctx)
	t.Logf("the start with %d dead letters and %d pending records took %s", n, n, time.Since(began).Round(time.Millisecond))
	must(t, s.client.WaitDrained(ctx))
	t.Logf("drained after %s", time.Since(began).Round(time.Millisecond))
	s.letters(ctx, n+n/2, keys)
	s.memory("after the drain", memoryMost)
	s.stop()
}

// post sends n items made by item in streams of up to 100,000, and expects every
// one to be logged.
func (s *server) post(ctx context.Context, n int, item func(i int) string) {
	s.Helper()
	const most = 100_000
	for from := 0; from < n; from += most {
		to := min(from+most, n)
		reader, writer := io.Pipe()
		go func() { // ends when all is written, or with the reader
			out := bufio.NewWriterSize(writer, 64<<10)
			for i := from; i < to; i++ {
				if _, err := fmt.Fprintln(out, item(i)); err != nil {
					break
				}
			}
			_ = writer.CloseWithError(out.Flush()) // the request fails, and says so
		}()
		logged, err := s.stream(ctx, reader)
		_ = reader.Close()
		if err != nil || logged != to-from {
			s.Fatalf("%d of %d writes were logged: %v\n%s", logged, to-from, err, s.process.Tail())
		}
	}
}

// stream posts a body of lines and counts the answers that say logged.
func (s *server) stream(ctx context.Context, body io.Reader) (logged int, err error) {
	request, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.process.Addr("api")+"/v1/mutations", body)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(`"state":"logged"`)) {
			return logged, fmt.Errorf("answer %s", lines.Bytes())
		}
		logged++
	}
	return logged, lines.Err()
}

// letters compares how many dead letters there are, and how many keys they park.
func (s *server) letters(ctx context.Context, want, keys int) {
	s.Helper()
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.process.Addr("api")+"/v1/status", nil)
	must(s.T, err)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	must(s.T, err)
	defer func() { _ = response.Body.Close() }()
	var status struct {
		Sinks []struct {
			DeadLetters int `json:"dead_letters"`
			ParkedKeys  int `json:"parked_keys"`
		}
	}
	must(s.T, json.NewDecoder(response.Body).Decode(&status))
	if got := status.Sinks[0]; got.DeadLetters != want || got.ParkedKeys != keys {
		s.Errorf("%+v, want %d dead letters that park %d keys", got, want, keys)
	}
}
