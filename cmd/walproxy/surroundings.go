package main

import (
	"fmt"
	"net"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/systemd"
)

// readyStatus is what `systemctl status` shows of a server that runs.
const readyStatus = "taking writes"

// endpoints are what listens, by their keys in the configuration.
var endpoints = []string{"api", "admin", "aerowire", "pgwire"}

// surroundings are what a service manager gave; zero: there is none.
type surroundings struct {
	notifier *systemd.Notifier
	sockets  map[string]net.Listener // by endpoint, those that nobody has taken yet
	passed   []config.Override       // their addresses
	logs     *logs                   // what decides which lines are written; nil: as the configuration says
}

func surroundingsOf(logger *zap.Logger) (s surroundings, err error) {
	s.notifier = systemd.NewNotifier(logger.Named("systemd"))
	if s.sockets, err = systemd.Sockets(endpoints...); err != nil {
		return s, exitWith(exitStart, err)
	}
	for _, name := range endpoints {
		if l := s.sockets[name]; l != nil {
			s.passed = append(s.passed, config.Override{Flag: "systemd's socket " + name, Key: []string{name, "listen"}, Value: l.Addr().String()})
		}
	}
	return s, nil
}

// load reads the configuration, with the addresses of the sockets that were passed: who
// may be served where is judged by them.
func (s surroundings) load(flags *configFlags, cmd *cobra.Command) (*config.Config, error) {
	flags.passed = nil
	if c, err := flags.load(cmd); err != nil || len(s.passed) == 0 {
		return c, err
	} else if name := s.unserved(c); name != "" {
		return nil, exitWith(exitUsage, fmt.Errorf("systemd passed a socket for %s, and the configuration has no section %s: add it, or take the socket unit away", name, name))
	}
	flags.passed = s.passed
	return flags.load(cmd)
}

// unserved is the endpoint of a socket that c does not have; empty: there is none.
func (s surroundings) unserved(c *config.Config) string {
	has := func(name string) bool {
		return slices.ContainsFunc(s.passed, func(o config.Override) bool { return o.Key[0] == name })
	}
	switch {
	case c.AeroWire == nil && has("aerowire"):
		return "aerowire"
	case c.PGWire == nil && has("pgwire"):
		return "pgwire"
	}
	return ""
}

// listen returns the socket of an endpoint that was passed, else a new one.
func (s surroundings) listen(endpoint, address string) (net.Listener, error) {
	if l := s.sockets[endpoint]; l != nil {
		delete(s.sockets, endpoint)
		return l, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s.listen: %w", endpoint, err)
	}
	return l, nil
}

// close closes the sockets that nobody has taken.
func (s surroundings) close() error {
	err := systemd.Close(s.sockets)
	clear(s.sockets)
	return err
}
