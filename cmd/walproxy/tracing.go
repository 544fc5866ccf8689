package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/traceexport"
)

// openTracing returns nil if tracing is off.
func openTracing(ctx context.Context, c config.Tracing, logger *zap.Logger, registry prometheus.Registerer) (*traceexport.Exporter, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	e, err := traceexport.Open(ctx, traceexport.Options{
		Endpoint: c.Endpoint, Headers: c.Headers, CA: c.CA, ServiceName: c.ServiceName, Version: versionName(),
		SampleOneIn: c.SampleOneIn, Queue: c.Queue, Timeout: time.Duration(c.Timeout),
		Logger: logger.Named("tracing"), Registerer: registry,
	})
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return e, nil
}
