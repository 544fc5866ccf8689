// Command aerosuite runs the test suite of the official Aerospike client for Go
// against the Aerospike endpoint and holds its outcome against a list of the specs
// that pass: one that is listed and does not pass is a failure.
//
//	go run ./internal/aerosuite            all specs
//	go run ./internal/aerosuite -short     those of a few seconds
//	go run ./internal/aerosuite -update    all specs, and write the list
//	go run ./internal/aerosuite -server 127.0.0.1:3000   another server's outcome
//	go run ./internal/aerosuite -server 127.0.0.1:3000 -record api/aerowire/testdata
//	                                       what that server answers, as transcripts;
//	                                       its namespace test is emptied
//
// The suite is the client's module, at the version that go.mod names, copied into
// a temporary directory.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

// module holds the suite.
const module = "github.com/aerospike/aerospike-client-go/v7"

// namespace that the suite uses.
const namespace = "test"

// shortSpecs are those of -short: what a client does all day, in a few seconds.
const shortSpecs = "CDT List Test|CDT Map Test|Aerospike Batch Write operations BatchOperate|Expression Filters|" +
	"Aerospike Data operations on native types (Put|Append|Prepend|Add|Delete|Touch|Exists|Batch|Operate)"

// slowSpecs wait for seconds to pass.
const slowSpecs = "TTL|Expiration|ONE BY ONE|Query operations|UDF|HLL|HyperLogLog"

func main() {
	o := options{}
	flag.BoolVar(&o.short, "short", false, "a few seconds' worth of the specs")
	flag.BoolVar(&o.update, "update", false, "write the list")
	flag.StringVar(&o.list, "list", "internal/aerosuite/passing.txt", "the list")
	flag.StringVar(&o.server, "server", "", "host:port of a server to run against instead of the endpoint")
	flag.StringVar(&o.record, "record", "", "directory to write transcripts of -server to")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "bound of the whole run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "aerosuite:", err)
		os.Exit(1)
	}
}

type options struct {
	short, update bool
	list, server  string
	record        string
	timeout       time.Duration
}

func (o *options) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if o.record != "" {
		return o.transcribe(ctx)
	}
	dir, err := os.MkdirTemp("", "aerosuite")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
	binary, err := build(ctx, dir)
	if err != nil {
		return err
	}
	addr := o.server
	if addr == "" {
		var closeEndpoint func() error
		if addr, closeEndpoint, err = endpoint(ctx, filepath.Join(dir, "data")); err != nil {
			return err
		}
		defer func() {
			if closing := closeEndpoint(); err == nil {
				err = closing
			}
		}()
	}
	report := filepath.Join(dir, "report.json")
	if err := o.specs(ctx, binary, addr, report); err != nil {
		return err
	}
	return o.judge(report)
}

// build copies the client's module and builds its tests.
func build(ctx context.Context, dir string) (binary string, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("where is %s: %w", module, err)
	}
	source := filepath.Join(dir, "client")
	if err := os.CopyFS(source, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		return "", err
	}
	if err := writable(source); err != nil {
		return "", err
	}
	binary = filepath.Join(source, "suite.test")
	cmd := exec.CommandContext(ctx, "go", "test", "-mod=mod", "-c", "-o", binary, ".")
	cmd.Dir, cmd.Stdout, cmd.Stderr = source, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	return binary, cmd.Run()
}

// writable: the module cache is read only.
func writable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(path, info.Mode()|0o200)
	})
}

// endpoint starts an endpoint on an empty Pebble store.
func endpoint(ctx context.Context, dir string) (addr string, closeAll func() error, err error) {
	store, err := pebble.Open(filepath.Join(dir, "sink"), pebble.Options{})
	if err != nil {
		return "", nil, err
	}
	o := walproxy.Options{Dir: dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store}}, KeyTypes: []walproxy.KeyType{
		{Collection: namespace, Type: mutation.KeyBytes}, {Collection: namespace + ".*", Type: mutation.KeyBytes},
	}}
	o.Log.MinFree = -1
	proxy, err := walproxy.Open(ctx, o)
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server, err := aerowire.Start(aerowire.Options{Core: api.New(proxy), Listener: listener, Namespaces: []string{namespace}})
	if err != nil {
		return "", nil, err
	}
	return listener.Addr().String(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for _, step := range []func(context.Context) error{server.Close, proxy.Close, store.Close} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func splitAddress(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil {
		return "", 0, fmt.Errorf("server: %w", err)
	}
	return host, port, nil
}

// specs runs the suite; that specs fail is no error here.
func (o *options) specs(ctx context.Context, binary, addr, report string) error {
	host, port, err := splitAddress(addr)
	if err != nil {
		return err
	}
	args := []string{"-h", host, "-p", strconv.Itoa(port), "-n", namespace, "-ginkgo.no-color", "-ginkgo.succinct",
		"-ginkgo.seed=1", "-ginkgo.json-report=" + report, "-ginkgo.timeout=" + o.timeout.String()}
	switch {
	case o.record != "":
		args = append(args, "-ginkgo.focus="+recordedSpecs, "-ginkgo.skip="+slowSpecs+"|"+unrecordedSpecs)
	case o.short:
		args = append(args, "-ginkgo.focus="+shortSpecs, "-ginkgo.skip="+slowSpecs)
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = filepath.Dir(binary)
	log, err := os.Create(report + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	if _, missing := os.Stat(report); missing != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the suite made no report (%w):\n%s", err, text[max(0, len(text)-2000):])
	}
	return ctx.Err()
}
