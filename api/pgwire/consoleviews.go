package pgwire

import (
	"cmp"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// consoleView is one table of the console.
type consoleView struct {
	name, what string
	columns    []string
	rows       func(*Server) [][]string
}

// consoleList is what the console shows.
func consoleList() []consoleView {
	return []consoleView{
		{"stats", "what was done since the start", []string{"name", "value"}, (*Server).showStats},
		{"pools", "sessions by user and database", []string{"database", "user", "sessions", "active", "idle", "in_transaction", "without_server", "servers", "servers_idle", "waiting", "pinned"}, (*Server).showPools},
		{"clients", "each session", []string{"database", "user", "client", "application", "tls", "state", "since", "server", "holds"}, (*Server).showClients},
		{"servers", "where PostgreSQL is, and whether it is there", []string{"address", "state", "since", "reason", "pooled", "pooled_idle"}, (*Server).showServers},
		{"lag", "how far the sinks are behind the log", []string{"sink", "state", "durable", "applied", "lag_records", "lag_bytes", "oldest", "dead_letters"}, (*Server).showLag},
		{"tables", "tables declared write-behind", []string{"table", "collection", "write_behind", "reason", "detail"}, (*Server).showTables},
		{"version", "which walproxy this is", []string{"version"}, (*Server).showVersion},
		{"help", "this list", []string{"command", "shows"}, (*Server).showHelp},
	}
}

func (s *Server) showHelp() (rows [][]string) {
	for _, v := range consoleList() {
		rows = append(rows, []string{"SHOW " + v.name, v.what})
	}
	return rows
}

func (s *Server) showVersion() [][]string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = cmp.Or(info.Main.Version, version)
	}
	return [][]string{{"walproxy " + version}}
}

func (s *Server) showStats() [][]string {
	m := s.metrics
	var rows [][]string
	type counter struct {
		name string
		of   prometheus.Counter
	}
	counters := []counter{
		{"connections", m.connections}, {"requests", m.requests}, {"pool_opened", m.poolOpened}, {"pool_timeouts", m.poolTimeouts}, {"bytes_up", m.up}, {"bytes_down", m.down},
		{"away_logins", m.awayLogins}, {"away_refused", m.refused}, {"detached", m.detached}, {"attached", m.attached},
	}
	if s.tables != nil {
		counters = append(counters, counter{"gates_yielded", s.tables.m.yields})
		rows = append(rows, []string{"behind", strconv.FormatUint(s.tables.m.logged.Load(), 10)},
			[]string{"passed", strconv.FormatFloat(sum(s.tables.m.passed), 'f', 0, 64)}, []string{"failed", strconv.FormatFloat(sum(s.tables.m.failed), 'f', 0, 64)})
	}
	for _, c := range counters {
		var value dto.Metric
		if c.of.Write(&value) == nil { // a counter's own value cannot fail
			rows = append(rows, []string{c.name, strconv.FormatFloat(value.GetCounter().GetValue(), 'f', 0, 64)})
		}
	}
	return rows
}

// sum of a vector's counters.
func sum(v *prometheus.CounterVec) (total float64) {
	all := make(chan prometheus.Metric)
	go func() { v.Collect(all); close(all) }()
	for m := range all {
		var value dto.Metric
		if m.Write(&value) == nil { // a counter's own value cannot fail
			total += value.GetCounter().GetValue()
		}
	}
	return total
}

// stated is a carrier that can say how its session stands.
type stated interface{ state() string }

// States of a session.
const (
	stateActive      = "active"
	stateIdle        = "idle"
	stateTransaction = "in transaction"
)

// stateOf says how a session stands, by whose move it is.
func (t *turn) state() string {
	switch {
	case t.idle():
		return stateIdle
	case t.holds():
		return stateTransaction
	}
	return stateActive
}

func (x *carried) state() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.busy {
		return stateActive
	}
	if x.mu.holding && x.mu.turn.idle() {
		return stateTransaction
	}
	return x.mu.turn.state()
}

func (x *session) stateNow() string {
	if c, ok := x.carrier.(stated); ok {
		return c.state()
	}
	return "" // a loop's own
}

func (s *Server) showPools() [][]string {
	type pool struct{ database, user string }
	counts := map[pool]*[9]int{}
	if s.pools != nil {
		for key, n := range s.pools.counts() {
			counts[pool{key.database, key.user}] = &[9]int{5: n.open, 6: n.idle, 7: n.waiting}
		}
	}
	for _, x := range s.list() {
		n := counts[pool{x.database, x.user}]
		if n == nil {
			n = new([9]int)
			counts[pool{x.database, x.user}] = n
		}
		n[0]++
		switch x.stateNow() {
		case stateActive:
			n[1]++
		case stateIdle:
			n[2]++
		case stateTransaction:
			n[3]++
		}
		if l := x.link.Load(); l != nil {
			switch address, holds := l.standing(); {
			case address == "":
				n[4]++
			case x.pooled && holds != "":
				n[8]++
			}
		}
	}
	var rows [][]string
	for _, p := range slices.SortedFunc(maps.Keys(counts), func(a, b pool) int {
		return cmp.Or(cmp.Compare(a.database, b.database), cmp.Compare(a.user, b.user))
	}) {
		row := []string{p.database, p.user}
		for _, n := range counts[p] {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, row)
	}
	return rows
}

func (s *Server) showClients() [][]string {
	var rows [][]string
	for _, x := range s.list() {
		server, holds := x.address.Address, ""
		if l := x.link.Load(); l != nil {
			server, holds = l.standing()
		}
		rows = append(rows, []string{x.database, x.user, x.from.String(), x.application, x.encrypted, x.stateNow(),
			x.began.UTC().Format(time.RFC3339), server, holds})
	}
	slices.SortFunc(rows, slices.Compare)
	return rows
}

// pinned counts the sessions that keep a connection of the pool for what they hold there.
func (s *Server) pinned() (n int) {
	for _, x := range s.list() {
		if l := x.link.Load(); l != nil && x.pooled {
			if address, holds := l.standing(); address != "" && holds != "" {
				n++
			}
		}
	}
	return n
}

// standing is the address of the link's backend, if it has one, and why the session
// would end with it, if it would.
func (l *link) standing() (address, holds string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.behind != nil {
		address = l.mu.behind.address.Address
	}
	return address, l.mu.held.keeps()
}

func (s *Server) showServers() [][]string {
	since, away := s.presence.away()
	state, at, why := "there", "", ""
	if away != nil {
		state, at, why = "away", since.UTC().Format(time.RFC3339), away.Error()
	}
	pooled := map[Address]poolCounts{}
	if s.pools != nil {
		pooled = s.pools.byAddress()
	}
	var rows [][]string
	for _, a := range s.o.Upstream.Addresses {
		n := pooled[a]
		rows = append(rows, []string{a.Address, state, at, why, strconv.Itoa(n.open), strconv.Itoa(n.idle)})
	}
	return rows
}

func (s *Server) showLag() (rows [][]string) {
	if s.o.Status == nil {
		return nil
	}
	status := s.o.Status()
	for _, k := range status.Sinks {
		oldest := ""
		if !k.Oldest.IsZero() {
			oldest = k.Oldest.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{k.Name, string(k.State), fmt.Sprint(status.Log.Durable), fmt.Sprint(k.Applied),
			fmt.Sprint(k.Lag), fmt.Sprint(k.LagBytes), oldest, fmt.Sprint(k.DeadLetters)})
	}
	return rows
}

func (s *Server) showTables() (rows [][]string) {
	if s.tables == nil {
		return nil
	}
	known := s.tables.watch.Current()
	if known == nil {
		return nil // it is being read
	}
	for _, t := range known.Tables {
		behind, reason := "yes", ""
		if t.Refused != catalogue.Accepted {
			behind, reason = "no", t.Refused.Explain()
		}
		rows = append(rows, []string{t.Schema + "." + t.Name, t.Collection, behind, reason, t.Detail})
	}
	return rows
}
