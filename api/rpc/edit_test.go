package rpc_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// deadLetters makes a dead letter of each key, and one that is parked behind it.
func (r *rig) deadLetters(keys ...string) (lsns []string) {
	r.t.Helper()
	for _, key := range keys {
		r.want(r.do("PUT", "/v1/orders/"+key, `{"total": "text"}`), 200)
		dead := r.want(r.do("POST", "/v1/orders/"+key+":increment?ack=applied", `{"total": 1}`), 202, "state", `"dead"`)
		r.want(r.do("POST", "/v1/orders/"+key+":increment?ack=applied", `{"total": 2}`), 202, "state", `"parked"`)
		lsns = append(lsns, member(dead.body, "lsn"))
	}
	return lsns
}

// TestEdit: an edit is checked as a write is, and says what became of it and of the
// queue behind it.
func TestEdit(t *testing.T) {
	r := newRig(t)
	lsn := r.deadLetters("1")[0]
	path := "/v1/dlq/main/" + lsn
	one := r.want(r.do("GET", path, ""), 200, "sink", `"main"`, "queue_more", "nothing")
	if queue, _ := one.body["queue"].([]any); len(queue) != 1 || !strings.Contains(one.raw, `"queue":[{"lsn":3,"position":3,"state":"parked"`) {
		t.Errorf("got %s, want one behind it", one.raw)
	}
	for body, want := range map[string][]string{
		`{"collection":"orders","key":"1","sett":{}}`:                          {"sett", "1"},
		"{\"collection\":\"orders\",\"key\":\"1\",\n\"set\":{\"n\":\n007}}":    {"set.n", "3"},
		`{"collection":"orders","key":"1"}`:                                    {"ops", "nothing"},
		"# nothing\n":                                                          {"nothing", "nothing"},
		`[{"collection":"orders","key":"1","set":{}},{"collection":"orders"}]`: {"members[1].mutation.key", "nothing"},
	} {
		a := r.want(r.do("POST", path+":edit", body), 400, "code", `"invalid"`)
		field := member(a.body, "field")
		if want[0] != "nothing" {
			want[0] = quote(want[0])
		}
		if line := member(a.body, "details.line"); line != want[1] || field != want[0] {
			t.Errorf("%s: field %s in line %s, want %s in line %s: %s", body, field, line, want[0], want[1], a.raw)
		}
	}
	r.want(r.do("POST", path+":edit", member(one.body, "mutation")), 200, "unchanged", "true", "lsns", "[]")
	r.want(r.do("GET", path, ""), 200)

	mended := "# a comment\n" + strings.Replace(member(one.body, "mutation"), `"increment"`, `"set"`, 1)
	a := r.want(r.do("POST", path+":edit?ack=applied", mended), 200, "unchanged", "nothing", "lsns", "[4,5]")
	want := fmt.Sprintf(`[{"lsn":4,"origin":%s,"state":"applied"},{"lsn":5,"origin":3,"state":"applied"}]`, lsn)
	if got := member(a.body, "retried"); got != want {
		t.Errorf("retried %s, want %s", got, want)
	}
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "fields.total", "3")
	r.want(r.do("POST", path+":edit", mended), 404, "code", `"not_found"`, "details.retried_as", "4")
	r.want(r.do("POST", "/v1/dlq/main/x:edit", mended), 400, "field", `"lsn"`)
	r.want(r.do("POST", "/v1/dlq/nobody/2:edit", mended), 404)
	r.want(r.do("POST", path+":edit?ack=maybe", mended), 400, "field", `"ack"`)
}

// TestRetryOutcome: who waits for it is told what became of a retry, or 202 if that is
// not known in time; of several each.
func TestRetryOutcome(t *testing.T) {
	r := newRig(t)
	r.deadLetters("1", "2")
	a := r.want(r.do("POST", "/v1/dlq/main/2:retry?ack=applied", ""), 200)
	if got := member(a.body, "retried"); got != `[{"lsn":7,"origin":2,"state":"dead"},{"lsn":8,"origin":3,"state":"parked"}]` {
		t.Errorf("retried %s", got)
	}
	r.want(r.do("PUT", "/v1/orders/9", `{}`), 200)
	a = r.want(r.do("POST", "/v1/dlq/main:retry?ack=applied", `{"lsns": [5, 7]}`), 200, "lsns", "[10,11,12,13]")
	if got := member(a.body, "retried"); strings.Count(got, `"dead"`) != 2 || strings.Count(got, `"parked"`) != 2 {
		t.Errorf("retried %s", got)
	}
	for _, body := range []string{``, `{}`, `{"lsns": []}`, `{"lsns": ["2"]}`, `{"lsn": [2]}`, `[2]`, fmt.Sprintf(`{"lsns": [%s1]}`, strings.Repeat("1,", 1000))} {
		r.want(r.do("POST", "/v1/dlq/main:retry", body), 400, "field", `"lsns"`)
	}
	r.want(r.do("POST", "/v1/dlq/main:retry", `{"lsns": [1]}`), 404)
	r.want(r.do("POST", "/v1/dlq/main:bury", ``), 400, "field", `"sink"`)
	r.want(r.do("GET", "/v1/dlq/main:retry", ``), 405)

	r.sink.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	a = r.want(r.do("POST", "/v1/dlq/main:retry?ack=applied&timeout=50ms", `{"lsns": [10]}`), 202)
	if got := member(a.body, "retried"); strings.Count(got, `"logged"`) != 2 {
		t.Errorf("retried %s", got)
	}
	r.sink.Clear()
}

// TestDiscardMany: those that are there are given up at once.
func TestDiscardMany(t *testing.T) {
	r := newRig(t)
	r.deadLetters("1", "2")
	r.want(r.do("POST", "/v1/dlq/main:discard", `{"lsns": [2, 3, 99]}`), 200, "lsns", "[2,3]")
	r.want(r.do("POST", "/v1/dlq/main:discard", `{"lsns": [2, 3]}`), 404)
	r.want(r.do("GET", "/v1/dlq/main/2", ""), 404, "details.given_up", "true")
	r.want(r.do("GET", "/v1/orders/1", ""), 200)
	r.want(r.do("GET", "/v1/orders/2", ""), 409)
}

// TestFilter: each part selects, also in an export; what is wrong is named.
func TestFilter(t *testing.T) {
	r := newRig(t)
	before := time.Now().UTC()
	r.want(r.do("PUT", "/v1/numbers/7", `{"total": "text"}`), 200)
	r.want(r.do("POST", "/v1/numbers/7:increment", `{"total": 1}`), 200)
	r.deadLetters("1", "2")
	after := time.Now().UTC().Add(time.Second)
	at := func(t time.Time) string { return url.QueryEscape(t.Format(time.RFC3339Nano)) }
	for query, want := range map[string]string{
		"":                              "2,4,5,7,8",
		"collection=orders":             "4,5,7,8",
		"key=2":                         "7,8",
		"key=7":                         "2",
		"key=" + url.QueryEscape(`"7"`): "",
		"collection=numbers&key=2":      "",
		"state=parked":                  "5,8",
		"state=dead&from=3":             "4,7",
		"to=4":                          "2,4",
		"from=3&to=7&limit=2":           "4,5;7",
		"collection=orders&limit=3":     "4,5,7;8",
		"since=" + at(before):           "2,4,5,7,8",
		"since=" + at(after):            "",
		"until=" + at(before):           "",
		"until=" + at(after) + "&key=1": "4,5",
		"code=23505":                    "",
	} {
		a := r.want(r.do("GET", "/v1/dlq/main?"+query, ""), 200)
		var list struct {
			Letters []struct{ LSN uint64 } `json:"dead_letters"`
			Next    uint64
		}
		if err := json.Unmarshal([]byte(a.raw), &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range list.Letters {
			got = append(got, fmt.Sprint(l.LSN))
		}
		text := strings.Join(got, ",")
		if list.Next > 0 {
			text += fmt.Sprint(";", list.Next)
		}
		if text != want {
			t.Errorf("%s: %s, want %s", query, text, want)
		}
		if strings.Contains(query, "limit") {
			continue
		}
		lines := r.want(r.do("GET", "/v1/dlq/main?format=ndjson&"+query, ""), 200)
		if n := strings.Count(lines.raw, "\n"); n != len(got) {
			t.Errorf("%s: %d lines exported, want %d", query, n, len(got))
		}
	}
	for query, field := range map[string]string{"state=bad": "state", "since=yesterday": "since", "to=0": "to", "codes=1": "codes"} {
		r.want(r.do("GET", "/v1/dlq/main?"+query, ""), 400, "field", quote(field))
	}
}

// TestImport: an export goes back, mended or not, or to another proxy, once.
func TestImport(t *testing.T) {
	r, other := newRig(t), newRig(t)
	r.deadLetters("1")
	export := r.do("GET", "/v1/dlq/main?format=ndjson", "").raw
	lines := []string{"Content-Type", "application/x-ndjson"}
	for range 2 {
		a := other.want(other.do("POST", "/v1/dlq/main:import?ack=applied", export, lines...), 200)
		if strings.Count(a.raw, `"state":"applied"`) != 2 {
			t.Errorf("into another proxy: %s", a.raw)
		}
	}
	other.want(other.do("GET", "/v1/orders/1", ""), 200, "fields.total", "3", "version", "2")
	mended := strings.Replace(export, `"increment":{"total":2}`, `"set":{"total":7}`, 1)
	if a := other.do("POST", "/v1/dlq/main:import", mended, lines...); !strings.Contains(a.raw, `"index":1,"error":{"status":422`) {
		t.Errorf("another form of what was imported: %s", a.raw)
	}

	first := strings.Replace(export, `"increment":{"total":1}`, `"set":{"total":7}`, 1)
	a := r.want(r.do("POST", "/v1/dlq/main:import?ack=applied", first, lines...), 200)
	if strings.Count(a.raw, `"state":"applied"`) != 2 {
		t.Errorf("back, mended: %s", a.raw)
	}
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "fields.total", "9")
	if a := r.do("POST", "/v1/dlq/main:import", first, lines...); strings.Count(a.raw, `"retried_as"`) != 2 {
		t.Errorf("again: %s", a.raw)
	}
	for line, field := range map[string]string{
		`{"lsn": 2}`:                           `"lsn"`,
		`{"lsn":2,"stream":"x","sink":"main"}`: `"mutation"`,
		`{"lsn":2,"stream":"x","sink":"main","mutation":{"collection":"orders","key":"1","set":{"n":9223372036854775808}}}`: `"mutation.set.n"`,
		`{"lsn":2,"stream":"x","sink":"main","record":"AAAA"}`:                                                              `"record"`,
		`{"error":{"status":503}}`: `"error"`,
		`nonsense`:                 "nothing",
		strings.Replace(strings.Split(export, "\n")[0], `"sink":"main"`, `"sink":"old"`, 1): `"sink"`,
	} {
		a := r.do("POST", "/v1/dlq/main:import", line, lines...)
		var answer struct {
			Error struct {
				Status int
				Field  string
			}
		}
		if err := json.Unmarshal([]byte(a.raw), &answer); err != nil || answer.Error.Status != 400 || field != "nothing" && quote(answer.Error.Field) != field {
			t.Errorf("%s: %s, want an error about %s", line, a.raw, field)
		}
	}
	r.want(r.do("POST", "/v1/dlq/nobody:import", export, lines...), 404)
}
