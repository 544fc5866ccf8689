package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// fullRoot is the command tree with what cobra adds to it.
func fullRoot() *cobra.Command {
	root := newRoot()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// walk calls f for every command but cobra's own.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, f)
	}
}

// faults of one command's help.
func faults(cmd *cobra.Command) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, cmd.CommandPath()+": "+fmt.Sprintf(format, args...))
	}
	if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
		fault("Short is %q: want a line without a full stop", cmd.Short)
	}
	if cmd.Runnable() && !cmd.HasSubCommands() {
		if !strings.Contains(cmd.Example, "  "+cmd.CommandPath()) {
			fault("Example is %q: want a line with %q, indented by two spaces", cmd.Example, cmd.CommandPath())
		}
		if !strings.Contains(cmd.Long, "Exit codes:") {
			fault("Long does not tell the exit codes: the root's tellExits does that")
		}
		for line := range strings.Lines(cmd.Example) {
			if _, err := shapeOf(cmd.Root(), line); err != nil {
				fault("Example: %q: %v", strings.TrimSpace(line), err)
			}
		}
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		switch {
		case f.Usage == "":
			fault("--%s has no description", f.Name)
		case f.Value.Type() != "bool" && usage == f.Usage:
			fault("--%s: say in its description what it takes, in backquotes; now it is %q", f.Name, name)
		}
	})
	return faults
}

// TestHelp: every command says what it is, shows how it is called, and tells its
// flags and exit codes.
func TestHelp(t *testing.T) {
	commands := 0
	walk(newRoot(), func(cmd *cobra.Command) {
		commands++
		for _, f := range faults(cmd) {
			t.Error(f)
		}
	})
	if commands < 10 {
		t.Errorf("%d commands found", commands)
	}
	// The test itself must see what is missing.
	bad := &cobra.Command{Use: "bad", Run: func(*cobra.Command, []string) {}}
	bad.Flags().Int("n", 0, "a number")
	bad.Flags().Bool("b", false, "")
	if got := faults(bad); len(got) != 5 {
		t.Errorf("of a command without help: %q, want 5 faults", got)
	}
}

// TestExitCodesInDocs: docs/operations.md tells what every code means.
func TestExitCodesInDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	walk(newRoot(), func(cmd *cobra.Command) {
		for code := range exitsOf(cmd) {
			row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d(\+n)? \| `, code))
			if !row.Match(text) {
				t.Errorf("%s ends with %d, which is no row of a table of docs/operations.md", cmd.CommandPath(), code)
			}
		}
	})
}
