package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// suggestionDistance is how many letters a name may be off what is suggested in its place.
const suggestionDistance = 2

// nameCommands has cmd, and all below it that are there for their commands alone, refuse
// what names none of these. By itself cobra prints their help then and ends with 0, so
// that a script goes on after a command that was mistyped and did nothing.
func nameCommands(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		nameCommands(sub)
	}
	if !cmd.HasSubCommands() {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(cmd, args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = suggestionDistance
	cmd.DisableFlagsInUseLine = true
}

// flagError says of a flag that a group does not have that the command before it is wrong.
func flagError(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return unknownCommand(cmd, cmd.Flags().Arg(0))
	}
	return err
}

func unknownCommand(cmd *cobra.Command, name string) error {
	err := fmt.Errorf("unknown command %q for %q", name, cmd.CommandPath())
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return fmt.Errorf("%w: did you mean %q?", err, near[0])
	}
	return fmt.Errorf("%w: see %q", err, cmd.CommandPath()+" --help")
}
