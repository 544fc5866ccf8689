package peers

const (
	native  = "walproxy native"
	rawName = "raw pwrite + fdatasync"
)

// Result is a run: what is kept of it, and what docs/benchmarks.md is made from.
type Result struct {
	Machine, Disk, Commit, Date, Command string

	Targets []Target
	Cells   []Cell
	Steady  []Row // 64 writers of 512 bytes, half of what each takes at most
	Scan    Scan
	Starts  []Start
}

// Target is a row's name and how it is used; Skipped says why it is not measured.
type Target struct{ Name, Note, Skipped string }

// Cell is all targets at one number of writers and one size.
type Cell struct {
	Writers, Bytes int
	GroupBytes     float64 // mean, of the native engine
	Rows           []Row
}

// Row is one target. Latencies are in microseconds.
type Row struct {
	Name           string
	Rate           float64 // records per second
	P50, P99, P999 float64
}

func (c *Cell) row(name string) (Row, bool) {
	for _, r := range c.Rows {
		if r.Name == name {
			return r, true
		}
	}
	return Row{}, false
}

// Scan compares verifying a log with reading its files; bytes per second.
type Scan struct {
	Bytes                int64
	Read, Verify         float64 // from memory
	ColdRead, ColdVerify float64 // from the disk
}

// Start is how long an Open takes after a clean stop with a backlog.
type Start struct {
	Backlog      int64
	Milliseconds float64
}
