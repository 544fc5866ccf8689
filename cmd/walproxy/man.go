package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan writes the man pages with cobra's own generator: a page per command, as
// git has them, kept in step with cobra by the people who make it.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages, one per command",
		Long: "man writes walproxy.1, walproxy-serve.1 and so on into a directory, which it makes if needed.\n" +
			"SOURCE_DATE_EPOCH sets their date, for builds that are to be reproducible.",
		Example: "  walproxy man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return exitWith(exitFailed, err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Title: "WALPROXY", Section: "1", Source: "walproxy " + versionName(), Manual: "walproxy"}
			if err := doc.GenManTree(root, header, dir); err != nil {
				return exitWith(exitFailed, err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "wrote the man pages to %s; `man -l %s/walproxy.1` shows the first\n", dir, dir)
			return err
		},
	}
}
