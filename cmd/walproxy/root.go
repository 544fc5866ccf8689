package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/demo"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "walproxy",
		Short: "A write-ahead log in front of your store: acknowledged means on disk",
		Long: "walproxy logs writes, acknowledges them once they are on disk, and applies them to the\n" +
			"store behind it. A store that is slow, restarting or away costs no client a write.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newServe(), newStatus(), newVersion(), newConfig(), newSink(), newBackup(), newRestore(), newReplay(), newDrain(), newLog(), newDLQ(), newToken(), newReload(), newLogLevel(), newMan(), demo.Command())
	root.AddCommand(newHealth(), newPut(), newGet(), newDelete(), newScan())
	nameCommands(root)
	tellExits(root)
	return root
}

// configFlags are the flags that stand for configuration.
type configFlags struct {
	file, dataDir, api, admin string
	passed                    []config.Override // what goes over the flags
	level                     string            // of serve
}

func (f *configFlags) register(cmd *cobra.Command) {
	f.registerFiles(cmd)
	cmd.Flags().StringVar(&f.api, "api", "", "`address` of the API (api.listen)")
	cmd.Flags().StringVar(&f.admin, "admin", "", "`address` of metrics and health (admin.listen)")
}

// registerFiles is register for a command that serves nothing.
func (f *configFlags) registerFiles(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", os.Getenv("WALPROXY_CONFIG"), "YAML `file` (WALPROXY_CONFIG)")
	cmd.Flags().StringVar(&f.dataDir, "data-dir", "", "`directory` of log, state and embedded store (data_dir)")
	// Shells then offer what fits. The flags are there: no error.
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.MarkFlagDirname("data-dir")
}

// load reads file, environment and flags, the later over the earlier.
func (f *configFlags) load(cmd *cobra.Command) (*config.Config, error) {
	var overrides []config.Override
	for _, o := range []config.Override{
		{Flag: "--data-dir", Key: []string{"data_dir"}, Value: f.dataDir},
		{Flag: "--api", Key: []string{"api", "listen"}, Value: f.api},
		{Flag: "--admin", Key: []string{"admin", "listen"}, Value: f.admin},
		{Flag: "--log-level", Key: []string{"logging", "level"}, Value: f.level},
	} {
		// replay has a --log-level of its own.
		if cmd.Flags().Changed(o.Flag[len("--"):]) && (o.Flag != "--log-level" || f.level != "") {
			overrides = append(overrides, o)
		}
	}
	c, err := config.Load(f.file, os.Environ(), append(overrides, f.passed...)...)
	return c, exitWith(exitUsage, err)
}
