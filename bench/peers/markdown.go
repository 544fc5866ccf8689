package peers

import (
	"fmt"
	"strings"
)

// markdown is docs/benchmarks.md.
func (r *Result) markdown() string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# Benchmarks\n")
	say("<!-- Written by bench/peers: change it there. -->\n")
	say("The log beside the disk's limit and beside others that make records durable, in one run on one disk, all targets of")
	say("a cell in turns. Ratios are what counts; the numbers belong to the machine.\n")
	say("- Machine: %s\n- Disk: %s\n- Commit: %s, %s\n- Command: `%s`\n", r.Machine, r.Disk, r.Commit, r.Date, r.Command)
	say("| target | |\n|---|---|")
	for _, t := range r.Targets {
		if t.Skipped != "" {
			t.Note = "not measured: " + t.Skipped
		}
		say("| %s | %s |", t.Name, t.Note)
	}
	say("\n![Records per second](bench-rates.svg)\n\n![Latency at half load](bench-latency.svg)\n\n![Start after a clean stop](bench-start.svg)\n")
	say("## Records per second, and how many times as many the native engine takes\n")
	for _, size := range r.sizes() {
		say("%d bytes:\n", size)
		r.table(say, size, func(c *Cell, row Row) string {
			own, _ := c.row(native)
			return fmt.Sprintf("%s (%.2f)", thousands(row.Rate), ratio(own.Rate, row.Rate))
		})
		say("")
	}
	say("## Latency of an acknowledgement, every writer writing all the time: p50 / p99 / p99.9 in µs\n")
	for _, size := range r.sizes() {
		say("%d bytes:\n", size)
		r.table(say, size, func(_ *Cell, row Row) string {
			return fmt.Sprintf("%s / %s / %s", thousands(row.P50), thousands(row.P99), thousands(row.P999))
		})
		say("")
	}
	say("A latency of the raw loop is that of a group.\n\n## Latency at half load: 64 writers of 512 bytes, half of what each target takes at most\n")
	say("| target | records/s | p50 µs | p99 µs | p99.9 µs |\n|---|---|---|---|---|")
	for _, row := range r.Steady {
		say("| %s | %s | %s | %s | %s |", row.Name, thousands(row.Rate), thousands(row.P50), thousands(row.P99), thousands(row.P999))
	}
	say("\n## Scan and start\n")
	say("Verifying %d MiB of log in records of 512 bytes, one goroutine, beside reading the same files with read(2):\n", r.Scan.Bytes>>20)
	say("| | verify | read | ratio |\n|---|---|---|---|")
	say("| from the disk | %.2f GB/s | %.2f GB/s | %.0f %% |", r.Scan.ColdVerify/1e9, r.Scan.ColdRead/1e9, 100*ratio(r.Scan.ColdVerify, r.Scan.ColdRead))
	say("| from memory | %.2f GB/s | %.2f GB/s | %.0f %% |\n", r.Scan.Verify/1e9, r.Scan.Read/1e9, 100*ratio(r.Scan.Verify, r.Scan.Read))
	say("| backlog at a clean stop | start |\n|---|---|")
	for _, s := range r.Starts {
		say("| %d MiB | %.1f ms |", s.Backlog>>20, s.Milliseconds)
	}
	return b.String()
}

func (r *Result) sizes() (sizes []int) {
	for _, c := range r.Cells {
		if len(sizes) == 0 || sizes[len(sizes)-1] != c.Bytes {
			sizes = append(sizes, c.Bytes)
		}
	}
	return sizes
}

// table has a row for each target and a column for each number of writers.
func (r *Result) table(say func(string, ...any), size int, text func(*Cell, Row) string) {
	head, line := "| writers |", "|---|"
	for _, c := range r.Cells {
		if c.Bytes == size {
			head += fmt.Sprintf(" %d |", c.Writers)
			line += "---|"
		}
	}
	say("%s\n%s", head, line)
	for _, t := range r.Targets {
		if t.Skipped != "" {
			continue
		}
		out := "| " + t.Name + " |"
		for _, c := range r.Cells {
			if c.Bytes != size {
				continue
			}
			cell := " |"
			if row, ok := c.row(t.Name); ok {
				cell = " " + text(&c, row) + " |"
			}
			out += cell
		}
		say("%s", out)
	}
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func thousands(n float64) string {
	s := fmt.Sprintf("%.0f", n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
