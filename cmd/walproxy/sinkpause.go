package main

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy"
)

func newSinkPause() *cobra.Command {
	return newPause("pause", "Keep the writes to a sink in the log, until `sink resume`",
		"pause has nothing applied to a sink any more, over restarts, until `walproxy sink resume`. Writes are\n"+
			"acknowledged and stay in the log, within log.max_bytes; reads that would need the sink to go on fail.")
}

func newSinkResume() *cobra.Command {
	return newPause("resume", "Have a paused or halted sink go on",
		"resume undoes `walproxy sink pause`, and starts a sink of a running server again that has halted:\n"+
			"from its store's checkpoint, with the checks of a start. It does not wait for what comes of that:\n"+
			"`walproxy sink ls` tells.")
}

// pauseAnswer is what --json prints.
type pauseAnswer struct {
	Sink   string `json:"sink"`
	Paused bool   `json:"paused"`
	// Busy: a call of the store was still under way when a server answered.
	Busy bool `json:"busy,omitempty"`
	// Was is what it was before, if the files say it.
	Was    *bool  `json:"was_paused,omitempty"`
	Server string `json:"server,omitempty"` // that was asked; empty: the files were changed
}

func newPause(verb, short, long string) *cobra.Command {
	var flags placeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   verb + " NAME",
		Short: short,
		Long:  long + "\nIt asks the server that runs for the data directory, or changes the files if none does.",
		Example: "  walproxy sink " + verb + " main --data-dir /var/lib/walproxy\n" +
			"  walproxy sink " + verb + " main --server http://127.0.0.1:7070",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSink(&flags.configFlags),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.find(cmd)
			if err != nil {
				return err
			}
			answer, err := setPaused(cmd, p, args[0], verb)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, answer)
			}
			return tellPaused(cmd, p, answer)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

func setPaused(cmd *cobra.Command, p *place, name, verb string) (answer pauseAnswer, err error) {
	if p.server != nil {
		err := p.server.call(cmd.Context(), "POST", "/v1/sinks/"+url.PathEscape(name)+":"+verb, nil, &answer)
		answer.Server = p.server.api
		return answer, err
	}
	answer = pauseAnswer{Sink: name, Paused: verb == "pause"}
	before, err := walproxy.SetPaused(p.dir, name, answer.Paused)
	if _, configured := p.config.Sinks[name]; errors.Is(err, walproxy.ErrNoSink) && configured {
		return answer, exitWith(exitUsage, fmt.Errorf("%w in %s: it is in the configuration, and no server has run with it yet; "+
			"sinks.%s.paused says how it starts", err, p.dir, name))
	}
	answer.Was = &before
	return answer, exitOffline(err)
}

// exitOffline gives what working on the files failed with its exit code.
func exitOffline(err error) error {
	if errors.Is(err, walproxy.ErrNoSink) {
		return exitWith(exitUsage, err)
	}
	return exitWith(exitStart, err)
}

func tellPaused(cmd *cobra.Command, p *place, a pauseAnswer) error {
	var text string
	switch {
	case a.Was != nil && *a.Was == a.Paused && a.Paused:
		text = "sink %s is paused already; nothing was changed\n"
	case a.Was != nil && *a.Was == a.Paused:
		text = "sink %s is not paused; nothing was changed\n"
	case a.Busy:
		text = "sink %s is paused; what was under way at its store has not ended yet\n"
	case a.Paused:
		text = "sink %s is paused: its writes stay in the log until `walproxy sink resume`\n"
	default:
		text = "sink %s goes on; `walproxy sink ls` tells how far it is\n"
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), text, a.Sink); err != nil {
		return err
	}
	if a.Server == "" && !a.Paused && p.config.Sinks[a.Sink].Paused {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "but sinks.%s.paused is true: the next start pauses it again\n", a.Sink)
		return err
	}
	return nil
}
