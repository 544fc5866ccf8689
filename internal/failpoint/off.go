//go:build !failpoint

// Package failpoint lets crash tests stop the process at a named place. It is
// compiled away unless built with -tags failpoint: nothing in the environment
// can switch a release binary to faults.
package failpoint

// On reports whether the binary was built with failpoints.
const On = false

// Hit does nothing.
func Hit(string) {}

// Enabled reports false.
func Enabled(string) bool { return false }
