package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// initTimeout bounds `sink init`.
const initTimeout = time.Minute

func newSinkInit() *cobra.Command {
	var flags configFlags
	var dryRun bool
	var role string
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Make the tables that walproxy keeps in a PostgreSQL store",
		Long: "init makes walproxy's schema in a PostgreSQL store, which `serve` otherwise does at its first\n" +
			"start, or brings it up to date. With --print it connects to nothing and shows the SQL, for\n" +
			"administrators who run it themselves; --role adds the grants that such a role needs.",
		Example: "  walproxy sink init main --config walproxy.yaml\n" +
			"  walproxy sink init main --config walproxy.yaml --print --role app > walproxy.sql",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSink(&flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			name := args[0]
			sink, ok := c.Sinks[name]
			switch {
			case !ok:
				return exitWith(exitUsage, fmt.Errorf("there is no sink %q", name))
			case sink.Type != config.TypePostgres:
				return exitWith(exitUsage, fmt.Errorf("sinks.%s is of type %s, which needs no init", name, sink.Type))
			case dryRun:
				_, err := fmt.Fprint(cmd.OutOrStdout(), postgres.InitSQL(sink.Schema, role))
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), initTimeout)
			defer cancel()
			return postgres.Init(ctx, postgresOptions(name, sink, zap.NewNop(), nil))
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&dryRun, "print", false, "show the SQL instead of running it")
	cmd.Flags().StringVar(&role, "role", "", "with --print: also the grants for this `role`")
	return cmd
}
