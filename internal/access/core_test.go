package access

import (
	"testing"
)

// TestReadsAreGuarded: no way of reading goes past the grant, what the sink has now
// included. The core behind is none: who got there would panic.
func TestReadsAreGuarded(t *testing.T) {
	core, ctx := Core(nil), t.Context() // nobody has let it in
	for name, read := range map[string]func() error{
		"Read":              func() error { _, err := core.Read(ctx, "orders", nil); return err },
		"ReadEvents":        func() error { _, err := core.ReadEvents(ctx, "orders", nil, 1, 1); return err },
		"Scan":              func() error { _, err := core.Scan(ctx, "orders", "", nil, 1); return err },
		"ReadApplied":       func() error { _, err := core.ReadApplied(ctx, "orders", nil); return err },
		"ReadEventsApplied": func() error { _, err := core.ReadEventsApplied(ctx, "orders", nil, 1, 1); return err },
		"ScanApplied":       func() error { _, err := core.ScanApplied(ctx, "orders", "", nil, 1); return err },
	} {
		if read() == nil {
			t.Errorf("%s reads without a grant", name)
		}
	}
}
