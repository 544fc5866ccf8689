package config

import (
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Tracing sends spans to a collector, by OTLP over HTTP; see docs/operations.md. Without an
// endpoint it is off.
type Tracing struct {
	// Endpoint is the collector's URL, as http://localhost:4318. Without a path that is
	// /v1/traces.
	Endpoint string `yaml:"endpoint"`
	// Headers go with every request. Their values are secrets.
	Headers map[string]string `yaml:"headers"`
	// CA, a file in PEM, is who certifies an https endpoint. Empty: the system's authorities.
	CA          string `yaml:"ca"`
	ServiceName string `yaml:"service_name"` // empty: that of OTEL_SERVICE_NAME, or walproxy
	// SampleOneIn: of the traces that begin here one in so many is recorded; -1: none. Of those
	// that begin with a caller the caller decides.
	SampleOneIn int `yaml:"sample_one_in"`
	// Queue is how many spans wait for the collector at most. What comes beyond it is
	// dropped, and counted.
	Queue   int      `yaml:"queue"`
	Timeout Duration `yaml:"timeout"` // one export, repeats included
}

func (t *Tracing) withDefaults() {
	or(&t.SampleOneIn, 100)
	or(&t.Queue, 2048)
	or(&t.Timeout, Duration(10*time.Second))
}

func (c *checker) tracing(t Tracing) {
	if t.Endpoint != "" {
		u, err := url.Parse(t.Endpoint)
		c.want(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "",
			"tracing.endpoint", "is no URL of a collector: want http://HOST:PORT or https://HOST:PORT, with a path or without")
	}
	c.want(t.Endpoint != "" || len(t.Headers) == 0, "tracing.headers", "need tracing.endpoint: tracing is off without it")
	c.want(t.CA == "" || strings.HasPrefix(t.Endpoint, "https:"), "tracing.ca", "needs a tracing.endpoint that begins with https:")
	for name, value := range t.Headers {
		c.want(httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value), "tracing.headers", "%q is no name of a header, or what it has is no value of one", name)
	}
	c.want(t.SampleOneIn >= 1 || t.SampleOneIn == -1, "tracing.sample_one_in", "%d is out of range: 1 for all, up to any number, or -1 for none", t.SampleOneIn)
	c.want(t.Queue >= 1 && t.Queue <= 1_000_000, "tracing.queue", "%d is out of range: 1 to 1000000", t.Queue)
	c.want(t.Timeout >= Duration(100*time.Millisecond) && t.Timeout <= Duration(5*time.Minute), "tracing.timeout", "%s is out of range: 100ms to 5m", t.Timeout)
}
