package accept

import (
	"fmt"
	"path"
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

func newRouter(routes []Route, targets map[string]Target) (*router, error) {
	r := &router{bySink: map[string]*route{}}
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
	out := &route{patterns: patterns, sinks: names, reads: names[0], target: targets[names[0]], number: len(r.sinks)}
	r.sinks = append(r.sinks, names)
	for _, name := range names {
		if lag := targets[name].Lag; lag != nil {
			out.lags = append(out.lags, lag)
		}
	}
	return out
}

// Routed returns the sinks of a route, by the number that Pending.Route gives.
func (a *Acceptor) Routed(number int) []string { return a.router.sinks[number] }

// Reads names the sink that answers reads for a collection; ErrUnroutable.
func (a *Acceptor) Reads(collection string) (string, error) {
	r, err := a.router.find(collection)
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
