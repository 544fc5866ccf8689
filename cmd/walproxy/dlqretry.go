package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/dlq"
)

// outcome is what became of one dead letter that was logged again.
type outcome struct {
	Sink   string       `json:"sink"`
	Origin walproxy.LSN `json:"origin"`
	LSN    walproxy.LSN `json:"lsn"`
	State  string       `json:"state"` // applied, dead, parked; logged: not known yet
}

// outcomes of a retry, an edit or an import; what --json prints.
type outcomes struct {
	Retried []outcome `json:"retried"`
	Applied int       `json:"applied"`
	Dead    int       `json:"dead"`
	Parked  int       `json:"parked"`
	Unknown int       `json:"unknown"`
	// Unchanged: an edit changed nothing, and nothing was done.
	Unchanged bool `json:"unchanged,omitempty"`
}

// outcomesShown is how many are listed one by one, or kept for --json.
const outcomesShown = 1000

func (o *outcomes) add(one outcome) {
	switch one.State {
	case walproxy.StateApplied:
		o.Applied++
	case walproxy.StateDead:
		o.Dead++
	case walproxy.StateParked:
		o.Parked++
	default:
		o.Unknown++
	}
	if len(o.Retried) < outcomesShown {
		o.Retried = append(o.Retried, one)
	}
}

// retryExits are how retry, edit and import may end.
var retryExits = map[int]string{
	exitOK:          "all of them are applied; or there was nothing to do",
	exitRemaining:   "logged, and what becomes of some of them is not known yet: the sink has not come to them in time",
	exitFailed:      "the server does not answer, or failed on the way",
	exitStart:       "no server runs; or the data directory is none",
	exitDeadLetters: "some of them are dead letters again, or parked",
}

// verdict is what the command ends with.
func (o *outcomes) verdict() error {
	switch {
	case o.Dead+o.Parked > 0:
		return exitWith(exitDeadLetters, fmt.Errorf("%d are dead letters again, %d of them parked: `walproxy dlq ls` lists them", o.Dead+o.Parked, o.Parked))
	case o.Unknown > 0:
		return exitWith(exitRemaining, fmt.Errorf("what becomes of %d is not known yet: they are in the log and will be tried; `walproxy status` says what the sink waits for", o.Unknown))
	}
	return nil
}

// tell prints what became of them, one by one if they are few.
func (o *outcomes) tell(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		if o.Retried == nil {
			o.Retried = []outcome{}
		}
		if err := printJSON(cmd, o); err != nil {
			return err
		}
		return o.verdict()
	}
	out := cmd.OutOrStdout()
	const few = 20
	if len(o.Retried) <= few {
		for _, r := range o.Retried {
			fmt.Fprintf(out, "sink %s: LSN %d was logged again as LSN %d: %s\n", r.Sink, r.Origin, r.LSN, r.State)
		}
	}
	fmt.Fprintf(out, "%d applied, %d dead again, %d parked, %d not known yet\n", o.Applied, o.Dead, o.Parked, o.Unknown)
	return o.verdict()
}

// retryAnswer is what the API says of retries and edits.
type retryAnswer struct {
	Retried   []outcome `json:"retried"`
	Unchanged bool      `json:"unchanged"`
}

const (
	defaultOutcomeTimeout = time.Minute
	// apiTimeoutMax is the longest that the API waits.
	apiTimeoutMax = 10 * time.Minute
	// retryBatch is how many are retried in one call.
	retryBatch = 200
)

// again asks for something to be logged again and waits for what becomes of it, up to
// deadline; behind it only until it is logged.
func (r *remoteLetters) again(ctx context.Context, path string, in any, deadline time.Time) (answer retryAnswer, err error) {
	wait := min(time.Until(deadline), apiTimeoutMax)
	q := url.Values{"ack": {"applied"}, "timeout": {wait.String()}}
	if wait <= 0 {
		wait, q = callTimeout, url.Values{"timeout": {callTimeout.String()}}
	}
	ctx, cancel := context.WithTimeout(ctx, wait+callTimeout)
	defer cancel()
	err = r.call(ctx, "POST", path+"?"+q.Encode(), in, &answer)
	return answer, err
}

func newDLQRetry() *cobra.Command {
	var flags letterFlags
	var all, asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "retry [LSN...]",
		Short: "Log dead letters again, with the queues of their keys, and wait for the outcome",
		Long: "retry logs dead letters again, under new LSNs, for the sink that rejected them, each with what is parked\n" +
			"with it, in order; and waits for what becomes of them. What is rejected again is a dead letter again.\n" +
			"Which: LSNs, or flags that select them, or --all. It needs a running server; of a stopped one nothing\n" +
			"would be applied: start it first.",
		Example: "  walproxy dlq retry 1234\n" +
			"  walproxy dlq retry --sink main --collection orders --code 23503\n" +
			"  walproxy dlq retry --all --timeout 10m --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			box, err := flags.openServer(cmd)
			if err != nil {
				return err
			}
			found, err := flags.choose(cmd.Context(), box, args, all)
			if err != nil {
				return err
			}
			var result outcomes
			if len(found) == 0 {
				if asJSON {
					return result.tell(cmd, true)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "no dead letters to retry at %s\n", box.where())
				return err
			}
			deadline := time.Now().Add(timeout)
			for _, c := range found {
				if err := box.retry(cmd.Context(), c, deadline, &result); err != nil {
					return errors.Join(err, result.tell(cmd, asJSON))
				}
			}
			return result.tell(cmd, asJSON)
		},
	}
	flags.register(cmd)
	registerOutcome(cmd, &timeout, &asJSON)
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters")
	return cmd
}

func registerOutcome(cmd *cobra.Command, timeout *time.Duration, asJSON *bool) {
	cmd.Flags().DurationVar(timeout, "timeout", defaultOutcomeTimeout, "how `long` to wait for the outcome")
	cmd.Flags().BoolVar(asJSON, "json", false, "print the outcome as JSON")
	exits(cmd, retryExits)
}

// retry retries c, and adds what became of it.
func (r *remoteLetters) retry(ctx context.Context, c chosen, deadline time.Time, result *outcomes) error {
	done := map[walproxy.LSN]bool{} // with what came before it
	for rest := c.lsns; len(rest) > 0; {
		var batch []walproxy.LSN
		for len(rest) > 0 && len(batch) < retryBatch {
			if !done[rest[0]] {
				batch = append(batch, rest[0])
			}
			delete(done, rest[0])
			rest = rest[1:]
		}
		for len(batch) > 0 {
			answer, err := r.again(ctx, lettersPath(c.sink)+":retry", map[string]any{"lsns": batch}, deadline)
			var refused *remoteError
			if errors.As(err, &refused) && refused.Answer.Status == http.StatusNotFound {
				break // somebody else was faster, or they are in the log by now
			}
			if err != nil {
				return err
			}
			retried := map[walproxy.LSN]bool{}
			for _, one := range answer.Retried {
				one.Sink = c.sink
				result.add(one)
				done[one.Origin], retried[one.Origin] = true, true
			}
			before := len(batch)
			batch = without(batch, retried)
			if len(batch) == before {
				break // they are no dead letters any more
			}
		}
	}
	return nil
}

func without(lsns []walproxy.LSN, gone map[walproxy.LSN]bool) (left []walproxy.LSN) {
	for _, lsn := range lsns {
		if !gone[lsn] {
			left = append(left, lsn)
		}
	}
	return left
}

func newDLQDiscard() *cobra.Command {
	var flags letterFlags
	var all, yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "discard [LSN...]",
		Short: "Give dead letters up: their writes will never be applied",
		Long: "discard gives dead letters up, for good and durably. A key that nothing is parked behind takes writes\n" +
			"again at once; what is parked stays so until it is retried: `walproxy dlq retry --state parked`.\n" +
			"It says what would be lost and asks; without a terminal it takes --yes.\n" +
			"Export them first (`walproxy dlq export`) if anybody may want them. Who did it is kept in audit.log.",
		Example: "  walproxy dlq discard 1234\n" +
			"  walproxy dlq discard --sink main --collection sessions --yes\n" +
			"  walproxy dlq discard --all --yes --json",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			box, err := flags.open(cmd)
			if err != nil {
				return err
			}
			defer closeBox(box, &err)
			found, err := flags.choose(cmd.Context(), box, args, all)
			if err != nil {
				return err
			}
			return discardLetters(cmd, box, found, yes, asJSON)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

// discardAnswer is what --json prints, of each sink.
type discardAnswer struct {
	Sink      string `json:"sink"`
	Discarded int    `json:"discarded"`
	Bytes     int    `json:"bytes"`
}

func discardLetters(cmd *cobra.Command, box letterBox, found []chosen, yes, asJSON bool) error {
	answer := []discardAnswer{}
	out := cmd.OutOrStdout()
	if asJSON {
		out = cmd.ErrOrStderr()
	}
	if len(found) == 0 {
		if asJSON {
			return printJSON(cmd, answer)
		}
		_, err := fmt.Fprintf(out, "no dead letters to give up at %s\n", box.where())
		return err
	}
	total := 0
	for _, c := range found {
		total += len(c.lsns)
		fmt.Fprintf(out, "sink %s: %d dead letters (%d bytes), %d of them parked, would be given up for good:\n", c.sink, len(c.lsns), c.bytes, c.parked)
		for i := range c.letters {
			l := &c.letters[i]
			fmt.Fprintf(out, "  LSN %d  %s  %s %s  %s\n", l.LSN, l.State, l.Collection, short(string(l.Key), 24), short(reasonOf(l), 50))
		}
		if more := len(c.lsns) - len(c.letters); more > 0 {
			fmt.Fprintf(out, "  and %d more\n", more)
		}
	}
	if err := confirm(cmd, yes, fmt.Sprintf("Give up %d dead letters?", total)); err != nil {
		return err
	}
	for _, c := range found {
		done := discardAnswer{Sink: c.sink, Bytes: c.bytes}
		for rest := c.lsns; len(rest) > 0; {
			n := min(len(rest), walproxy.RetryMax)
			gone, err := box.discard(cmd.Context(), c.sink, rest[:n])
			done.Discarded += gone
			if err != nil {
				return errors.Join(err, fmt.Errorf("of sink %s %d were given up before that", c.sink, done.Discarded))
			}
			rest = rest[n:]
		}
		answer = append(answer, done)
		fmt.Fprintf(out, "sink %s: %d dead letters are given up\n", c.sink, done.Discarded)
		if c.parked < len(c.lsns) {
			fmt.Fprintf(out, "  what is parked behind them, if anything is, waits for a retry: walproxy dlq ls --sink %s --state parked\n", c.sink)
		}
	}
	if asJSON {
		return printJSON(cmd, answer)
	}
	return nil
}

// letterForm has the write of l for people.
func letterForm(l *dlq.Letter) ([]byte, error) {
	text, err := l.Text()
	return text, exitWith(exitUsage, err)
}
