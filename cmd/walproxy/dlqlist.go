package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/dlq"
)

// listed is a dead letter with its sink, for --json.
type listed struct {
	Sink string `json:"sink"`
	dlq.Letter
}

// letterList is what `dlq ls --json` prints.
type letterList struct {
	DeadLetters []listed `json:"dead_letters"`
	// Next says where to go on: --sink and --lsn.
	Next *letterNext `json:"next,omitempty"`
}

type letterNext struct {
	Sink string       `json:"sink"`
	LSN  walproxy.LSN `json:"lsn"`
}

func newDLQList() *cobra.Command {
	var flags letterFlags
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List dead letters, the oldest first",
		Long: "ls lists the dead letters of a running server, or of the files of a stopped one, sink by sink, by LSN.\n" +
			"Flags select some of them: those for which all holds.",
		Example: "  walproxy dlq ls\n" +
			"  walproxy dlq ls --sink main --collection orders --code 23 --since 2h\n" +
			"  walproxy dlq ls --lsn 1000- --limit 500 --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if limit < 1 {
				return usage("--limit: %d: want at least 1", limit)
			}
			s, err := flags.selection()
			if err != nil {
				return err
			}
			box, err := flags.open(cmd)
			if err != nil {
				return err
			}
			defer closeBox(box, &err)
			list, err := flags.list(cmd, box, s, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, list)
			}
			return printLetters(cmd, box, list)
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "list at most this `number`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	return cmd
}

// closeBox makes the error of closing the command's, unless it has one.
func closeBox(box letterBox, err *error) {
	if closing := box.close(); *err == nil {
		*err = closing
	}
}

func (f *letterFlags) list(cmd *cobra.Command, box letterBox, s selection, limit int) (letterList, error) {
	list := letterList{DeadLetters: []listed{}}
	names, err := f.sinksOf(cmd.Context(), box)
	if err != nil {
		return list, err
	}
	for _, name := range names {
		for from := s.from; from > 0; {
			if len(list.DeadLetters) == limit {
				list.Next = &letterNext{name, from}
				if rest, next, err := box.page(cmd.Context(), name, &s.filter, from, 1); err == nil && len(rest) == 0 && next == 0 {
					list.Next = nil
				}
				break
			}
			var page []dlq.Letter
			if page, from, err = box.page(cmd.Context(), name, &s.filter, from, min(limit-len(list.DeadLetters), pageLetters)); err != nil {
				return list, err
			}
			for _, l := range page {
				list.DeadLetters = append(list.DeadLetters, listed{name, l})
			}
		}
		if list.Next != nil {
			break
		}
	}
	return list, nil
}

func printLetters(cmd *cobra.Command, box letterBox, list letterList) error {
	out := cmd.OutOrStdout()
	if len(list.DeadLetters) == 0 {
		_, err := fmt.Fprintf(out, "no dead letters at %s\n", box.where())
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SINK\tLSN\tSTATE\tWHEN\tCOLLECTION\tKEY\tATTEMPTS\tBYTES\tCODE\tREASON")
	for i := range list.DeadLetters {
		l := &list.DeadLetters[i]
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", l.Sink, l.LSN, l.State, l.When.Format(time.DateTime),
			l.Collection, short(string(l.Key), 24), l.Attempts, l.Bytes, dash(l.Details["sqlstate"]), short(reasonOf(&l.Letter), 60))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if list.Next != nil {
		fmt.Fprintf(out, "there are more: go on with --sink %s --lsn %d-\n", list.Next.Sink, list.Next.LSN)
	}
	first := list.DeadLetters[0]
	_, err := fmt.Fprintf(out, "`walproxy dlq show %d --sink %s` shows one whole\n", first.LSN, first.Sink)
	return err
}

// reasonOf is the store's own message where there is one.
func reasonOf(l *dlq.Letter) string {
	if m := l.Details["message"]; m != "" {
		return m
	}
	return l.Reason
}

// short makes text one line of at most n characters.
func short(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > n {
		return string(r[:n-3]) + "..."
	}
	return text
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func newDLQShow() *cobra.Command {
	var flags letterFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show LSN",
		Short: "Show one dead letter: its write, why it was rejected, what waits behind it",
		Long: "show prints what is known of one dead letter: the write, the store's error in its parts, how often it\n" +
			"was tried, and the writes to its key that are parked behind it.",
		Example: "  walproxy dlq show 1234\n" +
			"  walproxy dlq show 1234 --sink main --json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			lsns, err := lsnArgs(args)
			if err != nil {
				return err
			}
			box, err := flags.open(cmd)
			if err != nil {
				return err
			}
			defer closeBox(box, &err)
			l, err := flags.locate(cmd.Context(), box, lsns[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, l)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), describeLetter(&l))
			return err
		},
	}
	flags.placeFlags.register(cmd)
	flags.registerSink(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// detailOrder is how the parts of a store's error are listed; others follow.
var detailOrder = []string{"sqlstate", "message", "detail", "hint", "constraint", "table", "column"}

func describeLetter(l *dlq.Letter) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	state := "dead: the store rejected it"
	if l.State == dlq.Parked {
		state = "parked: it waits behind an earlier dead letter of its key, and was not tried itself"
	}
	line("LSN", "%d at sink %s", l.LSN, l.Sink)
	if l.Position != l.LSN {
		line("first", "LSN %d, of which this is a retry", l.Position)
	}
	line("state", "%s", state)
	if !l.Parks {
		line("policy", "skip: later writes to its key went on without it")
	}
	line("when", "%s (%s ago)", l.When.Format(time.RFC3339), time.Since(l.When).Round(time.Second))
	line("attempts", "%d", l.Attempts)
	line("collection", "%s", l.Collection)
	line("key", "%s", l.Key)
	for _, k := range l.Keys {
		line("writes", "%s %s", k.Collection, k.Key)
	}
	line("reason", "%s", l.Reason)
	told := map[string]bool{}
	for _, name := range detailOrder {
		if value := l.Details[name]; value != "" {
			line("  "+name, "%s", value)
			told[name] = true
		}
	}
	for name, value := range l.Details {
		if !told[name] {
			line("  "+name, "%s", value)
		}
	}
	line("bytes", "%d", l.Bytes)
	if text, err := l.Text(); err == nil {
		b.WriteString("write\n" + indent(text))
	} else if text, ok := l.Command(); ok {
		b.WriteString("write, as its client sent it: it can be retried as it is, or discarded\n" + indent(text))
	} else {
		line("write", "%v; --json has it as it was logged", err)
	}
	describeQueue(&b, l)
	sink := ""
	if l.Whole != nil {
		sink = " --sink " + l.Sink
	}
	fmt.Fprintf(&b, "next\n  when the cause is mended: walproxy dlq retry %d%s\n  to mend the write:        walproxy dlq edit %d%s\n  to give it up:            walproxy dlq discard %d%s\n",
		l.LSN, sink, l.LSN, sink, l.LSN, sink)
	return b.String()
}

func describeQueue(b *strings.Builder, l *dlq.Letter) {
	if len(l.Queue) == 0 {
		b.WriteString("queue        nothing waits behind it\n")
		return
	}
	more := ""
	if l.QueueMore {
		more = " and more"
	}
	fmt.Fprintf(b, "queue        %d%s behind it, in the order in which they will be applied:\n", len(l.Queue), more)
	for _, q := range l.Queue {
		fmt.Fprintf(b, "  LSN %d  %s  %s  %d bytes  %s\n", q.LSN, q.State, q.When.Format(time.DateTime), q.Bytes, short(q.Reason, 60))
	}
}

func indent(text []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		b.WriteString("  " + line)
	}
	return b.String()
}
