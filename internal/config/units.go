package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as "64GiB", "10MB" or plain bytes.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", 1 << 40}, {"GiB", gib}, {"MiB", mib}, {"KiB", kib},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// ParseSize parses a whole number with an optional unit.
func ParseSize(text string) (Size, error) {
	digits, factor := strings.TrimSpace(text), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(digits, u.suffix); ok {
			digits, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no size: want a whole number with B, KiB, MiB, GiB or TiB", text)
	}
	if n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return Size(n * factor), nil
}

// String is the shortest exact form that ParseSize reads.
func (s Size) String() string {
	if s == 0 || s == -1 {
		return strconv.FormatInt(int64(s), 10)
	}
	for _, u := range sizeUnits[:4] {
		if int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalYAML writes the readable form.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// Duration is a time span, written as "5ms" or "20s".
type Duration time.Duration

// ParseDuration is time.ParseDuration; a bare number but 0 has no unit and is refused.
func ParseDuration(text string) (Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: want a number with a unit, as 5ms or 20s", text)
	}
	return Duration(d), nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalYAML writes the readable form.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }
