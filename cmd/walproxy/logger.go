package main

import (
	"io"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/logsample"
	"github.com/walproxy/walproxy/internal/promset"
)

// logs is what decides which lines are written while walproxy runs.
type logs struct {
	level   zap.AtomicLevel
	sampler *logsample.Sampler
}

func newLogs(c config.Logging) *logs {
	l := &logs{level: zap.NewAtomicLevel(), sampler: logsample.New(logsample.Settings{})}
	l.apply(c)
	return l
}

func (l *logs) apply(c config.Logging) {
	l.sampler.Set(sampling(c.Sampling))
	l.set(c.Level)
}

// logger writes to out, for people on a terminal, JSON otherwise.
func (l *logs) logger(out io.Writer) *zap.Logger { return loggerTo(out, l.level, isTerminal(out)) }

// set changes the level, to one of the configuration's, and returns what it was.
func (l *logs) set(level string) (was string) {
	was = l.level.String()
	if to, err := zapcore.ParseLevel(level); err == nil && level != "" { // validated
		l.level.SetLevel(to)
	}
	return was
}

func sampling(c config.Sampling) logsample.Settings {
	if c.Disabled {
		return logsample.Settings{}
	}
	return logsample.Settings{Every: time.Duration(c.Every), First: c.First, Thereafter: c.Thereafter}
}

// register counts what is dropped.
func (l *logs) register(to prometheus.Registerer) (unregister func(), err error) {
	var all []prometheus.Collector
	for level := zapcore.DebugLevel; level <= zapcore.ErrorLevel; level++ {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "walproxy_logging_dropped_total", Help: "Lines like others before them that logging.sampling kept from the log of the process.",
			ConstLabels: prometheus.Labels{"level": level.String()},
		}, func() float64 { return float64(l.sampler.Dropped(level)) }))
	}
	return func() { promset.Unregister(to, all...) }, promset.Register(to, all...)
}

// say tells at the end what no line has told: a flood may be the last thing.
func (l *logs) say(logger *zap.Logger) {
	dropped := map[string]uint64{}
	for level := zapcore.DebugLevel; level <= zapcore.ErrorLevel; level++ {
		if n := l.sampler.Dropped(level); n > 0 {
			dropped[level.String()] = n
		}
	}
	if len(dropped) > 0 {
		logger.Warn("lines like others before them were not logged, see logging.sampling", zap.Any("lines", dropped))
	}
}

// isTerminal reports whether people look at what is written to out.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func loggerTo(out io.Writer, lv zapcore.LevelEnabler, forPeople bool) *zap.Logger {
	var encoder zapcore.Encoder
	if forPeople {
		c := zap.NewDevelopmentEncoderConfig()
		c.EncodeLevel = zapcore.CapitalColorLevelEncoder
		encoder = zapcore.NewConsoleEncoder(c)
	} else {
		c := zap.NewProductionEncoderConfig()
		c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		encoder = zapcore.NewJSONEncoder(c)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(out)), lv))
}
