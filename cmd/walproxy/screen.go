package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// screen keeps lines at the bottom of a terminal that are drawn again and again.
// What is written to it, whole lines, appears above them: the log's, say. The library
// of the demo's bar draws a single one; several with text above them are less code
// than another dependency.
type screen struct {
	out io.Writer

	mu    sync.Mutex
	lines []string
}

func newScreen(out io.Writer) *screen { return &screen{out: out} }

// width of the terminal, 80 if it does not say.
func (s *screen) width() int {
	if f, ok := s.out.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}

// draw puts lines in place of those drawn before.
func (s *screen) draw(lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	s.clear(&b)
	s.lines = lines
	s.paint(&b)
	_, _ = s.out.Write(b.Bytes()) // a terminal that is gone shows nothing
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	s.clear(&b)
	b.Write(p)
	s.paint(&b)
	_, err := s.out.Write(b.Bytes())
	return len(p), err
}

// clear goes back to where the lines begin, and erases from there.
func (s *screen) clear(b *bytes.Buffer) {
	if n := len(s.lines); n > 0 {
		fmt.Fprintf(b, "\x1b[%dA\r\x1b[J", n)
	}
}

func (s *screen) paint(b *bytes.Buffer) {
	width := s.width()
	for _, line := range s.lines {
		if r := []rune(line); len(r) >= width { // one that wraps could not be erased
			line = string(r[:width-1])
		}
		b.WriteString(line + "\n")
	}
}

const barCells = 24

// bar is a sink's line.
func (s *screen) bar(e *replaySinkEvent) string {
	share := 1.0
	if total := e.passed + e.Left; total > 0 {
		share = float64(e.passed) / float64(total)
	}
	full := int(share * barCells)
	text := fmt.Sprintf("%-12s [%s%s] %5.1f%%  %s left", e.Sink, strings.Repeat("#", full), strings.Repeat(".", barCells-full), 100*share, atMost(e))
	switch {
	case e.SecondsLeft != nil && e.State == "running":
		text += fmt.Sprintf("  %.0f/s  %s to go", e.Rate, roughly(*e.SecondsLeft))
	default:
		text += "  " + e.State
	}
	if e.DeadLettersMade > 0 {
		text += fmt.Sprintf("  %d dead letters", e.DeadLettersMade)
	}
	if e.Why != "" {
		text += "  " + oneLine(e.Why)
	}
	return text
}

// oneLine is text, of a driver say, without line breaks.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// speedWindow is what a rate is measured over.
const speedWindow = 10 * time.Second

// speed measures how fast a counter rises.
type speed struct{ samples []sample }

type sample struct {
	at    time.Time
	count uint64
}

// note adds a sample and returns the rate per second over the window.
func (s *speed) note(now time.Time, count uint64) float64 {
	s.samples = append(s.samples, sample{now, count})
	for len(s.samples) > 2 && now.Sub(s.samples[1].at) >= speedWindow {
		s.samples = s.samples[1:]
	}
	first := s.samples[0]
	if took := now.Sub(first.at).Seconds(); took > 0 {
		return float64(count-first.count) / took
	}
	return 0
}
