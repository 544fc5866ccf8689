package wal

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
)

// RepairReport is what a repair found, did and gave up. It is kept as report.json
// and report.txt beside what was set aside.
type RepairReport struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // of the directory in quarantine/
	Created time.Time `json:"created"`
	Stream  uuid.UUID `json:"stream"`
	// Findings are what is wrong.
	Findings []RepairFinding `json:"findings,omitempty"`
	// Torn is a torn tail, which is no damage; nil: there is none. Cut: the repair
	// cuts it off; else the next start does.
	Torn *RepairTorn `json:"torn_tail,omitempty"`
	// Lost are the LSNs that the repaired log has no record for, in order. They do
	// not overlap.
	Lost []LostLSNs `json:"lost,omitempty"`
	// Segments that are written anew.
	Segments []RepairSegment `json:"segments,omitempty"`
	// Format and Watermark: the file is written anew.
	Format    bool `json:"format,omitempty"`
	Watermark bool `json:"watermark,omitempty"`
	// Kept is how many records the log holds, before and after.
	Kept uint64 `json:"records_kept"`
	// First is the first LSN that the log accounts for, Next that of the next record.
	First LSN `json:"first_lsn"`
	Next  LSN `json:"next_lsn"`
	// Boot is the newest boot counter in the log; see Options.Attach.
	Boot uint64 `json:"boot"`
	// Bytes are written, in room that must be free; the files that they take the
	// place of are kept.
	Bytes int64 `json:"bytes"`
	// Interrupted: an earlier repair was, and is finished as it was planned.
	Interrupted bool `json:"interrupted,omitempty"`
	Done        bool `json:"done,omitempty"`
}

// RepairFinding is one thing that is wrong.
type RepairFinding struct {
	Place  string `json:"place"` // relative to the log's directory
	Offset int64  `json:"offset"`
	End    int64  `json:"end,omitempty"` // where what is good begins again, if known
	First  LSN    `json:"first_lsn,omitempty"`
	Last   LSN    `json:"last_lsn,omitempty"`
	What   string `json:"what"`
}

// RepairTorn is a torn tail.
type RepairTorn struct {
	Place  string `json:"place"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
	LSN    LSN    `json:"lsn"` // that the first of it would have had
	Cut    bool   `json:"cut"`
}

// LostLSNs are LSNs without a record.
type LostLSNs struct {
	First LSN `json:"first"`
	Last  LSN `json:"last"`
	// Doubtful: it is not known that they were given out, or not that they were
	// still in the log. They are never given out again. Else they were durable.
	Doubtful bool   `json:"doubtful,omitempty"`
	Why      string `json:"why"`
}

// Count is how many LSNs they are.
func (l LostLSNs) Count() uint64 { return uint64(l.Last-l.First) + 1 }

// RepairSegment is a segment that is written anew.
type RepairSegment struct {
	Seq     uint64 `json:"seq"`
	Place   string `json:"place"`
	First   LSN    `json:"first_lsn"`
	Last    LSN    `json:"last_lsn"` // gaps included
	Records uint64 `json:"records"`
	Bytes   int64  `json:"bytes"`
	CRC     uint32 `json:"crc32c"` // of the file
	Why     string `json:"why"`
	// Aside: what is there now is set aside; else there is nothing.
	Aside bool `json:"set_aside"`
}

// Needed reports whether there is anything to do.
func (r *RepairReport) Needed() bool {
	return r.Interrupted || len(r.Segments) > 0 || r.Format || r.Watermark
}

// LostForSure and LostPerhaps count what Lost lists.
func (r *RepairReport) LostForSure() uint64 { return r.count(false) }

// LostPerhaps counts the doubtful ones.
func (r *RepairReport) LostPerhaps() uint64 { return r.count(true) }

func (r *RepairReport) count(doubtful bool) (n uint64) {
	for _, l := range r.Lost {
		if l.Doubtful == doubtful {
			n += l.Count()
		}
	}
	return n
}

// textMax bounds the lines of each table of WriteText; report.json has all.
const textMax = 1000

// WriteText writes the report for people.
func (r *RepairReport) WriteText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) } // Flush has the error
	if r.Interrupted {
		p("An earlier repair, %s, was interrupted; it is finished as it was planned.\n", r.ID)
	}
	if len(r.Findings) > 0 {
		p("FOUND\tOFFSET\tLSN\tWHAT")
		for i, f := range r.Findings {
			if i == textMax {
				p("...\t\t\tand %d more, see report.json", len(r.Findings)-i)
				break
			}
			p("%s\t%d\t%s\t%s", f.Place, f.Offset, lsnRange(f.First, f.Last), f.What)
		}
		p("")
	}
	if t := r.Torn; t != nil {
		what := "the next start cuts it off and sets it aside"
		if t.Cut {
			what = "it is cut off and set aside"
		}
		p("torn tail\t%s\toffset %d\t%d bytes from LSN %d on, never acknowledged: %s\n", t.Place, t.Offset, t.Bytes, t.LSN, what)
	}
	if !r.Needed() {
		return w.Flush()
	}
	if len(r.Lost) > 0 {
		p("LSN\tCOUNT\t\tWHY")
		for i, l := range r.Lost {
			if i == textMax {
				p("...\t\t\tand %d more, see report.json", len(r.Lost)-i)
				break
			}
			state := "LOST"
			if l.Doubtful {
				state = "DOUBTFUL"
			}
			p("%s\t%d\t%s\t%s", lsnRange(l.First, l.Last), l.Count(), state, l.Why)
		}
		p("")
	}
	if len(r.Segments) > 0 {
		p("WRITTEN ANEW\tLSN\tRECORDS\tBYTES\tWHY")
		for _, s := range r.Segments {
			p("%s\t%s\t%d\t%d\t%s", s.Place, lsnRange(s.First, s.Last), s.Records, s.Bytes, s.Why)
		}
	}
	if r.Format {
		p("FORMAT\t\t\t\tdamaged or missing")
	}
	if r.Watermark {
		p("watermark\t\t\t\tto match the end of the log")
	}
	p("\n%d LSNs are lost for sure, %d perhaps; %d records are kept; the next one gets LSN %d.",
		r.LostForSure(), r.LostPerhaps(), r.Kept, r.Next)
	p("What is there now is kept in quarantine/%s.", r.ID)
	return w.Flush()
}

func lsnRange(first, last LSN) string {
	switch {
	case first == 0 || last < first:
		return "-"
	case first == last:
		return first.String()
	}
	return fmt.Sprintf("%d-%d", first, last)
}
