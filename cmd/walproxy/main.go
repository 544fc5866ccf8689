// Command walproxy is a durability proxy: it logs writes, acknowledges them once
// they are on disk, and applies them to the store behind it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// version is set by the build.
var version = ""

func main() { os.Exit(run(os.Args[1:])) }

// run is main without the exit.
func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(os.Stderr, "walproxy: "+uniqueLines(err.Error()))
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitUsage // cobra's: flags and commands
}

// uniqueLines drops repeated lines: one failure comes back from every step that
// it struck.
func uniqueLines(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
