package config

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"

	"github.com/goccy/go-yaml"
)

const redacted = "REDACTED"

// Show is the whole configuration in effect, as YAML, without secrets. The hash of a
// token is none: nothing can be done with it.
func (c *Config) Show() ([]byte, error) {
	shown := *c
	shown.Sinks = maps.Clone(c.Sinks)
	for name, s := range shown.Sinks {
		s.DSN = redactDSN(s.DSN)
		if s.Cluster.Password != "" {
			s.Cluster.Password = redacted
		}
		shown.Sinks[name] = s
	}
	if c.PGWire != nil {
		shown.PGWire = c.PGWire.withoutSecrets()
	}
	shown.Tracing.Headers = maps.Clone(c.Tracing.Headers)
	for name := range shown.Tracing.Headers {
		shown.Tracing.Headers[name] = redacted
	}
	out, err := yaml.MarshalWithOptions(shown, yaml.OmitEmpty(), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return out, nil
}

var passwordPair = regexp.MustCompile(`(?i)\b(\w*password\w*)(\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)`)

// redactDSN hides the password of a URL or of key=value pairs. What it cannot
// read it hides altogether.
func redactDSN(dsn string) string {
	if dsn == "" {
		return ""
	}
	if passwordPair.MatchString(dsn) {
		dsn = passwordPair.ReplaceAllString(dsn, "${1}${2}"+redacted)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return redacted
	}
	if _, set := u.User.Password(); set {
		u.User = url.UserPassword(u.User.Username(), redacted)
	}
	if u.Scheme == "" {
		return dsn
	}
	return u.String()
}
