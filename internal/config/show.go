package config

import (
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"

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

// ShowChanges is that part of Show which differs from what there is without a
// configuration. Loaded, it is the same configuration. Sinks are shown whole.
func (c *Config) ShowChanges() ([]byte, error) {
	unsaid, err := Parse("defaults", nil, nil)
	if err != nil {
		return nil, err
	}
	var all, defaults yaml.MapSlice
	for _, of := range []struct {
		config *Config
		into   *yaml.MapSlice
	}{{c, &all}, {unsaid, &defaults}} {
		out, err := of.config.Show()
		if err == nil {
			err = yaml.UnmarshalWithOptions(out, of.into, yaml.UseOrderedMap())
		}
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	changed := changes(all, defaults, 0)
	if len(changed) == 0 {
		return nil, nil
	}
	out, err := yaml.MarshalWithOptions(changed, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return out, nil
}

// changes are the items of all that are not those of defaults.
func changes(all, defaults yaml.MapSlice, depth int) (changed yaml.MapSlice) {
	for _, item := range all {
		at := slices.IndexFunc(defaults, func(other yaml.MapItem) bool { return other.Key == item.Key })
		if at >= 0 {
			if reflect.DeepEqual(item.Value, defaults[at].Value) {
				continue
			}
			mine, ok := item.Value.(yaml.MapSlice)
			other, both := defaults[at].Value.(yaml.MapSlice)
			if ok && both && !(depth == 0 && item.Key == "sinks") { // those that are named replace the default one
				item.Value = changes(mine, other, depth+1)
			}
		}
		changed = append(changed, item)
	}
	return changed
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
