package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/rpc"
)

// logLevels are those of logging.level.
var logLevels = []string{"debug", "info", "warn", "error"}

// logLevel is what /log-level takes and answers.
type logLevel struct {
	Level string `json:"level"`
	Was   string `json:"was,omitempty"`
}

// serveLevel answers GET /log-level, and POST, which changes it until a reload that
// changes logging.level, or the end.
func (i *instance) serveLevel(w http.ResponseWriter, r *http.Request) {
	is := logLevel{Level: i.logs.level.String()}
	if r.Method == http.MethodPost {
		var to logLevel
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&to)
		if err == nil && !slices.Contains(logLevels, to.Level) {
			err = fmt.Errorf("no level %q: want debug, info, warn or error", to.Level)
		}
		if err != nil {
			replyJSON(w, http.StatusBadRequest, rpc.Error{Status: http.StatusBadRequest, Code: "invalid_argument", Message: "level: " + err.Error()})
			return
		}
		is = logLevel{Level: to.Level, Was: i.logs.set(to.Level)}
		i.logger.Warn("log level changed", zap.String("from", is.Was), zap.String("to", is.Level))
	}
	replyJSON(w, http.StatusOK, is)
}

func replyJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody to tell
}

func newLogLevel() *cobra.Command {
	var flags placeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "log-level [debug|info|warn|error]",
		Short: "Print or change the level of a running server's log",
		Long: "log-level prints from which level on the server of a data directory logs, or changes it: at once,\n" +
			"until a reload that changes logging.level, or until the server ends. For a change that stays set\n" +
			"logging.level in its configuration and run `walproxy reload`.",
		Example:   "  walproxy log-level --data-dir /var/lib/walproxy\n  walproxy log-level debug --data-dir /var/lib/walproxy",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: logLevels,
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := flags.running(cmd)
			if err != nil {
				return err
			}
			var is logLevel
			if len(args) == 0 {
				err = server.callAdmin(cmd.Context(), http.MethodGet, "/log-level", nil, &is)
			} else {
				err = server.callAdmin(cmd.Context(), http.MethodPost, "/log-level", logLevel{Level: args[0]}, &is)
			}
			switch {
			case err != nil:
				return err
			case asJSON:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(is)
			case len(args) == 0:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), is.Level)
			case is.Was == is.Level:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "it is %s already\n", is.Level)
			default:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, it was %s; back with `walproxy log-level %s`\n", is.Level, is.Was, is.Was)
			}
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
