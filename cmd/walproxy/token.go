package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/internal/access"
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make tokens for the API and the admin port"}
	cmd.AddCommand(newTokenNew())
	return cmd
}

func newTokenNew() *cobra.Command {
	var asJSON bool
	var name string
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Print a new token, and its hash for the configuration",
		Long: "new prints a token of 256 random bits and its SHA-256. The hash goes into the configuration, the\n" +
			"token to the client: it is stored nowhere and cannot be printed again. A server takes it once it was\n" +
			"told so: walproxy reload.",
		Example: "  walproxy token new --name orders",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token := access.NewToken()
			hash := access.HashOf(token).String()
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(map[string]string{"name": name, "token": token, "hash": hash})
			}
			_, err := fmt.Fprintf(out, "token: %s\n\nIt is shown this once. For the server, under api.tokens:\n\n"+
				"  - name: %s\n    hash: %s\n    rights: [read, write] # and admin\n    collections: [\"*\"]\n", token, name, hash)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&name, "name", "client", "`name` of who gets it, for logs and the audit file")
	return cmd
}
