package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// specReport is what is used of a report of Ginkgo's.
type specReport struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	LeafNodeLocation        struct {
		FileName   string
		LineNumber int
	}
	State   string
	Failure struct{ Message string }
}

// name of a spec: specs made by one line of a loop share it.
func (s *specReport) name() string {
	texts := append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText)
	return fmt.Sprintf("%s:%d %s", filepath.Base(s.LeafNodeLocation.FileName), s.LeafNodeLocation.LineNumber,
		strings.Join(strings.Fields(strings.Join(texts, " ")), " "))
}

// outcome is what became of the specs of one name.
type outcome struct {
	passed, failed int
	message        string // of a failure
}

// read returns the outcomes by name; what was skipped is left out.
func read(report string) (map[string]outcome, error) {
	content, err := os.ReadFile(report)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []specReport }
	if err := json.Unmarshal(content, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", report, err)
	}
	outcomes := map[string]outcome{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if s.LeafNodeType != "It" || s.State == "skipped" || s.State == "pending" {
				continue
			}
			o := outcomes[s.name()]
			if s.State == "passed" {
				o.passed++
			} else {
				o.failed++
				o.message = s.Failure.Message
			}
			outcomes[s.name()] = o
		}
	}
	if len(outcomes) == 0 {
		return nil, errors.New("no spec ran")
	}
	return outcomes, nil
}

// timedSpecs are about the client's own pool of connections and count what it
// gets done in a second: on a slow machine they fail, whatever the server.
const timedSpecs = "When Idle Timeout Is Used"

// judge holds a report against the list.
func (o *options) judge(report string) error {
	outcomes, err := read(report)
	if err != nil {
		return err
	}
	var passed, failed []string
	for _, name := range slices.Sorted(maps.Keys(outcomes)) {
		if outcomes[name].failed == 0 && !strings.Contains(name, timedSpecs) {
			passed = append(passed, name)
		} else if outcomes[name].failed > 0 {
			failed = append(failed, name)
		}
	}
	fmt.Printf("%d specs pass, %d do not\n", len(passed), len(failed))
	if o.update {
		for _, name := range failed {
			fmt.Printf("fails: %s\n       %.200s\n", name, strings.Join(strings.Fields(outcomes[name].message), " "))
		}
		return os.WriteFile(o.list, []byte(strings.Join(passed, "\n")+"\n"), 0o644)
	}
	content, err := os.ReadFile(o.list)
	if err != nil {
		return err
	}
	listed := strings.Split(strings.TrimSpace(string(content)), "\n")
	worse := 0
	for _, name := range listed {
		if out, ran := outcomes[name]; out.failed > 0 || !ran && !o.short {
			worse++
			fmt.Printf("passed once: %s\n       %s\n", name, out.message)
		}
	}
	for _, name := range passed {
		if !slices.Contains(listed, name) {
			fmt.Printf("passes, and is not listed yet: %s\n", name)
		}
	}
	if worse > 0 {
		return fmt.Errorf("%d specs that are listed as passing do not", worse)
	}
	return nil
}
