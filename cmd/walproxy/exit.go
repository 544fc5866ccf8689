package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes; docs/operations.md tells them to users. What the others mean, and
// what these mean for one command, the command says: see exits.
const (
	exitOK = 0
	// exitUsage: the command line or the configuration is wrong.
	exitUsage = 1
	// exitRemaining: stopped in order, with records in the log that are not
	// applied. The next start applies them.
	exitRemaining = 2
	// exitFailed: the log was poisoned, or something else failed while running
	// or closing.
	exitFailed = 3
	// exitStart: could not start: the directory is in use or damaged, a port is
	// taken.
	exitStart = 4
	// exitTorn: the log ends in a torn tail, and is good otherwise.
	exitTorn = 5
	// exitDamaged: acknowledged data in the log is damaged.
	exitDamaged = 6
	// exitDeadLetters: everything was done, and dead letters were made of writes that
	// a store rejected.
	exitDeadLetters = 7
	// exitUnhealthy: `status` found something that needs a person.
	exitUnhealthy = 8
	// exitSignal plus its number: a second signal ended the stop.
	exitSignal = 128
)

// exitError gives an error its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitWith(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: code, err: err}
}

// commonExits are what every command may end with.
var commonExits = map[int]string{
	exitOK:     "done, or nothing to do",
	exitUsage:  "wrong usage or configuration, or refused: nothing was changed",
	exitFailed: "failed on the way",
	exitStart:  "the data directory cannot be opened: in use, damaged, none at all",
}

const exitAnnotation = "exit "

// exits documents how cmd may end, beside commonExits or in place of one of them.
// Help and man pages show it, and the scripts' test refuses any other code.
func exits(cmd *cobra.Command, codes map[int]string) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	for code, means := range codes {
		cmd.Annotations[exitAnnotation+strconv.Itoa(code)] = means
	}
}

// exitsOf are all that cmd may end with.
func exitsOf(cmd *cobra.Command) map[int]string {
	codes := maps.Clone(commonExits)
	for name, means := range cmd.Annotations {
		if text, ok := strings.CutPrefix(name, exitAnnotation); ok {
			if code, err := strconv.Atoi(text); err == nil {
				codes[code] = means
			}
		}
	}
	return codes
}

// tellExits puts the exit codes of cmd, and of all below it, behind their
// descriptions.
func tellExits(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		tellExits(sub)
	}
	if !cmd.Runnable() || cmd.HasSubCommands() {
		return
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	codes := exitsOf(cmd)
	text += "\n\nExit codes:"
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		name := strconv.Itoa(code)
		if code == exitSignal {
			name += "+n"
		}
		text += fmt.Sprintf("\n  %-5s  %s", name, codes[code])
	}
	cmd.Long = text
}
