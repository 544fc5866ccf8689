package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"
)

// completeSink offers a shell the sinks of the configuration that the command
// line names, for the command's first argument.
func completeSink(flags *configFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return sinkNames(cmd, flags), cobra.ShellCompDirectiveNoFileComp
	}
}

// sinkNames are none if the configuration is wrong: a shell has no place to say so.
func sinkNames(cmd *cobra.Command, flags *configFlags) []string {
	c, err := flags.load(cmd)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.Sinks))
}
