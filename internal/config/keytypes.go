package config

import (
	"cmp"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/walproxy/walproxy/mutation"
)

var keyTypes = map[string]mutation.KeyType{
	"":          mutation.KeyString,
	"string":    mutation.KeyString,
	"int64":     mutation.KeyInt64,
	"bytes":     mutation.KeyBytes,
	"composite": mutation.KeyComposite,
}

// KeyTypeRule is the key type of the collections that match a pattern.
type KeyTypeRule struct {
	Pattern string
	Type    mutation.KeyType
}

// KeyTypes lists the key types that the sinks' collections ask for, the one to
// try first in front: those of Aerospike's namespaces, whose keys are digests,
// then names before patterns, longer patterns before shorter.
func (c *Config) KeyTypes() []KeyTypeRule {
	types := map[string]mutation.KeyType{}
	for _, s := range c.Sinks {
		for pattern, col := range s.Collections {
			if col.KeyType != "" {
				types[pattern] = keyTypes[col.KeyType]
			}
		}
	}
	patterns := slices.SortedFunc(maps.Keys(types), specificFirst)
	rules := c.AeroWire.keyTypes()
	for _, p := range patterns {
		rules = append(rules, KeyTypeRule{Pattern: p, Type: types[p]})
	}
	return rules
}

// specificFirst orders patterns: names before patterns, longer before shorter.
func specificFirst(a, b string) int {
	return cmp.Or(cmp.Compare(wildcards(a), wildcards(b)), cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
}

// matches: "*" alone is every name, those with a slash, too.
func matches(pattern, collection string) bool {
	ok, _ := path.Match(pattern, collection) // validated: no error
	return ok || pattern == "*"
}

// OnReject returns the policy of a collection, as the most specific pattern that
// matches says it; empty if none does.
func (s Sink) OnReject(collection string) string {
	for _, pattern := range s.Patterns() {
		policy := s.Collections[pattern].OnReject
		if policy != "" && matches(pattern, collection) {
			return policy
		}
	}
	return ""
}

// LaneGroup returns the group of collections that share a lane with this one, as
// the most specific pattern that matches says it; empty if none does.
func (s Sink) LaneGroup(collection string) string {
	for _, pattern := range s.Patterns() {
		group := s.Collections[pattern].LaneGroup
		if group != "" && matches(pattern, collection) {
			return group
		}
	}
	return ""
}

// Classes are the sets of own lanes by name, and how many lanes each has. A lane
// group's class has its name, another one the name of its pattern.
func (s Sink) Classes() map[string]int {
	classes := map[string]int{}
	for pattern, c := range s.Collections {
		if c.OwnLanes > 0 {
			classes[cmp.Or(c.LaneGroup, pattern)] = c.OwnLanes
		}
	}
	return classes
}

// OwnLanes returns the class of a collection, as the most specific pattern that
// matches says it; empty if none does.
func (s Sink) OwnLanes(collection string) (class string) {
	for _, pattern := range s.Patterns() {
		c := s.Collections[pattern]
		if c.OwnLanes > 0 && matches(pattern, collection) {
			return cmp.Or(c.LaneGroup, pattern)
		}
	}
	return ""
}

// ownLanes refuses a lane group whose patterns differ in their lanes: it has one.
func (c *checker) ownLanes(key string, s Sink) {
	classes := s.Classes()
	c.want(len(classes) <= ownLanesMax, key+".collections", "%d of them have own_lanes, at most %d", len(classes), ownLanesMax)
	first := map[string]string{} // lane group -> pattern
	for _, pattern := range slices.Sorted(maps.Keys(s.Collections)) {
		col := s.Collections[pattern]
		at := key + ".collections." + pattern + ".own_lanes"
		c.want(col.OwnLanes >= 0 && col.OwnLanes <= 64, at, "%d is out of range: 0 to 64", col.OwnLanes)
		if col.LaneGroup == "" {
			continue
		}
		other, ok := first[col.LaneGroup]
		if !ok {
			first[col.LaneGroup] = pattern
			continue
		}
		c.want(s.Collections[other].OwnLanes == col.OwnLanes, at,
			"%d, but %s of the same lane group %s has %d", col.OwnLanes, other, col.LaneGroup, s.Collections[other].OwnLanes)
	}
}

// ownLanesMax is how many classes a loop can have beside the common one.
const ownLanesMax = 15

func wildcards(pattern string) int {
	if strings.ContainsAny(pattern, `*?[\`) {
		return 1
	}
	return 0
}

// keyTypes refuses two sinks that see one collection's keys differently: a key
// has one canonical form, in the log.
func (c *checker) keyTypes(cfg *Config) {
	first := map[string]string{} // pattern -> sink
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		for _, pattern := range slices.Sorted(maps.Keys(cfg.Sinks[name].Collections)) {
			kt := cfg.Sinks[name].Collections[pattern].KeyType
			if kt == "" {
				continue
			}
			other, seen := first[pattern]
			if seen && cfg.Sinks[other].Collections[pattern].KeyType != kt {
				c.fault("sinks."+name+".collections."+pattern+".key_type",
					"%s differs from sink %s's %s", kt, other, cfg.Sinks[other].Collections[pattern].KeyType)
			}
			first[pattern] = name
		}
	}
}

// SinkPath is where an embedded sink keeps its data.
func (c *Config) SinkPath(name string) string {
	if p := c.Sinks[name].Path; p != "" {
		return p
	}
	return filepath.Join(c.DataDir, "sinks", name)
}

// Patterns lists the patterns of the sink's collections, the one to try first in
// front.
func (s Sink) Patterns() []string { return slices.SortedFunc(maps.Keys(s.Collections), specificFirst) }
