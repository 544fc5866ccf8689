package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/walproxy/walproxy/internal/dlq"
)

func newDLQEdit() *cobra.Command {
	var flags letterFlags
	var sets, unsets []string
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "edit LSN",
		Short: "Mend a dead letter's write and retry it, with the queue of its key",
		Long: "edit opens the write of a dead letter in an editor (VISUAL, EDITOR, or vi), as the JSON that\n" +
			"POST /v1/mutations takes, or changes it by --set and --unset without one. What comes out is logged in the\n" +
			"dead letter's place, with the queue of its key behind it, and edit waits for what becomes of them. Until\n" +
			"it is in the log the dead letter is what it was. An edit that changes nothing does nothing.\n\n" +
			"A path is a member of the mutation (key, if_version), a field under an op (set.total), or a field's name\n" +
			"alone if one op has fields; parts follow behind points (items.0.price), and the members of a group begin\n" +
			"with their index (1.set.total). A value is JSON, as 5, true or {\"$decimal\": \"1.50\"}; else it is text.\n" +
			"WALPROXY_EDITOR names an editor that needs no terminal.",
		Example: "  walproxy dlq edit 1234\n" +
			"  walproxy dlq edit 1234 --set total=10 --unset if_version\n" +
			"  walproxy dlq edit 1234 --sink main --set 'note=\"007\"' --json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lsns, err := lsnArgs(args)
			if err != nil {
				return err
			}
			box, err := flags.openServer(cmd)
			if err != nil {
				return err
			}
			l, err := flags.locate(cmd.Context(), box, lsns[0])
			if err != nil {
				return err
			}
			text, err := letterForm(&l)
			if err != nil {
				return err
			}
			e := edit{cmd: cmd, box: box, letter: &l, original: text, timeout: timeout, asJSON: asJSON}
			if len(sets)+len(unsets) > 0 {
				return e.change(sets, unsets)
			}
			return e.inEditor()
		},
	}
	flags.placeFlags.register(cmd)
	flags.registerSink(cmd)
	cmd.Flags().StringArrayVar(&sets, "set", nil, "set `path=value` instead of opening an editor; may stand several times")
	cmd.Flags().StringArrayVar(&unsets, "unset", nil, "remove what is at this `path`; may stand several times")
	registerOutcome(cmd, &timeout, &asJSON)
	return cmd
}

// edit of one dead letter.
type edit struct {
	cmd      *cobra.Command
	box      *remoteLetters
	letter   *dlq.Letter
	original []byte
	timeout  time.Duration
	asJSON   bool
}

// change edits without an editor.
func (e *edit) change(sets, unsets []string) error {
	doc := json.RawMessage(e.original)
	var err error
	for _, path := range unsets {
		if doc, err = dlq.Unset(doc, path); err != nil {
			return usage("--unset: %w", err)
		}
	}
	for _, set := range sets {
		path, value, ok := strings.Cut(set, "=")
		if !ok {
			return usage("--set %s: want path=value", set)
		}
		if doc, err = dlq.Set(doc, path, value); err != nil {
			return usage("--set: %w", err)
		}
	}
	return e.submit(doc) // on one line: nobody has seen lines
}

// submit logs the write of text in the dead letter's place. Nothing was done if it is
// wrong: a usage error with field and line.
func (e *edit) submit(text []byte) error {
	if _, err := dlq.Parse(text); err != nil {
		var wrong *dlq.TextError
		if errors.As(err, &wrong) && !bytes.Contains(bytes.TrimSpace(text), []byte("\n")) {
			wrong.Line = 0
		}
		return usage("nothing was changed: the write is not valid: %w", err)
	}
	ctx := e.cmd.Context()
	var answer retryAnswer
	path := letterPath(e.letter.Sink, e.letter.LSN) + ":edit"
	answer, err := e.box.again(ctx, path, json.RawMessage(strip(text)), time.Now().Add(e.timeout))
	if err != nil {
		return e.explain(ctx, err)
	}
	result := outcomes{Unchanged: answer.Unchanged}
	for _, one := range answer.Retried {
		one.Sink = e.letter.Sink
		result.add(one)
	}
	if answer.Unchanged && !e.asJSON {
		_, err := fmt.Fprintf(e.cmd.OutOrStdout(), "nothing changed: LSN %d of sink %s stays a dead letter; `walproxy dlq retry %d` tries it as it is\n",
			e.letter.LSN, e.letter.Sink, e.letter.LSN)
		return err
	}
	return result.tell(e.cmd, e.asJSON)
}

// explain says what an edit failed with.
func (e *edit) explain(_ context.Context, err error) error {
	var refused *remoteError
	if errors.As(err, &refused) && refused.Answer.Status < 500 {
		return exitWith(exitUsage, fmt.Errorf("nothing was changed: %w", err))
	}
	return err
}

// strip takes the comments out of a text that was parsed.
func strip(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		if line[0] != '#' {
			out = append(out, line...)
		}
	}
	return out
}

// editors names the editor, and whether it needs a terminal.
func editor() (command string, needsTerminal bool) {
	if command := os.Getenv("WALPROXY_EDITOR"); command != "" {
		return command, false
	}
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if command := os.Getenv(name); command != "" {
			return command, true
		}
	}
	return "vi", true
}

// editTries bounds how often a text that is wrong is opened again.
const editTries = 20

// inEditor lets a person change the write. A text that cannot be taken is opened again
// with what is wrong above it; it is never thrown away unless it changes nothing.
func (e *edit) inEditor() error {
	command, needsTerminal := editor()
	terminal := term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
	if needsTerminal && !terminal {
		return usage("nothing was changed: there is no terminal for an editor (%s); change the write with --set path=value", command)
	}
	file, err := os.CreateTemp("", fmt.Sprintf("walproxy-dlq-%d-*.json", e.letter.LSN)) // for its owner alone
	if err != nil {
		return exitWith(exitFailed, err)
	}
	name := file.Name()
	_, err = file.Write(append(e.header(""), e.original...))
	if err := errors.Join(err, file.Close()); err != nil {
		return exitWith(exitFailed, errors.Join(err, os.Remove(name)))
	}
	for try := 0; ; try++ {
		text, err := runEditor(e.cmd, command, name)
		if err != nil {
			return exitWith(exitFailed, fmt.Errorf("nothing was changed: %s: %w; the text is in %s", command, err, name))
		}
		if bytes.Equal(bytes.TrimSpace(strip(text)), bytes.TrimSpace(e.original)) || len(bytes.TrimSpace(strip(text))) == 0 {
			text = e.original // nothing was done
		}
		err = e.submit(text)
		var coded *exitError
		if !errors.As(err, &coded) || coded.code != exitUsage {
			return errors.Join(err, os.Remove(name))
		}
		if !terminal || try == editTries {
			return exitWith(exitUsage, fmt.Errorf("%w; the text is in %s", err, name))
		}
		if err := os.WriteFile(name, append(e.header(err.Error()), strip(text)...), 0o600); err != nil {
			return exitWith(exitFailed, err)
		}
	}
}

// header tells above the text what it is, and what was wrong with it.
func (e *edit) header(wrong string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(wrong) {
		fmt.Fprintf(&b, "# WRONG: %s\n", strings.TrimRight(line, "\n"))
	}
	fmt.Fprintf(&b, "# LSN %d of sink %s, %s after %d attempts: %s\n", e.letter.LSN, e.letter.Sink, e.letter.State, e.letter.Attempts,
		short(e.letter.Reason, 400))
	b.WriteString("# Change the write and save it. Left as it is, or empty, nothing is done. Lines with # are left out.\n")
	return b.Bytes()
}

func runEditor(cmd *cobra.Command, command, name string) ([]byte, error) {
	run := exec.CommandContext(cmd.Context(), "sh", "-c", command+` "$1"`, "sh", filepath.Clean(name))
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := run.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}
