package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// askTimeout bounds how long `sink ls --stores` waits for one store.
const askTimeout = 20 * time.Second

// sinkRow is a sink of a stopped directory. Where a running server's status has the
// same member it means the same.
type sinkRow struct {
	Name       string `json:"name"`
	State      string `json:"state"` // stopped, paused, unclaimed, not_configured, new
	Configured bool   `json:"configured"`
	Claimed    bool   `json:"claimed"`
	Paused     bool   `json:"paused,omitempty"`
	// From: nothing at or below it is the sink's. Applied as it was noted last.
	From    walproxy.LSN `json:"from"`
	Applied walproxy.LSN `json:"applied"`
	// LagMost is how many records of the log are above that: at most so many are the
	// sink's and not in its store.
	LagMost         uint64 `json:"lag_most"`
	DeadLetters     uint64 `json:"dead_letters"`
	DeadLetterBytes uint64 `json:"dead_letter_bytes"`
	ParkedKeys      int    `json:"parked_keys"`
	HeldRecords     uint64 `json:"held_records,omitempty"`
	HeldBytes       uint64 `json:"held_bytes,omitempty"`
	Identity        string `json:"identity,omitempty"`
	// With --stores: what the store says.
	Store *storeRow `json:"store,omitempty"`
}

// storeRow is what a store says of itself.
type storeRow struct {
	Identity string          `json:"identity,omitempty"`
	Stream   string          `json:"stream,omitempty"`
	Epoch    uint64          `json:"epoch,omitempty"`
	Lanes    []walproxy.LSN  `json:"lanes,omitempty"`
	Error    string          `json:"error,omitempty"`
	Points   []walproxyPoint `json:"points,omitempty"`
}

type walproxyPoint struct {
	LSN         walproxy.LSN `json:"lsn"`
	Incarnation uuid.UUID    `json:"incarnation"`
}

// sinkList is what --json prints.
type sinkList struct {
	Running bool   `json:"running"`
	Server  string `json:"server,omitempty"`
	// Log of a stopped directory: what Inspect says of it.
	First   walproxy.LSN `json:"first,omitempty"`
	Last    walproxy.LSN `json:"last,omitempty"`
	Refusal string       `json:"refusal,omitempty"` // why a start would refuse the log
	Sinks   any          `json:"sinks"`
}

func newSinkList() *cobra.Command {
	var flags placeFlags
	var asJSON, stores bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the sinks: state, position, lag, dead letters, owner",
		Long: "ls lists the sinks as the running server sees them, or, if none runs, as the data directory knows\n" +
			"them: positions are those that were noted last then, and the lag an upper bound. --stores asks each\n" +
			"store where it is, too, and changes nothing there.",
		Example: "  walproxy sink ls --config walproxy.yaml\n" +
			"  walproxy sink ls --stores --config walproxy.yaml\n" +
			"  walproxy sink ls --server http://127.0.0.1:7070 --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := flags.find(cmd)
			if err != nil {
				return err
			}
			if p.server != nil {
				return listRunning(cmd, p.server, asJSON)
			}
			return listStopped(cmd, p, stores, asJSON)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	cmd.Flags().BoolVar(&stores, "stores", false, "ask each store, too, if no server runs")
	return cmd
}

// liveSink is what the table shows of a running server's sink.
type liveSink struct {
	Name        string         `json:"name"`
	State       string         `json:"state"`
	Error       string         `json:"error"`
	Epoch       uint64         `json:"epoch"`
	Applied     walproxy.LSN   `json:"applied"`
	Lag         uint64         `json:"lag"`
	LagBytes    int64          `json:"lag_bytes"`
	Lanes       []walproxy.LSN `json:"lanes"`
	DeadLetters uint64         `json:"dead_letters"`
	ParkedKeys  int            `json:"parked_keys"`
	Owner       string         `json:"owner"`
}

func listRunning(cmd *cobra.Command, r *remote, asJSON bool) error {
	var answer struct{ Sinks []json.RawMessage }
	if err := r.call(cmd.Context(), "GET", "/v1/sinks", nil, &answer); err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd, sinkList{Running: true, Server: r.api, Sinks: answer.Sinks})
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tAPPLIED\tLAG\tLAG BYTES\tDEAD LETTERS\tPARKED KEYS\tEPOCH\tLANES\tOWNER")
	var ail []string
	for _, raw := range answer.Sinks {
		var s liveSink
		if err := json.Unmarshal(raw, &s); err != nil {
			return exitWith(exitFailed, err)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", s.Name, s.State, s.Applied, s.Lag, s.LagBytes,
			s.DeadLetters, s.ParkedKeys, s.Epoch, len(s.Lanes), s.Owner)
		if s.Error != "" {
			ail = append(ail, fmt.Sprintf("%s is %s: %s", s.Name, s.State, s.Error))
			if s.State == "halted" {
				ail = append(ail, fmt.Sprintf("  when that is mended: walproxy sink resume %s", s.Name))
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, line := range ail {
		fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	return nil
}

func listStopped(cmd *cobra.Command, p *place, stores, asJSON bool) error {
	list, rows, err := stoppedSinks(cmd.Context(), p, stores)
	if err != nil {
		return exitOffline(err)
	}
	if asJSON {
		list.Sinks = rows
		return printJSON(cmd, list)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "no server runs for %s; its log has LSN %d to %d\n", p.dir, list.First, list.Last)
	if list.Refusal != "" {
		fmt.Fprintf(out, "a start would refuse the log: %s\n", list.Refusal)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tCONFIGURED\tCLAIMED\tFROM\tAPPLIED\tLAG\tDEAD LETTERS\tPARKED KEYS\tSTORE")
	for _, s := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t<=%d\t%d\t%d\t%s\n", s.Name, s.State, yesNo(s.Configured), yesNo(s.Claimed),
			s.From, s.Applied, s.LagMost, s.DeadLetters, s.ParkedKeys, s.Identity)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range rows {
		if s.Store != nil {
			fmt.Fprintln(out, describeStore(s))
		}
	}
	return nil
}

func describeStore(s sinkRow) string {
	if s.Store.Error != "" {
		return fmt.Sprintf("%s: its store says: %s", s.Name, s.Store.Error)
	}
	return fmt.Sprintf("%s: its store %s is at lanes %v of stream %s, epoch %d", s.Name, s.Store.Identity, s.Store.Lanes, s.Store.Stream, s.Store.Epoch)
}

// stoppedSinks are those that the directory or the configuration knows.
func stoppedSinks(ctx context.Context, p *place, stores bool) (list sinkList, rows []sinkRow, err error) {
	known, err := walproxy.KnownSinks(p.dir)
	if err != nil {
		return list, nil, err
	}
	in, err := wal.Inspect(filepath.Join(p.dir, "log"), wal.InspectOptions{})
	if err != nil && !errors.Is(err, wal.ErrNoLog) {
		return list, nil, err
	}
	if in != nil {
		list.First, list.Last = in.First, in.Last
		if in.Refusal != nil {
			list.Refusal = in.Refusal.Error()
		}
	}
	for _, s := range known {
		_, configured := p.config.Sinks[s.Name]
		row := sinkRow{Name: s.Name, State: "stopped", Configured: configured, Claimed: s.Claimed, Paused: s.Paused, From: s.From,
			Applied: s.Applied, DeadLetters: s.DeadLetters, DeadLetterBytes: s.DeadLetterBytes, ParkedKeys: s.ParkedKeys,
			HeldRecords: s.HeldRecords, HeldBytes: s.HeldBytes, Identity: s.Identity}
		if low := max(s.From, s.Applied, list.First-min(list.First, 1)); list.Last > low {
			row.LagMost = uint64(list.Last - low)
		}
		switch {
		case !configured:
			row.State = "not_configured"
		case s.Paused:
			row.State = "paused"
		case !s.Claimed:
			row.State = "unclaimed"
		}
		rows = append(rows, row)
	}
	for _, name := range slices.Sorted(maps.Keys(p.config.Sinks)) {
		if !slices.ContainsFunc(rows, func(r sinkRow) bool { return r.Name == name }) {
			rows = append(rows, sinkRow{Name: name, State: "new", Configured: true, From: list.Last})
		}
	}
	for i := range rows {
		if stores && rows[i].Configured {
			rows[i].Store = askStore(ctx, p.config, rows[i].Name)
		}
	}
	return list, rows, nil
}

// askStore opens a sink's store and asks where it is.
func askStore(ctx context.Context, c *config.Config, name string) *storeRow {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	i := &instance{config: c, logger: zap.NewNop(), registry: prometheus.NewRegistry()}
	row, err := i.askStore(ctx, name)
	if err != nil {
		row.Error = err.Error()
	}
	return row
}

func (i *instance) askStore(ctx context.Context, name string) (row *storeRow, err error) {
	row = &storeRow{}
	if i.config.Sinks[name].Type == config.TypePebble { // to open one is to make it
		if _, err := os.Stat(i.config.SinkPath(name)); err != nil {
			return row, err
		}
	}
	sink, err := i.openSink(name, i.config.Sinks[name])
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, sink.Close(ctx)) }()
	if identifier, ok := sink.(sinks.Identifier); ok {
		if row.Identity, err = identifier.Identity(ctx); err != nil {
			return row, err
		}
	}
	positioner, ok := sink.(sinks.Positioner)
	if !ok {
		return row, errors.ErrUnsupported
	}
	at, err := positioner.Position(ctx)
	if err != nil {
		return row, err
	}
	row.Stream, row.Epoch = at.Stream.String(), at.Epoch
	for _, p := range at.Lanes {
		row.Lanes = append(row.Lanes, p.LSN)
		row.Points = append(row.Points, walproxyPoint{p.LSN, p.Incarnation})
	}
	return row, nil
}
