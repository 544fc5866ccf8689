package accept

import (
	"fmt"
	"path"
	"slices"
)

// router finds the sinks of a collection.
type router struct {
	routes []*route
	bySink map[string]*route // for writes to one sink: retries of dead letters
	sinks  [][]string        // by a route's number
}

type route struct {
	patterns []string
	sinks    []string
	reads    string // name of target
	target   Target // the first sink's
	lags     []Lag  // the sinks'
	number   int    // Acceptor.Routed knows it
}

// newRouter makes one that knows the numbers of the routes before.
func newRouter(routes []Route, targets map[string]Target, before [][]string) (*router, error) {
	r := &router{bySink: map[string]*route{}, sinks: slices.Clone(before)}
	for name, target := range targets {
		if target.Loop == nil {
			return nil, fmt.Errorf("accept: target %q has no loop", name)
		}
		r.bySink[name] = r.newRoute(nil, []string{name}, targets)
	}
	for i, in := range routes {
		if len(in.Collections) == 0 || len(in.Sinks) == 0 {
			return nil, fmt.Errorf("accept: route %d needs collections and sinks", i)
		}
		for _, pattern := range in.Collections {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fmt.Errorf("accept: route %d: pattern %q: %w", i, pattern, err)
			}
		}
		for _, name := range in.Sinks {
			if _, ok := targets[name]; !ok {
				return nil, fmt.Errorf("accept: route %d: there is no sink %q", i, name)
			}
		}
		r.routes = append(r.routes, r.newRoute(in.Collections, in.Sinks, targets))
	}
	return r, nil
}

func (r *router) newRoute(patterns, names []string, targets map[string]Target) *route {
	out := &route{patterns: patterns, sinks: names, reads: names[0], target: targets[names[0]]}
	same := func(before []string) bool { return slices.Equal(before, names) }
	if out.number = slices.IndexFunc(r.sinks, same); out.number < 0 { // so that changes to and fro need no more
		out.number = len(r.sinks)
		r.sinks = append(r.sinks, names)
	}
	for _, name := range names {
		if lag := targets[name].Lag; lag != nil {
			out.lags = append(out.lags, lag)
		}
	}
	return out
}

// SetRoutes changes where writes go that come from now on, and who answers reads: all
// of it or, with an error, nothing. What is logged stays as it was routed.
func (a *Acceptor) SetRoutes(routes []Route) error {
	a.routing.Lock()
	defer a.routing.Unlock()
	next, err := newRouter(routes, a.o.Targets, a.router.Load().sinks)
	if err == nil {
		a.router.Store(next)
	}
	return err
}

// Routed returns the sinks of a route, by the number that Pending.Route gives.
func (a *Acceptor) Routed(number int) []string { return a.router.Load().sinks[number] }

// Reads names the sink that answers reads for a collection; ErrUnroutable.
func (a *Acceptor) Reads(collection string) (string, error) {
	r, err := a.router.Load().find(collection)
	if err != nil {
		return "", err
	}
	return r.reads, nil
}

// find returns the first route that takes collection, or ErrUnroutable.
func (r *router) find(collection string) (*route, error) {
	for i := range r.routes {
		for _, pattern := range r.routes[i].patterns {
			if pattern == "*" {
				return r.routes[i], nil
			}
			if ok, _ := path.Match(pattern, collection); ok { // the patterns are good
				return r.routes[i], nil
			}
		}
	}
	return nil, fmt.Errorf("%w %q", ErrUnroutable, collection)
}
