package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/admin"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/api/pgwire"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/internal/certs"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/httpserve"
	"github.com/walproxy/walproxy/internal/recent"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/traceexport"
	"github.com/walproxy/walproxy/internal/unfinished"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/aerospike"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/postgres"
	"github.com/walproxy/walproxy/wal"
)

// frontTimeout bounds how long a stop waits for requests under way.
const frontTimeout = 5 * time.Second

// instance is a running walproxy: what start opened, close closes.
type instance struct {
	config   *config.Config
	around   surroundings
	logger   *zap.Logger
	registry *prometheus.Registry

	apiListener, adminListener net.Listener
	sinks                      map[string]sinks.Sink
	clusters                   *aerospike.Clients // shared by the sinks of that type
	proxy                      *walproxy.Proxy
	rest                       *rpc.Server
	adminHandler               *admin.Server
	adminCalls                 *rpc.Server // what the status page asks and changes
	recent                     *recent.Log
	apiServer, adminServer     *httpserve.Server
	apiAccess, adminAccess     *access.Guard
	certificates               map[string]*certs.Server // by the endpoint's key; none: no TLS
	reloader                   *reloader
	logs                       *logs
	forgetLogs                 func()                // takes their metrics back
	aerowireListener           net.Listener          // nil: there is no such endpoint
	aerowire                   *aerowire.Server      // once it serves
	pgwireListener             net.Listener          // nil: there is no such endpoint
	pgwire                     *pgwire.Server        // once it serves
	inspector                  *postgres.Inspector   // of the tables that it writes behind; nil: there are none
	tracing                    *traceexport.Exporter // nil: it is off
	noted                      bool                  // the data directory says how to reach this one
}

// start opens everything and serves. ctx bounds the start alone. After an error
// nothing is left open.
func start(ctx context.Context, c *config.Config, logger *zap.Logger) (*instance, error) {
	return startIn(ctx, c, surroundings{}, logger)
}

// startIn is start with what the service manager gave; that is closed too.
func startIn(ctx context.Context, c *config.Config, around surroundings, logger *zap.Logger) (*instance, error) {
	logs := cmp.Or(around.logs, newLogs(c.Logging))
	last := recent.New(recentEntries)
	logger = logger.WithOptions(zap.WrapCore(logs.sampler.Wrap), zap.WrapCore(last.Tee))
	i := &instance{config: c, around: around, logger: logger, logs: logs, recent: last, registry: prometheus.NewRegistry(), sinks: map[string]sinks.Sink{},
		apiAccess: access.New(c.APIAccess()), adminAccess: access.New(c.AdminAccess())}
	i.reloader = &reloader{i: i, now: c}
	if c.Log.RingBytes != 0 {
		logger.Warn("log.ring_bytes does nothing any more: take it out of the configuration")
	}
	err := i.openCertificates()
	if err == nil {
		err = i.open(ctx)
	}
	if err == nil {
		err = i.startAerowire()
	}
	if err == nil {
		err = i.startPGWire()
	}
	if err != nil {
		return nil, errors.Join(err, i.close())
	}
	i.serve()
	i.leaveNote()
	return i, nil
}

// leaveNote lets commands find this server. They say so if they cannot; writes do
// not depend on it.
func (i *instance) leaveNote() {
	err := writeNote(i.config.DataDir, note{
		PID: os.Getpid(), API: urlOf(i.apiListener, i.secure("api") != nil), Admin: urlOf(i.adminListener, i.secure("admin") != nil),
		Version: versionName(), Started: time.Now().UTC(),
	})
	if i.noted = err == nil; err != nil {
		i.logger.Warn("commands cannot find this server by its data directory: give them --server", zap.Error(err))
	}
}

// takeNote takes it back while the lock is held: later it might be another's.
func (i *instance) takeNote() error {
	if !i.noted {
		return nil
	}
	i.noted = false
	return removeNote(i.config.DataDir)
}

func (i *instance) open(ctx context.Context) error {
	if err := i.listen(); err != nil {
		return err
	}
	var err error
	if i.forgetLogs, err = i.logs.register(i.registry); err != nil {
		return err
	}
	i.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := vfs.MkdirAllSync(vfs.OS(), i.config.DataDir, 0o755); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	if err := unfinished.Check(i.config.DataDir); err != nil { // before there is anything else in it
		return err
	}
	if err := i.openSinks(); err != nil {
		return err
	}
	if i.tracing, err = openTracing(ctx, i.config.Tracing, i.logger, i.registry); err != nil {
		return err
	}
	options := i.options()
	if i.proxy, err = walproxy.Open(ctx, options); err != nil {
		return err
	}
	if err := dropStages(i.config.DataDir); err != nil {
		i.logger.Warn("what an interrupted backup left stays: remove it", zap.String("dir", i.config.DataDir), zap.Error(err))
	}
	core := api.New(i.proxy)
	if err := i.openAdmin(core, options.KeyType); err != nil {
		return err
	}
	i.rest, err = rpc.New(rpc.Options{
		Core:             core,
		KeyType:          options.KeyType,
		MaxItemBytes:     int64(i.config.API.MaxItemBytes),
		MaxBodyBytes:     int64(i.config.API.MaxBodyBytes),
		MaxInFlightBytes: int64(i.config.API.MaxInFlightBytes),
		BackupDir:        stagePath(i.config.DataDir),
		BodyTimeout:      time.Duration(i.config.API.HTTP.BodyTimeout),
		Version:          versionName(),
		Tracing:          i.tracing != nil,
		Access:           i.apiAccess,
		Audit:            audit.New(i.config.DataDir, i.logger.Named("audit")),
		Logger:           i.logger.Named("api"),
		Registerer:       i.registry,
	})
	return err
}

// listen opens what the endpoints listen on.
func (i *instance) listen() (err error) {
	if i.apiListener, err = i.around.listen("api", i.config.API.Listen); err != nil {
		return err
	}
	if i.adminListener, err = i.around.listen("admin", i.config.Admin.Listen); err != nil {
		return err
	}
	if c := i.config.AeroWire; c != nil {
		if i.aerowireListener, err = i.around.listen("aerowire", c.Listen); err != nil {
			return err
		}
	}
	if c := i.config.PGWire; c != nil {
		i.pgwireListener, err = i.around.listen("pgwire", c.Listen)
	}
	return err
}

func (i *instance) openSinks() error {
	for _, name := range slices.Sorted(maps.Keys(i.config.Sinks)) {
		sink, err := i.openSink(name, i.config.Sinks[name])
		if err != nil {
			// The store's lock is taken before the log's, which knows its owner.
			if locked := lockedBy(i.config.DataDir); locked != nil {
				return locked
			}
			return fmt.Errorf("sinks.%s: %w", name, err)
		}
		i.sinks[name] = sink
	}
	return nil
}

func (i *instance) openSink(name string, c config.Sink) (sinks.Sink, error) {
	switch c.Type {
	case config.TypePostgres:
		return postgres.Open(postgresOptions(name, c, i.logger, i.registry))
	case config.TypeAerospike:
		return i.openAerospike(name, c)
	}
	return pebble.Open(i.config.SinkPath(name), pebble.Options{Logger: i.logger.Named("sink." + name)})
}

func (i *instance) options() walproxy.Options {
	c := i.config
	o := walproxy.Options{
		Dir: c.DataDir,
		Log: wal.Options{
			Engine:         c.Log.Engine,
			SegmentBytes:   int64(c.Log.SegmentBytes),
			MaxBytes:       int64(c.Log.MaxBytes),
			MinFree:        int64(c.Log.MinFree),
			GroupBytes:     int(c.Log.GroupBytes),
			MaxRecordBytes: int(c.Log.MaxRecordBytes),
		},
		DrainTimeout: time.Duration(c.Shutdown.DrainTimeout),
		RequestAge:   time.Duration(c.Requests.Age),
		RequestCount: c.Requests.Count,
		Logger:       i.logger,
		Registerer:   i.registry,
	}
	if i.tracing != nil {
		o.TracerProvider = i.tracing.TracerProvider()
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		o.Sinks = append(o.Sinks, sinkOptions(name, c.Sinks[name], i.sinks[name]))
	}
	o.Routes = routesOf(c)
	for _, rule := range c.KeyTypes() {
		o.KeyTypes = append(o.KeyTypes, walproxy.KeyType{Collection: rule.Pattern, Type: rule.Type})
	}
	return o
}

func routesOf(c *config.Config) (routes []walproxy.Route) {
	for _, r := range c.Routes {
		routes = append(routes, walproxy.Route{Collections: r.Collections, Sinks: r.Sinks})
	}
	return routes
}

func sinkOptions(name string, c config.Sink, sink sinks.Sink) walproxy.SinkOptions {
	loop := replay.Options{Lanes: c.Lanes, ApplyTimeout: time.Duration(c.ApplyTimeout)}
	loop.HaltRetry = time.Duration(c.HaltRetry)
	loop.Batch.Records = c.Batch.Records
	loop.Batch.Bytes = int(c.Batch.Bytes)
	loop.Batch.Linger = time.Duration(c.Batch.Linger)
	loop.HoldAfter = int64(c.HoldAfter)
	loop.Batch.Latency = time.Duration(c.Batch.Latency)
	if slices.ContainsFunc(slices.Collect(maps.Values(c.Collections)), func(col config.Collection) bool { return col.LaneGroup != "" }) {
		loop.LaneKey = c.LaneGroup
	}
	classes := c.Classes()
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		loop.Classes = append(loop.Classes, replay.Class{Name: class, Lanes: classes[class]})
		loop.OwnLanes = c.OwnLanes
	}
	loop.DeadLetters = state.Bounds{Bytes: int64(c.DeadLetters.Bytes), Age: time.Duration(c.DeadLetters.Age)}
	loop.OnReject = func(collection string) replay.Policy {
		name := c.OnReject(collection)
		if name == "" {
			return replay.ParkKey
		}
		policy, err := replay.ParsePolicy(name)
		if err != nil {
			return replay.Halt // validated: not reached
		}
		return policy
	}
	return walproxy.SinkOptions{Name: name, Sink: sink, Paused: c.Paused, Loop: loop,
		MaxLagBytes: int64(c.MaxLagBytes), Retain: int64(c.Retain)}
}

// failed waits until the instance cannot go on, or ctx ends (nil).
func (i *instance) failed(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-i.apiServer.Failed():
		return err
	case err := <-i.adminServer.Failed():
		return err
	case err := <-i.aerowireFailed():
		return err
	case err := <-i.pgwireFailed():
		return err
	case <-i.proxy.Done():
		return i.proxy.Err()
	}
}

// close stops what feeds before what is fed, runs every step and joins their
// errors. It also closes an instance that was opened halfway.
func (i *instance) close() error {
	errs := []error{i.takeNote(), i.closeFronts()}
	if i.proxy != nil {
		errs = append(errs, i.proxy.Close(context.Background())) // bounded by its drain time-out
	}
	if i.apiServer != nil {
		// The log is closed: every request that still waited has its outcome.
		i.rest.Wait()
		i.adminCalls.Wait()
	}
	if i.forgetLogs != nil {
		i.forgetLogs()
	}
	errs = append(errs, i.closeSinks())
	if i.tracing != nil { // after the last span
		errs = append(errs, i.tracing.Close())
	}
	return errors.Join(append(errs, i.around.close())...)
}

func (i *instance) closeSinks() error {
	var errs []error
	if i.inspector != nil {
		i.inspector.Close()
	}
	for _, name := range slices.Sorted(maps.Keys(i.sinks)) {
		ctx, cancel := context.WithTimeout(context.Background(), frontTimeout)
		if err := i.sinks[name].Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("sink %s: %w", name, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

func (i *instance) closeFronts() error {
	ctx, cancel := context.WithTimeout(context.Background(), frontTimeout)
	defer cancel()
	var errs []error
	if i.aerowire != nil {
		errs = append(errs, i.aerowire.Close(ctx))
	} else if i.aerowireListener != nil {
		errs = append(errs, i.aerowireListener.Close())
	}
	if i.pgwire != nil {
		errs = append(errs, i.pgwire.Close(ctx))
	} else if i.pgwireListener != nil {
		errs = append(errs, i.pgwireListener.Close())
	}
	if i.apiServer == nil { // never served
		for _, l := range []net.Listener{i.apiListener, i.adminListener} {
			if l != nil {
				errs = append(errs, l.Close())
			}
		}
		return errors.Join(errs...)
	}
	i.adminHandler.Stopping()
	i.adminCalls.Stop()
	i.rest.Stop()
	return errors.Join(append(errs, i.apiServer.Close(ctx), i.adminServer.Close(ctx))...)
}
