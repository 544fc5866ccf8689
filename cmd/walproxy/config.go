package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/configs"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration"}
	cmd.AddCommand(newConfigCheck(), newConfigShow(), newConfigExample())
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
	var flags configFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print the configuration in effect, defaults included, secrets left out",
		Example: "  walproxy config show --config walproxy.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			out, err := c.Show()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	flags.register(cmd)
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
