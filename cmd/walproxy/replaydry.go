package main

import (
	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/config"
)

func dryRun(cmd *cobra.Command, c *config.Config, f *replayFlags, r walproxy.ReplayOptions) error {
	return nil
}

func confirmFrom(cmd *cobra.Command, c *config.Config, f *replayFlags, r walproxy.ReplayOptions) error {
	return nil
}
