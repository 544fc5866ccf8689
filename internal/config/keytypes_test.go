package config

import "testing"

// TestEveryName: "*" is every collection, also one with a slash in its name.
func TestEveryName(t *testing.T) {
	s := Sink{Collections: map[string]Collection{"*": {OnReject: "halt", LaneGroup: "g", OwnLanes: 2}, "a*": {OnReject: "skip"}}}
	for collection, want := range map[string]string{"ab": "skip", "a/b": "halt", "b": "halt"} {
		if got := s.OnReject(collection); got != want {
			t.Errorf("on_reject of %s: %q, want %q", collection, got, want)
		}
		if group, class := s.LaneGroup(collection), s.OwnLanes(collection); group != "g" || class != "g" {
			t.Errorf("%s: group %q, lanes %q", collection, group, class)
		}
	}
}
