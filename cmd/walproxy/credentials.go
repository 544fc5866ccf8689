package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/internal/certs"
)

// credentials are what a command shows to a running server, and by what it knows that
// it is the right one.
type credentials struct {
	token      string
	ca         string // file; empty: the system's
	cert, key  string // files; empty: none is shown
	serverName string // in the server's certificate; empty: the host's
}

func (c *credentials) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.token, "token", "", "`token` for the server, or file:PATH of one; other users may see it here: rather set WALPROXY_TOKEN")
	flags.StringVar(&c.ca, "ca", os.Getenv("WALPROXY_CA"), "`file` of the authority that signed the server's certificate (WALPROXY_CA)")
	flags.StringVar(&c.cert, "client-cert", os.Getenv("WALPROXY_CLIENT_CERT"), "`file` of the certificate to show to the server (WALPROXY_CLIENT_CERT)")
	flags.StringVar(&c.key, "client-key", os.Getenv("WALPROXY_CLIENT_KEY"), "`file` of its key (WALPROXY_CLIENT_KEY)")
	flags.StringVar(&c.serverName, "server-name", os.Getenv("WALPROXY_SERVER_NAME"),
		"`name` in the server's certificate, if it is not the host's (WALPROXY_SERVER_NAME)")
}

// resolved has the token of the environment or of a file. The flag's default is not the
// variable: help would print it.
func (c credentials) resolved() (credentials, error) {
	if c.token == "" {
		c.token = os.Getenv("WALPROXY_TOKEN")
	}
	if _, err := c.tls(); err != nil {
		return c, err
	}
	name, isFile := strings.CutPrefix(c.token, "file:")
	if !isFile {
		return c, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return c, fmt.Errorf("--token: %w", err)
	}
	if c.token = strings.TrimSpace(string(text)); c.token == "" {
		return c, fmt.Errorf("--token: %s is empty", name)
	}
	return c, nil
}

// tls of a client; nil: as the system has it.
func (c credentials) tls() (*tls.Config, error) {
	if c.ca == "" && c.cert == "" && c.key == "" && c.serverName == "" {
		return nil, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	var err error
	if c.ca != "" {
		if secure.RootCAs, err = certs.Pool(c.ca); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	}
	if (c.cert == "") != (c.key == "") {
		return nil, fmt.Errorf("--client-cert and --client-key belong together")
	}
	if c.cert != "" {
		shown, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("--client-cert: %w", err)
		}
		secure.Certificates = []tls.Certificate{shown}
	}
	return secure, nil
}
