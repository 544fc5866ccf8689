package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Source       string // file name or environment variable; empty: a default
	Line, Column int    // in a file, from 1; 0: not known
	Key          string // YAML key, as "sinks.main.lanes"
	Reason       string
}

func (f Fault) String() string {
	var b strings.Builder
	if f.Source != "" {
		b.WriteString(f.Source)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
		}
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Reason)
	return b.String()
}

// Error is everything that is wrong, one fault per line.
type Error struct{ Faults []Fault }

func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// collect makes an error of faults, in the order of the file.
func collect(faults []Fault) error {
	if len(faults) == 0 {
		return nil
	}
	slices.SortStableFunc(faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
	return &Error{Faults: faults}
}

// origin remembers where each key was said.
type origin struct {
	file      string
	positions map[string]place // by YAML key
}

type place struct {
	variable     string // environment variable; else the file
	line, column int
}

func (o *origin) set(key string, p place) {
	if o.positions == nil {
		o.positions = map[string]place{}
	}
	o.positions[key] = p
}

// fault points at key, or at the nearest of its parents that was written.
func (o *origin) fault(key, format string, args ...any) Fault {
	f := Fault{Key: key, Reason: fmt.Sprintf(format, args...)}
	for at := key; at != ""; {
		if p, ok := o.positions[at]; ok {
			f.Source, f.Line, f.Column = o.file, p.line, p.column
			if p.variable != "" {
				f.Source, f.Line, f.Column = p.variable, 0, 0
			}
			return f
		}
		cut := strings.LastIndexAny(at, ".[")
		at = at[:max(cut, 0)]
	}
	f.Source = o.file
	return f
}
