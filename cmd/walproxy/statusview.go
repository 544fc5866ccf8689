package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// lines are the view as a person reads it, none wider than width; 0: as wide as they
// are. What needs a person comes last, where the eye is, and is broken, not cut.
func (v *statusView) lines(width int) []string {
	var lines []string
	add := func(format string, args ...any) {
		line := strings.Join(strings.FieldsFunc(fmt.Sprintf(format, args...), func(r rune) bool { return r == '\n' || r == '\r' }), " ")
		if r := []rune(line); width > 0 && len(r) >= width {
			line = string(r[:max(width-2, 0)]) + ">"
		}
		lines = append(lines, line)
	}
	where := v.Dir
	if v.Running {
		where = v.Server
	}
	add("walproxy %s  %s UTC", where, v.Time.Format(time.DateTime))
	switch {
	case v.live != nil:
		v.liveLines(add)
	case v.Stopped != nil:
		v.stoppedLines(add)
	}
	if len(v.Notes) > 0 {
		add("")
		for _, text := range v.Notes {
			lines = append(lines, wrap("note: "+text, width)...)
		}
	}
	add("")
	switch {
	case len(v.Attention) > 0:
	case len(v.Notes) > 0:
		add("healthy: nothing is urgent; see the notes")
	default:
		add("healthy: nothing needs you")
	}
	for _, text := range v.Attention {
		lines = append(lines, wrap("!! "+text, width)...)
	}
	return lines
}

func (v *statusView) liveLines(add func(string, ...any)) {
	st := v.live
	measured := "; rates are not measured yet"
	if st.WindowSeconds > 0 {
		measured = fmt.Sprintf("; rates of the last %.0fs", st.WindowSeconds)
	}
	if st.Accepting {
		add("writes  taken    %s/s, %s/s%s", numberText(st.Log.RecordsRate), sizeText(int64(st.Log.BytesRate)), measured)
	} else {
		add("writes  REFUSED  %s", st.Refusing)
	}
	add("log     LSN %d to %d, %s of %s; state store %s", st.Log.First, st.Log.Durable, sizeText(st.Log.Bytes), sizeText(st.Log.MaxBytes), sizeText(st.StateBytes))
	add("disk    %s free%s; %s", sizeText(st.Log.FreeBytes), floorText(st.Log.MinFree), v.fullText())
	for i := range st.Sinks {
		st.Sinks[i].lines(st.WindowSeconds, add)
	}
}

func floorText(floor int64) string {
	if floor < 0 {
		return ", no floor"
	}
	return ", floor " + sizeText(floor)
}

func (v *statusView) fullText() string {
	l := &v.live.Log
	switch {
	case v.live.WindowSeconds == 0:
		return "how fast it fills is not measured yet"
	case l.FullSeconds > 0:
		return fmt.Sprintf("full in about %s at +%s/s", spanText(l.FullSeconds), sizeText(int64(l.GrowthRate)))
	case l.GrowthRate < 0:
		return fmt.Sprintf("not filling, -%s/s", sizeText(int64(-l.GrowthRate)))
	}
	return "not filling"
}

func (s *liveSinkStatus) lines(window float64, add func(string, ...any)) {
	word := s.word(window)
	add("")
	if s.Lag == 0 {
		add("sink %s  %s  everything up to LSN %d is applied; %s/s", s.Name, word, s.Applied, numberText(s.PassedRate))
	} else {
		most := ""
		if s.LagAtMost { // not counted yet, after a start
			most = "at most "
		}
		add("sink %s  %s  %s%s records behind, %s, the oldest %s", s.Name, word, most, numberText(float64(s.Lag)), sizeText(s.LagBytes), ageText(s.OldestSeconds))
		add("        %s", s.rateText(word, window))
	}
	if s.DeadLetters > 0 {
		add("        %d dead letters, %s, which park %d keys", s.DeadLetters, sizeText(s.DeadLetterBytes), s.ParkedKeys)
	}
	if s.HeldRecords > 0 {
		add("        %d of them were copied out of the log, %s", s.HeldRecords, sizeText(s.HeldBytes))
	}
	if s.Unsettled > 0 {
		add("        %s LSNs up to %d are applied and not settled: a restart of a node could take them back", numberText(float64(s.Unsettled)), s.Applied)
	}
	owner := "owner not known"
	if s.Owner != "" {
		owner = "owner " + s.Owner
	}
	add("        epoch %d, %s", s.Epoch, owner)
	if s.Error != "" {
		add("        last error: %s", s.Error)
	}
}

func ageText(seconds float64) string {
	if seconds == 0 {
		return "of unknown age"
	}
	return spanText(seconds) + " old"
}

func (s *liveSinkStatus) rateText(word string, window float64) string {
	switch {
	case window == 0:
		return "how fast it goes is not measured yet"
	case !s.RatesKnown:
		return fmt.Sprintf("applies %s/s; its backlog is still being counted, the numbers are upper bounds", numberText(s.PassedRate))
	case s.LevelSeconds > 0:
		return fmt.Sprintf("applies %s/s, gets %s/s: level in about %s", numberText(s.PassedRate), numberText(s.AddedRate), spanText(s.LevelSeconds))
	case word == sinkMoving && s.PassedRate > 0:
		return fmt.Sprintf("applies %s/s, gets %s/s: at this rate it never catches up", numberText(s.PassedRate), numberText(s.AddedRate))
	}
	return fmt.Sprintf("applies %s/s, gets %s/s", numberText(s.PassedRate), numberText(s.AddedRate))
}

func (v *statusView) stoppedLines(add func(string, ...any)) {
	st := v.Stopped
	add("writes  NOT TAKEN  no server runs")
	closed := "not closed in order: the next start looks at its end"
	if st.Clean {
		closed = "closed in order"
	}
	if st.Last == 0 {
		add("log     empty")
	} else {
		add("log     LSN %d to %d, %s in %d segments, %s", st.First, st.Last, sizeText(st.LogBytes), st.Segments, closed)
	}
	if st.QuarantineBytes > 0 {
		add("        %s in quarantine", sizeText(st.QuarantineBytes))
	}
	add("disk    %s free", sizeText(st.FreeBytes))
	for i := range st.Sinks {
		s := &st.Sinks[i]
		add("")
		add("sink %s  %s  at LSN %d when that was noted last; at most %s records behind", s.Name, s.State, s.Applied, numberText(float64(s.LagMost)))
		if s.DeadLetters > 0 {
			add("        %d dead letters, %s, which park %d keys", s.DeadLetters, sizeText(int64(s.DeadLetterBytes)), s.ParkedKeys)
		}
		if s.Identity != "" {
			add("        store %s", s.Identity)
		}
	}
}

// numberText is a whole number in groups of three, or a small one with a tenth.
func numberText(n float64) string {
	if n > 0 && n < 10 && n != float64(int64(n)) {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	text := strconv.FormatInt(int64(n+0.5), 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// spanText is a time span, as coarse as one wants to know it.
func spanText(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case seconds > 1e9:
		return "very long"
	case d < time.Minute:
		return strconv.FormatFloat(seconds, 'f', 0, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// wrap breaks text into lines of at most width, those after the first indented; 0: one
// line.
func wrap(text string, width int) (lines []string) {
	words := strings.Fields(text)
	if width < 20 {
		return []string{strings.Join(words, " ")}
	}
	line := ""
	for _, word := range words {
		if line != "" && len([]rune(line))+1+len([]rune(word)) >= width {
			lines = append(lines, line)
			line = "    " + word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
