package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// confirm lets a person say yes to what cannot be undone; what is said of it has
// been printed. yes (--yes) has said it already. Without a terminal nobody can be
// asked, and the answer is no. A no is an error with exitUsage.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	in := cmd.InOrStdin()
	if f, ok := in.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return exitWith(exitUsage, fmt.Errorf("nothing was changed: there is no terminal to ask on (%s); say --yes to do it", question))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s Type yes to do it: ", question)
	answer, err := bufio.NewReader(io.LimitReader(in, 1<<10)).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		if err != nil && err != io.EOF {
			return exitWith(exitUsage, fmt.Errorf("nothing was changed: %w", err))
		}
		return exitWith(exitUsage, fmt.Errorf("nothing was changed: the answer was not yes"))
	}
	return nil
}

// printJSON writes v as one line, for scripts (--json).
func printJSON(cmd *cobra.Command, v any) error {
	out := json.NewEncoder(cmd.OutOrStdout())
	out.SetEscapeHTML(false)
	return out.Encode(v)
}
