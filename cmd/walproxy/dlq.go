package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/dlq"
	"github.com/walproxy/walproxy/internal/jsonform"
)

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at dead letters, mend them, retry them, give them up, move them",
		Long: "A dead letter is an acknowledged write that a store rejected, or one that is parked behind such a\n" +
			"write of its key. It stays until it is retried with success, or given up.\n\n" +
			"ls, show, export and discard work on a running server and on the files of a stopped one. retry, edit\n" +
			"and import need a server: what they do is a write to the log, and what comes of it is the store's word.",
	}
	cmd.AddCommand(newDLQList(), newDLQShow(), newDLQRetry(), newDLQEdit(), newDLQDiscard(), newDLQExport(), newDLQImport())
	return cmd
}

// letterBox is where dead letters are: a server or files.
type letterBox interface {
	sinks(ctx context.Context) ([]string, error)
	page(ctx context.Context, sink string, filter *dlq.Filter, from walproxy.LSN, limit int) (letters []dlq.Letter, next walproxy.LSN, err error)
	// letter returns errNoLetter if there is none.
	letter(ctx context.Context, sink string, lsn walproxy.LSN) (dlq.Letter, error)
	// export writes lines, and returns how many.
	export(ctx context.Context, sink string, filter *dlq.Filter, from walproxy.LSN, out *lineWriter) error
	discard(ctx context.Context, sink string, lsns []walproxy.LSN) (gone int, err error)
	// where is said to people.
	where() string
	close() error
}

// errNoLetter: there is no such dead letter, or none any more.
var errNoLetter = errors.New("no such dead letter")

// letterFlags select dead letters.
type letterFlags struct {
	placeFlags
	sink, collection, key, code, state, since, until, lsn string
}

func (f *letterFlags) register(cmd *cobra.Command) {
	f.placeFlags.register(cmd)
	f.registerSink(cmd)
	cmd.Flags().StringVar(&f.collection, "collection", "", "only those that write to this `collection`")
	cmd.Flags().StringVar(&f.key, "key", "", "only those of this `key`: text, or JSON as [\"a\",1]")
	cmd.Flags().StringVar(&f.code, "code", "", "only those with this `SQLSTATE`; two characters are a class, as 23")
	cmd.Flags().StringVar(&f.state, "state", "", "only those in this `state`: dead or parked")
	cmd.Flags().StringVar(&f.since, "since", "", "only those from this `time` on: RFC 3339, or a duration ago as 2h")
	cmd.Flags().StringVar(&f.until, "until", "", "only those from before this `time`")
	cmd.Flags().StringVar(&f.lsn, "lsn", "", "only those of this `range`: 12, 12-40 or 12-")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{dlq.Dead, dlq.Parked}, cobra.ShellCompDirectiveNoFileComp))
}

// registerSink is for commands that are told which dead letters by their LSNs.
func (f *letterFlags) registerSink(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.sink, "sink", "", "`name` of the sink that rejected them; needed where several could be meant")
	_ = cmd.RegisterFlagCompletionFunc("sink", func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return sinkNames(cmd, &f.configFlags), cobra.ShellCompDirectiveNoFileComp
	})
}

// selection is which dead letters are meant.
type selection struct {
	filter dlq.Filter
	from   walproxy.LSN
}

// selects reports whether any flag says which.
func (f *letterFlags) selects() bool {
	return f.sink+f.collection+f.key+f.code+f.state+f.since+f.until+f.lsn != ""
}

func (f *letterFlags) selection() (s selection, err error) {
	s.from = 1
	q := url.Values{}
	for name, value := range map[string]string{"collection": f.collection, "key": f.key, "code": f.code, "state": f.state} {
		q.Set(name, value)
	}
	for name, text := range map[string]string{"since": f.since, "until": f.until} {
		at, err := timeOf(text)
		if err != nil {
			return s, usage("--%s: %v", name, err)
		}
		if !at.IsZero() {
			q.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if f.lsn != "" {
		first, last, ranged := strings.Cut(f.lsn, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 63)
		if err != nil || from == 0 {
			return s, usage("--lsn: %q is no range: want 12, 12-40 or 12-", f.lsn)
		}
		s.from = walproxy.LSN(from)
		q.Set("to", last)
	}
	s.filter, err = dlq.ParseFilter(q)
	var wrong *dlq.FieldError
	if errors.As(err, &wrong) {
		return s, usage("--%s: %s", strings.Replace(wrong.Field, "to", "lsn", 1), wrong.Reason)
	}
	if s.filter.To > 0 && s.filter.To < s.from {
		return s, usage("--lsn: %s ends before it begins", f.lsn)
	}
	return s, err
}

// timeOf reads a time, or how long ago it was.
func timeOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago.Abs()), nil
	}
	at, err := jsonform.ParseTime(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: %w, or how long ago, as 2h", text, err)
	}
	return at.AsTime(), nil
}

func usage(format string, args ...any) error {
	return exitWith(exitUsage, fmt.Errorf(format, args...))
}

// open finds where the dead letters are.
func (f *letterFlags) open(cmd *cobra.Command) (letterBox, error) {
	p, err := f.find(cmd)
	if err != nil {
		return nil, err
	}
	if p.server != nil {
		return &remoteLetters{p.server}, nil
	}
	files, err := dlq.Open(p.dir)
	if err != nil {
		return nil, exitWith(exitStart, err)
	}
	return &fileLetters{files, p.dir}, nil
}

// openServer is open for what only a server can do.
func (f *letterFlags) openServer(cmd *cobra.Command) (*remoteLetters, error) {
	r, err := f.running(cmd)
	if err != nil {
		return nil, err
	}
	return &remoteLetters{r}, nil
}

// sinksOf are the sinks to look at: that of --sink, or all.
func (f *letterFlags) sinksOf(ctx context.Context, box letterBox) ([]string, error) {
	if f.sink != "" {
		return []string{f.sink}, nil
	}
	return box.sinks(ctx)
}

// locate finds the sink that has a dead letter of lsn: the only one, or that of --sink.
func (f *letterFlags) locate(ctx context.Context, box letterBox, lsn walproxy.LSN) (found dlq.Letter, err error) {
	names, err := f.sinksOf(ctx, box)
	if err != nil {
		return found, err
	}
	var where []string
	var missing error
	for _, name := range names {
		l, err := box.letter(ctx, name, lsn)
		if errors.Is(err, errNoLetter) {
			var gone *noLetterError
			if missing == nil || errors.As(err, &gone) && gone.Known {
				missing = err
			}
			continue
		}
		if err != nil {
			return found, err
		}
		found = l
		where = append(where, name)
	}
	switch {
	case len(where) == 1:
		return found, nil
	case len(where) > 1:
		return found, usage("LSN %d is a dead letter of the sinks %s: say which with --sink", lsn, strings.Join(where, ", "))
	}
	return found, exitWith(exitUsage, cmp.Or(missing, fmt.Errorf("%w: LSN %d", errNoLetter, lsn)))
}

// lsnArgs reads LSNs of the command line.
func lsnArgs(args []string) (lsns []walproxy.LSN, err error) {
	for _, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 63)
		if err != nil || n == 0 {
			return nil, usage("%q is no LSN: want a whole number from 1, as `walproxy dlq ls` lists them", arg)
		}
		lsns = append(lsns, walproxy.LSN(n))
	}
	return lsns, nil
}

// chosen are the dead letters of one sink that a command is to do something with.
type chosen struct {
	sink    string
	lsns    []walproxy.LSN
	bytes   int
	parked  int
	letters []dlq.Letter // the first few, to show
}

const chosenShown = 10

// choose collects what args or the flags select, by sink; all says that everything may
// be meant.
func (f *letterFlags) choose(ctx context.Context, box letterBox, args []string, all bool) ([]chosen, error) {
	lsns, err := lsnArgs(args)
	if err != nil {
		return nil, err
	}
	if len(lsns) > 0 {
		return f.chooseNamed(ctx, box, lsns)
	}
	if !all && !f.selects() {
		return nil, usage("which dead letters? Name their LSNs, or select them by flags as --sink or --collection, or say --all")
	}
	s, err := f.selection()
	if err != nil {
		return nil, err
	}
	names, err := f.sinksOf(ctx, box)
	if err != nil {
		return nil, err
	}
	var found []chosen
	for _, name := range names {
		c := chosen{sink: name}
		for from := s.from; from > 0; {
			var page []dlq.Letter
			if page, from, err = box.page(ctx, name, &s.filter, from, pageLetters); err != nil {
				return nil, err
			}
			for i := range page {
				c.add(&page[i])
			}
		}
		if len(c.lsns) > 0 {
			found = append(found, c)
		}
	}
	return found, nil
}

// pageLetters is how many are read at once.
const pageLetters = 1000

func (c *chosen) add(l *dlq.Letter) {
	c.lsns = append(c.lsns, l.LSN)
	c.bytes += l.Bytes
	if l.State == dlq.Parked {
		c.parked++
	}
	if len(c.letters) < chosenShown {
		c.letters = append(c.letters, *l)
	}
}

func (f *letterFlags) chooseNamed(ctx context.Context, box letterBox, lsns []walproxy.LSN) (found []chosen, err error) {
	at := map[string]int{}
	for _, lsn := range lsns {
		l, err := f.locate(ctx, box, lsn)
		if err != nil {
			return nil, err
		}
		i, ok := at[l.Sink]
		if !ok {
			i, at[l.Sink] = len(found), len(found)
			found = append(found, chosen{sink: l.Sink})
		}
		found[i].add(&l)
	}
	return found, nil
}
