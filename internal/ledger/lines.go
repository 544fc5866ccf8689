package ledger

import (
	"fmt"
	"strings"
)

// Try is the line by which another process says that it sends w. Keys and
// tokens hold no space.
func (w Write) Try() string { return fmt.Sprintf("try %d %s %d %s", w.Kind, w.Key, w.Delta, w.Token) }

// ParseTry reads a line that Try made.
func ParseTry(line string) (Write, error) {
	var w Write
	if _, err := fmt.Sscanf(line, "try %d %s %d %s", &w.Kind, &w.Key, &w.Delta, &w.Token); err != nil {
		return w, fmt.Errorf("ledger: line %q: %w", line, err)
	}
	return w, nil
}

// AckLine is the line by which another process says that a write was acked.
func AckLine(token string, lsn uint64, repeat bool) string {
	return fmt.Sprintf("ack %d %t %s", lsn, repeat, token)
}

// Note notes a line of another process.
func (l *Ledger) Note(line string) error {
	if strings.HasPrefix(line, "try ") {
		w, err := ParseTry(line)
		if err == nil {
			l.Attempt(w)
		}
		return err
	}
	var token string
	var lsn uint64
	var repeat bool
	if _, err := fmt.Sscanf(line, "ack %d %t %s", &lsn, &repeat, &token); err != nil {
		return fmt.Errorf("ledger: line %q: %w", line, err)
	}
	l.Ack(token, lsn, repeat)
	return nil
}
