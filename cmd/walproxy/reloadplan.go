package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/config"
)

// reloadPlan is what a reload will do: all of keys, or none.
type reloadPlan struct {
	merged  *config.Config // what is in effect then
	keys    []string
	refused []refused
}

func (p *reloadPlan) refuse(key, reason string) {
	p.refused = append(p.refused, refused{key, reason})
	p.keys = slices.DeleteFunc(p.keys, func(k string) bool { return k == key })
}

func (p *reloadPlan) refuseAll(reason string) {
	for _, key := range slices.Clone(p.keys) {
		p.refuse(key, reason)
	}
}

// plan says which of the changes can be made now, and why not the others.
func (r *reloader) plan(next *config.Config) *reloadPlan {
	next = r.withPools(next)
	p := &reloadPlan{merged: r.now}
	changed := config.Changed(r.now, next)
	p.keys = slices.Clone(changed)
	unfit := map[string]string{} // sink -> the key for which it stays as it is
	for _, key := range changed {
		if reason := r.unfit(key, next); reason != "" {
			p.refuse(key, reason)
			if name := sinkOf(key); name != "" && unfit[name] == "" {
				unfit[name] = key
			}
		}
	}
	for _, key := range slices.Clone(p.keys) {
		if with := unfit[sinkOf(key)]; with != "" {
			p.refuse(key, "a sink changes whole or not at all: see "+with)
		}
	}
	if slices.Contains(p.keys, "routes") {
		if reason := r.unroutable(next, unfit); reason != "" {
			p.refuse("routes", reason)
		}
	}
	merged, err := config.Merged(r.now, next, p.keys)
	if err != nil {
		p.refuseAll("does not fit what needs a restart: " + strings.ReplaceAll(err.Error(), "\n", "; "))
		return p
	}
	p.merged = merged
	return p
}

// withPools is next with as many connections as there are now for sinks where nobody
// says how many: their number follows the lanes at a start.
func (r *reloader) withPools(next *config.Config) *config.Config {
	out := *next
	out.Sinks = maps.Clone(next.Sinks)
	for name, s := range out.Sinks {
		was, ok := r.now.Sinks[name]
		if ok && s.Type == config.TypePostgres && s.Pools.Apply == s.Lanes && s.Lanes <= was.Pools.Apply {
			s.Pools.Apply = was.Pools.Apply
			out.Sinks[name] = s
		}
	}
	return &out
}

// sinkOf is the sink that a key is of; empty: none.
func sinkOf(key string) string {
	rest, ok := strings.CutPrefix(key, "sinks.")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, ".")
	return name
}

// unfit is why a key cannot change now; empty: it can.
func (r *reloader) unfit(key string, next *config.Config) string {
	if name := sinkOf(key); name != "" {
		return r.sinkReason(name, key, next)
	}
	if !config.Live(key) {
		return "needs a restart"
	}
	section, ok := strings.CutSuffix(key, ".tls")
	was, is := endpointTLS(r.now)[section], endpointTLS(next)[section]
	if ok && (was.Cert == "") != (is.Cert == "") {
		return "a listener begins or ends to speak TLS at a restart alone"
	}
	if ok && (was.ClientCA == "") != (is.ClientCA == "") {
		return "clients are asked for certificates, or not, from a restart on alone"
	}
	return ""
}

// unroutable is why other routes cannot be taken now; empty: they can.
func (r *reloader) unroutable(next *config.Config, unfit map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(unfit)) {
		return "routes change with the sinks: see " + unfit[name]
	}
	if !r.known(r.now.Routes) && len(r.were) == routesMax {
		return fmt.Sprintf("they have changed %d times since the start, and no more of them are remembered: needs a restart", routesMax)
	}
	for _, was := range append(r.were[:len(r.were):len(r.were)], r.now.Routes) {
		if reason := config.Unread(was, next.Routes); reason != "" {
			return reason
		}
	}
	return ""
}

// known reports whether routes are among those that are remembered.
func (r *reloader) known(routes []config.Route) bool {
	return slices.ContainsFunc(r.were, func(was []config.Route) bool { return reflect.DeepEqual(was, routes) })
}

// pointing are the parts of a sink's keys that say which store it is.
var pointing = []string{"type", "path", "dsn", "schema", "hosts", "namespace", "cluster"}

// sinkReason is why a sink cannot change now: where it loses what it has not applied,
// how much that is.
func (r *reloader) sinkReason(name, key string, next *config.Config) string {
	_, was := r.now.Sinks[name]
	_, stays := next.Sinks[name]
	part, _, _ := strings.Cut(strings.TrimPrefix(key, "sinks."+name+"."), ".")
	var what string
	switch {
	case !was:
		return "a new sink is opened at a restart: see `walproxy sink add`"
	case !stays:
		what = "removing the sink"
	case slices.Contains(pointing, part):
		what = "pointing the sink at another store"
	case config.Live(key):
		return ""
	case part == "pools":
		return "needs a restart; it says, or goes by the lanes, how many connections there are"
	case part == "paused":
		return "needs a restart: `walproxy sink pause` and `resume` do it now"
	case part == "collections":
		what = "what a collection is in the store"
	default:
		return "needs a restart"
	}
	for _, s := range r.i.proxy.Status().Sinks {
		if s.Name == name && s.Lag > 0 {
			if part == "collections" {
				return fmt.Sprintf("%s needs a restart: %d records of the sink are not applied, `walproxy drain` first", what, s.Lag)
			}
			return fmt.Sprintf("%s would orphan %d records that it has not applied: `walproxy drain` first, then restart", what, s.Lag)
		}
	}
	return what + " needs a restart; every record for it is applied now"
}

// tune has the proxy and its sinks do what they can do wrong: all of it or, with an
// error, nothing.
func (r *reloader) tune(p *reloadPlan) error {
	var t walproxy.Tuning
	if slices.Contains(p.keys, "routes") {
		t.Routes = routesOf(p.merged)
	}
	loops := map[string]bool{} // by sink: whether its loop changes
	for _, key := range p.keys {
		if name := sinkOf(key); name != "" {
			loops[name] = loops[name] || !strings.HasSuffix(key, ".max_lag_bytes") && !strings.HasSuffix(key, ".retain")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(loops)) {
		o := sinkOptions(name, p.merged.Sinks[name], nil)
		to := walproxy.SinkTuning{Name: name, MaxLagBytes: o.MaxLagBytes, Retain: o.Retain}
		if loops[name] {
			to.Loop = &o.Loop
		}
		t.Sinks = append(t.Sinks, to)
	}
	if t.Routes == nil && t.Sinks == nil {
		return nil
	}
	return r.i.proxy.Tune(t)
}
