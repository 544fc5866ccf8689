package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/configs"
	"github.com/walproxy/walproxy/internal/config"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration"}
	cmd.AddCommand(newConfigCheck(), newConfigShow(), newConfigExample(), newConfigSchema())
	return cmd
}

func newConfigCheck() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Report everything that is wrong, with line and column",
		Example: "  walproxy config check --config walproxy.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := flags.load(cmd); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
	flags.register(cmd)
	return cmd
}

func newConfigShow() *cobra.Command {
	var (
		flags     configFlags
		effective bool
	)
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print the configuration in effect, secrets left out",
		Example: "  walproxy config show --config walproxy.yaml\n  walproxy config show --effective=false",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			show := c.Show
			if !effective {
				show = c.ShowChanges
			}
			out, err := show()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&effective, "effective", true, "with every default; false: only what differs from them")
	return cmd
}

func newConfigExample() *cobra.Command {
	return &cobra.Command{
		Use:     "example",
		Short:   "Print a commented configuration file with every default",
		Example: "  walproxy config example > walproxy.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(configs.Default)
			return err
		},
	}
}

func newConfigSchema() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print a JSON Schema of the configuration file, for editors",
		Example: "  walproxy config schema > walproxy.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
}
