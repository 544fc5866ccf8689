package main

import (
	"github.com/spf13/cobra"
)

func newSink() *cobra.Command {
	cmd := &cobra.Command{Use: "sink", Short: "Look after the stores"}
	cmd.AddCommand(newSinkInit(), newSinkList(), newSinkAdd(), newSinkPause(), newSinkResume(), newSinkAccept(), newSinkForget())
	return cmd
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
