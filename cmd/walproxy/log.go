package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/wal"
)

func newLog() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Look into the log: list, verify, print, export, repair",
		Long: "log looks into the log of a data directory. Its commands but import, repair and quarantine --empty\n" +
			"change nothing and take no lock: they work beside a running server, on a damaged log, and on a copy of one.",
	}
	cmd.AddCommand(newLogList(), newLogVerify(), newLogCat(), newLogStat(), newLogExport(), newLogImport(), newLogRepair(), newLogQuarantine())
	return cmd
}

// logFlags say whose log it is.
type logFlags struct{ configFlags }

func (f *logFlags) register(cmd *cobra.Command) { f.registerFiles(cmd) }

// inspect looks at the log. Errors carry exit codes.
func (f *logFlags) inspect(cmd *cobra.Command) (*wal.Inspection, error) {
	c, err := f.load(cmd)
	if err != nil {
		return nil, err
	}
	return inspectLog(c.DataDir)
}

// inspectLog looks at the log of dataDir.
func inspectLog(dataDir string) (*wal.Inspection, error) {
	if err := isDataDir(dataDir); err != nil {
		return nil, exitWith(exitStart, err)
	}
	in, err := wal.Inspect(filepath.Join(dataDir, "log"), wal.InspectOptions{})
	switch {
	case errors.Is(err, wal.ErrVersion):
		err = fmt.Errorf("%w: a newer walproxy wrote it: use that one", err)
	case errors.Is(err, wal.ErrNoLog):
		err = fmt.Errorf("%w: it is begun with the first `walproxy serve`", err)
	}
	return in, exitWith(exitStart, err)
}

// sizeText is n bytes for people.
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, i := float64(n), 0
	for value >= 1024 && i+1 < len(units) {
		value, i = value/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}

// rangeText is a range of LSNs for people.
func rangeText(first, last wal.LSN) string {
	switch {
	case last < first:
		return "none"
	case first == last:
		return fmt.Sprintf("LSN %d", first)
	}
	return fmt.Sprintf("LSN %d to %d", first, last)
}

func segmentText(s *wal.Segment) string {
	if s.Run > 1 {
		return fmt.Sprintf("%016x (%d in a row)", s.Seq, s.Run)
	}
	return fmt.Sprintf("%016x", s.Seq)
}

// timeText is a time for people; "-" if it is not known.
func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func lsnText(n wal.LSN) string { return strconv.FormatUint(uint64(n), 10) }

// stateText says who has the log open, and how it was left.
func stateText(in *wal.Inspection) string {
	switch {
	case in.Owner != nil && in.Owner.PID != 0:
		return fmt.Sprintf("open by pid %d", in.Owner.PID)
	case in.Owner != nil:
		return "open by another process"
	case in.Refusal != nil:
		return "a start would be refused"
	case in.Clean:
		return "stopped in order"
	}
	return "not stopped in order: the next start looks at the tail again and rewrites it"
}

// damageJSON is damage for scripts.
type damageJSON struct {
	Kind   string  `json:"kind"` // damaged, torn, freed, undecodable, failed
	File   string  `json:"file,omitempty"`
	Offset int64   `json:"offset"`
	End    int64   `json:"end,omitempty"`
	First  wal.LSN `json:"first_lsn,omitempty"`
	Last   wal.LSN `json:"last_lsn,omitempty"`
	Text   string  `json:"text"`
}

func newDamageJSON(err error) damageJSON {
	d := damageJSON{Kind: "failed", Text: err.Error()}
	if e, ok := errors.AsType[*wal.CorruptError](err); ok {
		d.Kind, d.File, d.Offset, d.End, d.First, d.Last = "damaged", e.Segment, e.Offset, e.End, e.First, e.Last
	}
	if e, ok := errors.AsType[*wal.TornTailError](err); ok {
		d.Kind, d.File, d.Offset, d.End, d.First = "torn", e.Segment, e.Offset, e.Offset+e.Bytes, e.LSN
	}
	if e, ok := errors.AsType[*wal.FreedError](err); ok {
		d.Kind, d.File, d.First, d.Last = "freed", e.Segment, e.First, e.Last
	}
	if e, ok := errors.AsType[*wal.VisitError](err); ok {
		d.Kind, d.File, d.Offset, d.First, d.Last = "undecodable", e.Segment, e.Offset, e.LSN, e.LSN
	}
	return d
}
