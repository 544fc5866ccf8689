package config

import (
	"slices"
	"time"
)

// Logging is what walproxy says of itself, on stderr.
type Logging struct {
	Level    string   `yaml:"level"` // debug, info, warn, error
	Sampling Sampling `yaml:"sampling"`
}

// Sampling bounds lines of one level, logger and message. None goes silently: they are
// counted, and the next one that is written says how many before it were not.
type Sampling struct {
	Disabled bool     `yaml:"disabled"` // every line is written
	Every    Duration `yaml:"every"`    // the span
	First    int      `yaml:"first"`    // like lines of a span are written
	// Thereafter: of the others of the span every so many'th.
	Thereafter int `yaml:"thereafter"`
}

// levels of Logging.
var levels = []string{"debug", "info", "warn", "error"}

func (l *Logging) withDefaults() {
	orString(&l.Level, "info")
	or(&l.Sampling.Every, Duration(time.Second))
	or(&l.Sampling.First, 100)
	or(&l.Sampling.Thereafter, 100)
}

func (c *checker) logging(l Logging) {
	c.want(slices.Contains(levels, l.Level), "logging.level", "no level %q: want debug, info, warn or error", l.Level)
	c.want(l.Sampling.Every >= Duration(time.Millisecond) && l.Sampling.Every <= Duration(time.Hour), "logging.sampling.every",
		"%s is out of range: 1ms to 1h", l.Sampling.Every)
	c.want(l.Sampling.First >= 1 && l.Sampling.First <= 1_000_000, "logging.sampling.first", "%d is out of range: 1 to 1000000", l.Sampling.First)
	c.want(l.Sampling.Thereafter >= 1 && l.Sampling.Thereafter <= 1_000_000, "logging.sampling.thereafter",
		"%d is out of range: 1 to 1000000", l.Sampling.Thereafter)
}
