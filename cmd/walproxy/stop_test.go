package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
)

// TestStopUnderLoad is F1 and F3 from a client's side: 64 clients write while
// everything is closed. Each write is acked, and then there once, or refused, or
// its connection breaks; no call hangs, and nothing is left running.
func TestStopUnderLoad(t *testing.T) {
	for round := range 3 {
		stopUnderLoad(t, t.TempDir(), time.Duration(20+40*round)*time.Millisecond)
	}
}

const clients = 64

func stopUnderLoad(t *testing.T, dir string, after time.Duration) {
	c, err := config.Parse("", nil, []string{
		"WALPROXY_DATA_DIR=" + dir, "WALPROXY_LOG__MIN_FREE=-1",
		"WALPROXY_API__LISTEN=127.0.0.1:0", "WALPROXY_ADMIN__LISTEN=127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + i.apiListener.Addr().String()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: 30 * time.Second}
	var acked, sent [clients]atomic.Int64
	var writers sync.WaitGroup
	for n := range clients {
		writers.Go(func() {
			for {
				sent[n].Add(1)
				status, code, err := increment(client, fmt.Sprintf("%s/v1/counters/%d", base, n))
				switch {
				case err != nil:
					return // the connection broke: unknown
				case status == http.StatusOK:
					acked[n].Add(1)
				case code == "closing":
					sent[n].Add(-1) // refused: certainly not written
					return
				default:
					t.Errorf("got %d %s", status, code)
					return
				}
			}
		})
	}
	time.Sleep(after) // how far they come is as it happens; what holds does not depend on it
	if err := i.close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := i.close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	writers.Wait()
	client.CloseIdleConnections()

	i, err = start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	base = "http://" + i.apiListener.Addr().String()
	total := int64(0)
	for n := range clients {
		stored, err := counter(client, fmt.Sprintf("%s/v1/counters/%d", base, n))
		if err != nil {
			t.Fatal(err)
		}
		if stored < acked[n].Load() || stored > sent[n].Load() {
			t.Errorf("client %d: %d stored; %d acked, %d sent", n, stored, acked[n].Load(), sent[n].Load())
		}
		total += acked[n].Load()
	}
	t.Logf("%d writes acked", total)
	client.CloseIdleConnections()
	if err := i.close(); err != nil {
		t.Error(err)
	}
}

func increment(client *http.Client, url string) (status int, code string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), "POST", url+":increment", strings.NewReader(`{"n":1}`))
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	var answer struct{ Code string }
	err = json.NewDecoder(resp.Body).Decode(&answer)
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, answer.Code, err
}

func counter(client *http.Client, url string) (int64, error) {
	resp, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return 0, nil
	}
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	var answer struct{ Fields struct{ N int64 } }
	err = json.NewDecoder(resp.Body).Decode(&answer)
	return answer.Fields.N, err
}

// TestHalfStart: whatever keeps it from starting, nothing stays open.
func TestHalfStart(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"WALPROXY_DATA_DIR=" + dir, "WALPROXY_API__LISTEN=127.0.0.1:0", "WALPROXY_ADMIN__LISTEN=127.0.0.1:0"}
	c, err := config.Parse("", nil, environ)
	if err != nil {
		t.Fatal(err)
	}
	first, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if second, err := start(t.Context(), c, zap.NewNop()); err == nil {
		t.Error("two instances on one directory")
		_ = second.close()
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	third, err := start(t.Context(), c, zap.NewNop()) // the failed start left no lock and no port
	if err != nil {
		t.Fatal(err)
	}
	if err := third.close(); err != nil {
		t.Fatal(err)
	}
}
