package demo

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Command is the demo as a subcommand of the program that is running.
func Command() *cobra.Command {
	var o Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Write, kill the server, compare: nothing acknowledged is lost",
		Long: "demo starts a server of its own on free ports, writes to it from many clients over the network,\n" +
			"kills it with SIGKILL while it drains, restarts it, and in the end compares every\n" +
			"acknowledgement with the store. The exit code is 1 if anything is off.",
		Example: "  walproxy demo\n" +
			"  walproxy demo --records 1000000 --kills 10",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			o.Binary, o.Out = binary, os.Stdout
			o.Terminal = term.IsTerminal(int(os.Stdout.Fd()))
			return Run(ctx, o)
		},
	}
	cmd.Flags().IntVar(&o.Records, "records", 200_000, "how many `records` to write")
	cmd.Flags().IntVar(&o.Clients, "clients", 64, "how many `clients` write at once")
	cmd.Flags().IntVar(&o.Kills, "kills", 3, "how many `times` the server is killed")
	cmd.Flags().StringVar(&o.Dir, "data-dir", "", "`directory` for the server's data, kept; empty: a temporary one")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "keep the temporary directory")
	return cmd
}
