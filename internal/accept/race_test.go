//go:build race

package accept

const raceEnabled = true
