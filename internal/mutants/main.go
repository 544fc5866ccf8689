// Command mutants takes out of the code, one at a time, what durability rests on, and
// runs the tests that are named for it: each must fail. A mutant that survives is a
// missing test.
//
//	go run ./internal/mutants              all of them (minutes)
//	go run ./internal/mutants -run sync    those whose name matches
//	go run ./internal/mutants -list        what they are; nothing is run
//
// The tree is not touched: the compiler is told to read the changed file elsewhere
// (go test -overlay).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// mutant is a change for the worse.
type mutant struct {
	name     string
	file     string
	old, new string // old is in file once
	killers  []killer
}

// killer is a test that must fail on a mutant.
type killer struct {
	pkg, test string
	env       string // "" or KEY=value
	tags      string
}

func (k killer) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", strings.TrimPrefix(k.pkg, "./"), k.test, k.env))
}

func main() {
	run := flag.String("run", "", "regular expression of names")
	list := flag.Bool("list", false, "say what there is")
	timeout := flag.Duration("timeout", 10*time.Minute, "of one test on the code as it is; a mutant has ten times what that took, but a minute at least")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := mutate(ctx, os.Stdout, *run, *list, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func mutate(ctx context.Context, out io.Writer, run string, list bool, timeout time.Duration) error {
	wanted, err := regexp.Compile(run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool { return !wanted.MatchString(m.name) })
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if list {
		for _, m := range chosen {
			fmt.Fprintf(table, "%s\t%s\t%s\n", m.name, m.file, m.killers[0])
		}
		return table.Flush()
	}
	lab, err := newLab(timeout)
	if err != nil {
		return err
	}
	errs := []error{lab.unchanged(ctx, chosen)}
	killed := 0
	for _, m := range chosen {
		if errs[0] != nil || ctx.Err() != nil {
			break
		}
		began := time.Now()
		verdict, err := lab.try(ctx, m)
		fmt.Fprintf(table, "%s\t%s\t%s\t%v\n", verdict, m.name, m.killers[0], time.Since(began).Round(time.Second))
		if err := table.Flush(); err != nil {
			return err
		}
		if err == nil {
			killed++
		}
		errs = append(errs, err)
	}
	fmt.Fprintf(out, "%d of %d killed\n", killed, len(chosen))
	return errors.Join(append(errs, ctx.Err(), lab.close())...)
}

// lab is where changed files lie.
type lab struct {
	root, dir string
	timeout   time.Duration
	took      map[killer]time.Duration // on the code as it is
}

func newLab(timeout time.Duration) (*lab, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "walproxy-mutants-")
	return &lab{root: filepath.Dir(strings.TrimSpace(string(mod))), dir: dir, timeout: timeout, took: map[killer]time.Duration{}}, err
}

func (l *lab) close() error { return os.RemoveAll(l.dir) }

// unchanged runs the tests on the code as it is: they pass.
func (l *lab) unchanged(ctx context.Context, chosen []mutant) error {
	var errs []error
	for _, m := range chosen {
		for _, k := range m.killers {
			if _, seen := l.took[k]; seen || ctx.Err() != nil {
				continue
			}
			output, err := l.test(ctx, k, "", l.timeout)
			l.took[k] = tookOf(output)
			if err != nil || strings.Contains(output, "--- SKIP") || !strings.Contains(output, "--- PASS: "+k.test) {
				errs = append(errs, fmt.Errorf("%s does not pass on the code as it is: %w\n%s", k, err, output))
			}
		}
	}
	return errors.Join(errs...)
}

// try runs a mutant's tests; nil: each failed.
func (l *lab) try(ctx context.Context, m mutant) (verdict string, err error) {
	overlay, err := l.overlay(m)
	if err != nil {
		return "STALE", err
	}
	for _, k := range m.killers {
		// Some mutants hang instead of failing: that is a failure, and soon.
		output, err := l.test(ctx, k, overlay, min(max(10*l.took[k], time.Minute), l.timeout))
		switch {
		case err == nil:
			return "SURVIVED", fmt.Errorf("%s: %s passes without it", m.name, k)
		case !strings.Contains(output, "--- FAIL: "+k.test) && !strings.Contains(output, "\npanic: "):
			return "BROKEN", fmt.Errorf("%s: %s did not run: %w\n%s", m.name, k, err, output)
		}
	}
	return "killed", nil
}

var passed = regexp.MustCompile(`(?m)^--- PASS: \S+ \(([0-9.]+s)\)$`)

// tookOf is how long the test of that output ran, without the compiler.
func tookOf(output string) time.Duration {
	if m := passed.FindStringSubmatch(output); m != nil {
		took, _ := time.ParseDuration(m[1]) // what it cannot be is 0, and gets the minute
		return took
	}
	return 0
}

// overlay writes the changed file and what tells the compiler of it.
func (l *lab) overlay(m mutant) (string, error) {
	path := filepath.Join(l.root, m.file)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	text := string(b)
	if n := strings.Count(text, m.old); n != 1 {
		return "", fmt.Errorf("%s: what it changes is %d times in %s, not once", m.name, n, m.file)
	}
	changed := filepath.Join(l.dir, filepath.Base(m.file))
	if err := os.WriteFile(changed, []byte(strings.Replace(text, m.old, m.new, 1)), 0o644); err != nil {
		return "", err
	}
	b, err = json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(l.dir, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o644)
}

// test runs one test, once more where somebody else ended the compiler.
func (l *lab) test(ctx context.Context, k killer, overlay string, timeout time.Duration) (output string, err error) {
	for range 5 {
		output, err = l.testOnce(ctx, k, overlay, timeout)
		if err == nil || ctx.Err() != nil || !strings.Contains(output, "/compile: signal: ") && !strings.Contains(output, "/link: signal: ") {
			break
		}
	}
	return output, err
}

// testOnce runs one test, which may build programs with the overlay, too.
func (l *lab) testOnce(ctx context.Context, k killer, overlay string, timeout time.Duration) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+10*time.Minute) // and the compiler
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-count=1", "-v", "-tags", k.tags, "-timeout", timeout.String(),
		"-run", "^"+k.test+"$", k.pkg)
	cmd.Dir = l.root
	cmd.Env = os.Environ()
	if overlay != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	if k.env != "" {
		cmd.Env = append(cmd.Env, k.env)
	}
	b, err := cmd.CombinedOutput()
	return string(b), err
}
