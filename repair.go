package walproxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// ErrStateNeeded: the state store cannot be used with the log, and it was not said
// what to do about that.
var ErrStateNeeded = errors.New("walproxy: it must be said what is to become of the state store")

// What a repair does with a state store that does not fit the log.
const (
	// StateAccept goes on with one that is older than the log, or lacks request ids.
	StateAccept = "accept"
	// StateRebuild sets it aside and makes a new one.
	StateRebuild = "rebuild"
)

// Conditions of a state store.
const (
	StateGood     = "good"
	StateMissing  = "missing"
	StateDamaged  = "damaged"
	StateForeign  = "foreign"  // another log's
	StateOlder    = "older"    // than the log
	StateRequests = "requests" // the ids of requests that the log has freed are not in it
)

// RepairOptions of OpenRepair; the zero value repairs the log alone.
type RepairOptions struct {
	// CutTornTail does at once what the next start does with a torn tail.
	CutTornTail bool
	// State is StateAccept or StateRebuild; "": a state store that is not good is
	// left as it is, and Apply says so.
	State string
	// Sinks that are configured: a rebuilt state store knows them, beside those that
	// the log's records are routed to.
	Sinks    []string
	Progress func(read, total int64) // of the log; may be nil
	Logger   *zap.Logger             // nil: none
}

// RepairReport is what a repair of a data directory found, will do or did.
type RepairReport struct {
	Log   *wal.RepairReport `json:"log"`
	State StateRepair       `json:"state"`
	// Sinks that the state store knows, or for a new one those that it will.
	Sinks []RepairedSink `json:"sinks,omitempty"`
}

// StateRepair is what is to become of the state store.
type StateRepair struct {
	Condition string `json:"condition"`
	Found     string `json:"found,omitempty"`
	// Action is StateAccept, StateRebuild or "", if nothing is done.
	Action string `json:"action,omitempty"`
	// Choices are the actions that would help; none: nothing needs to be done.
	Choices []string `json:"choices,omitempty"`
	// Aside is where the old one is kept, relative to the data directory.
	Aside string `json:"set_aside,omitempty"`
}

// RepairedSink says what a sink may lack of what is lost.
type RepairedSink struct {
	Name string `json:"name"`
	// Applied is how far the sink was for sure, by the state store.
	Applied LSN `json:"applied"`
	// Lost and Doubtful LSNs above that: at most so many records it will never get.
	Lost     uint64 `json:"lost"`
	Doubtful uint64 `json:"doubtful"`
}

// Needed reports whether Apply has anything to do.
func (r *RepairReport) Needed() bool { return r.Log.Needed() || r.State.Action != "" }

// Repair is a data directory that is being repaired, with its lock held.
type Repair struct {
	o      RepairOptions
	dir    Options
	log    *wal.Repair
	state  *state.Store // nil: there is none that can be opened
	opened bool
	openEr error
	names  []string // sinks of a state store to be rebuilt
	report RepairReport
}

// OpenRepair finds out what there is to repair in the data directory dir: in its log
// and in its state store. It changes neither. No proxy may have it open:
// *wal.LockedError. wal.ErrNoLog, wal.ErrVersion.
func OpenRepair(dir string, o RepairOptions) (*Repair, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	r := &Repair{o: o, dir: Options{Dir: dir}}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", wal.ErrNoLog, err)
	}
	var err error
	r.log, err = wal.OpenRepair(r.dir.logDir(), wal.RepairOptions{
		Stream: r.stream, Issued: r.issued, CutTornTail: o.CutTornTail, Progress: o.Progress, Logger: o.Logger.Named("wal"),
	})
	if err != nil {
		return nil, errors.Join(err, r.closeState())
	}
	if err := r.look(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// openState opens the state store if there is one, once: with the log's lock held.
func (r *Repair) openState() {
	if r.opened {
		return
	}
	r.opened = true
	dir := r.dir.stateDir()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		r.openEr = state.ErrMissing
		return
	}
	if err == nil {
		r.state, err = state.Open(dir, state.Options{Logger: r.o.Logger.Named("state")})
	}
	r.openEr = err
}

// stream is that of the state store.
func (r *Repair) stream() (uuid.UUID, error) {
	if r.openState(); r.state == nil {
		return uuid.Nil, nil
	}
	stream, _ := r.state.Stream()
	return stream, nil
}

// issued is the highest LSN of a stream that the state store has heard of.
func (r *Repair) issued(stream uuid.UUID) (LSN, error) {
	own, err := r.stream()
	if err != nil || own != stream || r.state == nil {
		return 0, err
	}
	highest, err := r.state.Highest()
	if err != nil { // it is as good as none
		r.openEr = err
		return 0, r.closeState()
	}
	return highest, nil
}

// look judges the state store, and what the sinks lack.
func (r *Repair) look() error {
	r.report.Log = r.log.Report()
	r.openState()
	if err := r.judge(); err != nil {
		return err
	}
	return r.lookAtSinks()
}

// judge says what ails the state store and what is done about it.
func (r *Repair) judge() error {
	log, err := r.report.Log, r.openEr
	empty := log.Next == 1
	if err == nil {
		err = r.state.Check(log.Stream, empty, log.Boot, log.First)
	}
	s := &r.report.State
	s.Condition = StateGood
	if err == nil || empty && errors.Is(err, state.ErrMissing) {
		return nil
	}
	s.Found = err.Error()
	switch {
	case errors.Is(err, state.ErrMissing):
		s.Condition, s.Choices = StateMissing, []string{StateRebuild}
	case errors.Is(err, state.ErrForeign):
		s.Condition, s.Choices = StateForeign, []string{StateRebuild}
	case errors.Is(err, state.ErrOlder):
		s.Condition, s.Choices = StateOlder, []string{StateAccept, StateRebuild}
	case errors.Is(err, state.ErrRequests):
		s.Condition, s.Choices = StateRequests, []string{StateAccept, StateRebuild}
	case errors.Is(err, state.ErrCorrupt), errors.Is(err, state.ErrFormat):
		s.Condition, s.Choices = StateDamaged, []string{StateRebuild}
	default:
		return err
	}
	if slices.Contains(s.Choices, r.o.State) {
		s.Action = r.o.State
	}
	if s.Action == StateRebuild && log.Interrupted {
		s.Action = "" // its records cannot be read before the log is whole: the next repair does it
	}
	if s.Action == StateRebuild && s.Condition != StateMissing {
		s.Aside = filepath.Join("log", "quarantine", "state-"+time.Now().UTC().Format("20060102T150405Z"))
	}
	return nil
}

// lookAtSinks counts what each sink may lack.
func (r *Repair) lookAtSinks() error {
	add := func(name string, applied LSN) {
		s := RepairedSink{Name: name, Applied: applied}
		for _, lost := range r.report.Log.Lost {
			if lost.Last <= applied {
				continue
			}
			lost.First = max(lost.First, applied+1)
			if lost.Doubtful {
				s.Doubtful += lost.Count()
			} else {
				s.Lost += lost.Count()
			}
		}
		r.report.Sinks = append(r.report.Sinks, s)
	}
	if r.state != nil && r.report.State.Action != StateRebuild && r.report.State.Condition != StateForeign {
		claims, err := r.state.Claims()
		if err != nil {
			return err
		}
		for _, c := range claims {
			add(c.Sink, max(c.From, c.Applied))
		}
		return nil
	}
	if r.report.State.Action != StateRebuild {
		return nil
	}
	if err := r.routed(); err != nil {
		return err
	}
	for _, name := range r.names {
		add(name, 0)
	}
	return nil
}

// routed collects the sinks that a rebuilt state store has to know.
func (r *Repair) routed() error {
	names := map[string]bool{}
	for _, name := range r.o.Sinks {
		names[name] = true
	}
	var outline mutation.Outline
	for f, err := range r.log.Frames() {
		if err != nil {
			if !errors.As(err, new(*wal.CorruptError)) && !errors.As(err, new(*wal.TornTailError)) {
				return err
			}
			continue
		}
		if f.Gap || outline.ReadRoutes(f.Payload) != nil {
			continue // the loop names what it cannot decode
		}
		for _, name := range outline.Routes() {
			if !names[name] {
				names[strings.Clone(name)] = true // it shares the payload's memory
			}
		}
	}
	for name := range names {
		r.names = append(r.names, name)
	}
	slices.Sort(r.names)
	return nil
}

// Report is what was found and Apply will do.
func (r *Repair) Report() *RepairReport { return &r.report }

// Apply does what Report says: the log first. It can be interrupted at any point
// and is finished by another repair. ErrStateNeeded: the log is repaired, and the
// state store would be refused still.
func (r *Repair) Apply() error {
	if err := r.log.Apply(); err != nil {
		return err
	}
	var err error
	switch r.report.State.Action {
	case StateAccept:
		err = r.state.Accept(r.report.Log.Stream, r.report.Log.Boot, r.report.Log.First)
	case StateRebuild:
		err = r.rebuild()
	default:
		if len(r.report.State.Choices) > 0 {
			err = fmt.Errorf("%w: it is %s: %s", ErrStateNeeded, r.report.State.Condition, r.report.State.Found)
		}
	}
	return err
}

// rebuild makes a new state store beside the old one, and then puts it in its place.
func (r *Repair) rebuild() (err error) {
	if err := r.closeState(); err != nil && !errors.Is(err, state.ErrCorrupt) {
		return err
	}
	dir, disk := r.dir.stateDir(), vfs.OS()
	fresh := dir + ".new"
	if err := disk.RemoveAll(fresh); err != nil {
		return err
	}
	if err := vfs.MkdirAllSync(disk, fresh, 0o755); err != nil {
		return err
	}
	st, err := state.Open(fresh, state.Options{Logger: r.o.Logger.Named("state")})
	if err != nil {
		return err
	}
	log := r.report.Log
	if err := errors.Join(st.Rebuild(log.Stream, log.Boot, log.First, r.names), st.Close()); err != nil {
		return err
	}
	if aside := r.report.State.Aside; aside != "" {
		aside = filepath.Join(r.dir.Dir, aside)
		if err := vfs.MkdirAllSync(disk, filepath.Dir(aside), 0o755); err != nil {
			return err
		}
		if err := disk.Rename(dir, aside); err != nil {
			return err
		}
		if err := errors.Join(disk.SyncDir(filepath.Dir(aside)), disk.SyncDir(r.dir.Dir)); err != nil {
			return err
		}
	} else if err := disk.RemoveAll(dir); err != nil { // empty, or not there
		return err
	}
	if err := disk.Rename(fresh, dir); err != nil {
		return err
	}
	return disk.SyncDir(r.dir.Dir)
}

func (r *Repair) closeState() error {
	if r.state == nil {
		return nil
	}
	st := r.state
	r.state = nil
	return st.Close()
}

// Close lets go of the data directory.
func (r *Repair) Close() error { return errors.Join(r.closeState(), r.log.Close()) }
