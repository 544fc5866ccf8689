package accept

import (
	"fmt"
	"path"
)

// router finds the sinks of a collection.
type router struct {
	routes []route
	bySink map[string]*route // for writes to one sink: retries of dead letters
}

type route struct {
	patterns []string
	sinks    []string
	reads    string // name of target
	target   Target // the first sink's
}

func newRouter(routes []Route, targets map[string]Target) (*router, error) {
	r := &router{bySink: map[string]*route{}}
	for name, target := range targets {
		if target.Loop == nil {
			return nil, fmt.Errorf("accept: target %q has no loop", name)
		}
		r.bySink[name] = &route{sinks: []string{name}, reads: name, target: target}
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
		r.routes = append(r.routes, route{in.Collections, in.Sinks, in.Sinks[0], targets[in.Sinks[0]]})
	}
	return r, nil
}

// find returns the first route that takes collection, or ErrUnroutable.
func (r *router) find(collection string) (*route, error) {
	for i := range r.routes {
		for _, pattern := range r.routes[i].patterns {
			if pattern == "*" {
				return &r.routes[i], nil
			}
			if ok, _ := path.Match(pattern, collection); ok { // the patterns are good
				return &r.routes[i], nil
			}
		}
	}
	return nil, fmt.Errorf("%w %q", ErrUnroutable, collection)
}
