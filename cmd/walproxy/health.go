package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout bounds the wait for an answer of a server that may not be well.
const healthTimeout = 5 * time.Second

func newHealth() *cobra.Command {
	var flags placeFlags
	var ready bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running server whether it is alive, for health checks",
		Long: "health asks the admin port of the server of a data directory whether the process is alive and its\n" +
			"log can be written (/healthz), with --ready whether it takes writes and no sink has halted (/readyz).\n" +
			"It needs no token. `walproxy status` tells a person more.",
		Example: "  walproxy health --data-dir /var/lib/walproxy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := flags.running(cmd)
			if err != nil {
				return err
			}
			if server.admin == "" {
				return exitWith(exitUsage, errors.New("--server names the API; this needs the admin port, which is known for --data-dir alone"))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTimeout)
			defer cancel()
			path, well := "/healthz", "alive"
			if ready {
				path, well = "/readyz", "ready"
			}
			if err := server.health(ctx, path); err != nil {
				return exitWith(exitUnhealthy, fmt.Errorf("not %s: %w", well, err))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), well)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it takes writes")
	exits(cmd, map[int]string{
		exitOK:        "it is",
		exitUsage:     "wrong usage or configuration",
		exitStart:     "no server runs there",
		exitUnhealthy: "it is not, or does not answer",
	})
	return cmd
}

// health is nil if a path of the admin port answers that all is well.
func (r *remote) health(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.admin+path, nil)
	if err != nil {
		return err
	}
	answer, err := r.http.Do(req)
	if err != nil {
		return &unreachableError{URL: r.admin, Err: err}
	}
	defer func() { _ = answer.Body.Close() }() // it was read
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s answers %s: %s", r.admin, path, answer.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
