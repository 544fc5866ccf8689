package crashtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestKillDuringEdit lets the server kill itself at each named place while a dead
// letter is edited: then there is the old dead letter or the new write, never both
// and never neither; and the new one if the edit was answered.
func TestKillDuringEdit(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 4*time.Minute, 20*time.Minute)
	s := newServer(t, t.TempDir())
	var all edits
	s.start(ctx)
	for _, point := range []string{
		"wal-before-write", "wal-after-write", "wal-before-sync", "wal-after-sync", "accept-after-enqueue",
		"replay-mid-apply", "sink-before-commit", "sink-after-commit", "state-before-sync",
	} {
		for n := 1; n <= times(2, 6); n++ {
			e := s.deadLetter(ctx, all.n+1, fmt.Sprintf("%s=%d", point, n))
			s.stop()
			s.editAndDie(ctx, e)
			s.start(ctx)
			s.checkEdit(ctx, e, &all)
		}
	}
	s.stop()
	t.Logf("%d of %d edits were cut by a kill; after it %d dead letters were the old ones, %d were edited", all.died, all.n, all.old, all.edited)
	if all.old == 0 || all.edited == 0 || all.died < all.n/3 {
		t.Error("the test sees one side alone")
	}
}

// edits counts what became of them.
type edits struct{ n, died, old, edited int }

// edit of one dead letter.
type edit struct {
	key      int
	path     string
	lsn      uint64
	point    string
	answered bool // with success
	died     bool // the server, before it answered
}

// deadLetter makes one of a key of its own.
func (s *server) deadLetter(ctx context.Context, key int, point string) *edit {
	s.Helper()
	e := &edit{key: key, path: fmt.Sprintf("/v1/edits/%d", key), point: point}
	if status, err := s.ask(ctx, "PUT", e.path, `{"n": "text"}`, nil); err != nil || status != 200 {
		s.Fatalf("%d, %v", status, err)
	}
	var dead struct {
		LSN   uint64 `json:"lsn"`
		State string `json:"state"`
	}
	if status, err := s.ask(ctx, "POST", e.path+":increment?ack=applied", `{"n": 1}`, &dead); err != nil || status != 202 || dead.State != "dead" {
		s.Fatalf("%s: no dead letter: %d, %+v, %v", point, status, dead, err)
	}
	e.lsn = dead.LSN
	return e
}

// editAndDie edits it in a server that dies at the failpoint, or is killed.
func (s *server) editAndDie(ctx context.Context, e *edit) {
	s.Helper()
	if err := s.tryStart(ctx, "WALPROXY_FAILPOINTS="+e.point); err != nil { // it died while starting
		e.died = true
		return
	}
	body := fmt.Sprintf(`{"collection": "edits", "key": "%d", "set": {"n": %d}}`, e.key, e.key)
	status, err := s.ask(ctx, "POST", fmt.Sprintf("/v1/dlq/main/%d:edit?ack=applied", e.lsn), body, nil)
	e.answered, e.died = err == nil && status < 300, err != nil
	s.process.Kill()
}

// checkEdit looks what there is once the sink is level.
func (s *server) checkEdit(ctx context.Context, e *edit, all *edits) {
	s.Helper()
	all.n++
	if e.died {
		all.died++
	}
	s.settle(ctx)
	var letter struct {
		Mutation json.RawMessage `json:"mutation"`
	}
	var doc struct {
		Fields map[string]any `json:"fields"`
	}
	there, err := s.ask(ctx, "GET", fmt.Sprintf("/v1/dlq/main/%d", e.lsn), "", &letter)
	if err != nil {
		s.Fatal(err)
	}
	read, err := s.ask(ctx, "GET", e.path, "", &doc)
	if err != nil {
		s.Fatal(err)
	}
	switch {
	case there == 200 && read == 409 && !e.answered && strings.Contains(string(letter.Mutation), `"increment"`):
		all.old++
	case there == 404 && read == 200 && doc.Fields["n"] == float64(e.key):
		all.edited++
	default:
		s.Errorf("%+v: the dead letter: %d %s; the record: %d %v", e, there, letter.Mutation, read, doc.Fields)
	}
}

// settle waits until the sink has everything.
func (s *server) settle(ctx context.Context) {
	s.Helper()
	for {
		var status struct {
			Sinks []struct {
				State string `json:"state"`
				Lag   int    `json:"lag"`
			} `json:"sinks"`
			Log struct {
				Durable uint64 `json:"durable"`
			} `json:"log"`
		}
		code, err := s.ask(ctx, "GET", "/v1/status", "", &status)
		if err != nil || code != 200 {
			s.Fatalf("status: %d, %v", code, err)
		}
		if status.Sinks[0].State == "running" && status.Sinks[0].Lag == 0 {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("the sink does not come level: %+v", status)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ask sends one request to the API. An error means that there was no answer.
func (s *server) ask(ctx context.Context, method, path, body string, out any) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.process.Addr("api")+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	answer, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	if out != nil {
		_ = json.Unmarshal(text, out) // an error has another form: the status tells
	}
	return answer.StatusCode, nil
}
