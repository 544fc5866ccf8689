package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
)

// Load reads the file (none if name is empty), lays environ and then overrides
// over it, fills in the defaults and validates. Whatever is wrong is one *Error.
func Load(name string, environ []string, overrides ...Override) (*Config, error) {
	var content []byte
	if name != "" {
		var err error
		if content, err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	return Parse(name, content, environ, overrides...)
}

// Override is a command line flag that stands for a key; it wins over file and
// environment.
type Override struct {
	Flag  string   // as "--data-dir"
	Key   []string // as api, listen
	Value string
}

// Parse is Load for content that was read already.
func Parse(name string, content []byte, environ []string, overrides ...Override) (*Config, error) {
	c := &Config{}
	var faults []Fault
	for _, err := range []error{
		decodeFile(c, name, content, environ), applyEnvironment(c, environ), applyOverrides(c, overrides),
	} {
		var some *Error
		if errors.As(err, &some) {
			faults = append(faults, some.Faults...)
		}
	}
	c.withDefaults()
	// What a broken file says is not judged further: one cause, one fault.
	if len(faults) == 0 {
		faults = c.faults()
	}
	return c, collect(faults)
}

func applyOverrides(c *Config, overrides []Override) error {
	d := decoder{origin: &c.origin}
	for _, o := range overrides {
		d.place = &place{variable: o.Flag}
		d.descend(reflect.ValueOf(c).Elem(), o.Key, "", o.Value)
	}
	return collect(d.faults)
}
