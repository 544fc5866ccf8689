// Package demo shows that walproxy keeps its word: clients write over the
// network, the server is killed in mid-drain, and in the end every
// acknowledgement is compared with the store.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/internal/ledger"
)

// Options of Run.
type Options struct {
	Binary  string // walproxy
	Records int
	Clients int
	Kills   int
	// Dir is the data directory; empty: a temporary one, removed unless Keep.
	Dir  string
	Keep bool
	Out  io.Writer
	// Terminal: Out shows a progress bar.
	Terminal bool
}

// ErrWrong says that something acknowledged is lost, doubled or out of order.
var ErrWrong = errors.New("demo: the store does not hold what was acknowledged")

const (
	startTimeout = 60 * time.Second
	drainTimeout = 5 * time.Minute
	stopTimeout  = 60 * time.Second
	keys         = 200
	batch        = 50
)

// demo is one run.
type demo struct {
	Options
	client *ledger.Client
	ledger *ledger.Ledger
	server *child.Process
	kills  []kill
	began  time.Time
	wrote  time.Duration
	down   time.Duration // of wrote
}

// kill is what the server had before it when it was killed.
type kill struct {
	acked    int
	lag      uint64 // records that were durable and not applied
	restart  time.Duration
	midDrain bool
}

// Run runs the demo and prints its table. ErrWrong: something is off.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "walproxy-demo-"); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if !o.Keep {
			defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
		}
	}
	d := &demo{Options: o, client: ledger.NewClient(o.Clients), ledger: ledger.New()}
	defer d.client.Close()
	defer func() { // behind an error; else it was terminated
		if d.server != nil {
			d.server.Kill()
		}
	}()
	return d.run(ctx)
}

func (o Options) validate() error {
	switch {
	case o.Records < 1:
		return fmt.Errorf("demo: --records: %d: want at least 1", o.Records)
	case o.Clients < 1 || o.Clients > 1024:
		return fmt.Errorf("demo: --clients: %d: want 1 to 1024", o.Clients)
	case o.Kills < 0 || o.Kills > 1000:
		return fmt.Errorf("demo: --kills: %d: want 0 to 1000", o.Kills)
	}
	return nil
}

func (d *demo) run(ctx context.Context) error {
	fmt.Fprintf(d.Out, "%d records from %d clients, %d kills; data in %s\n", d.Records, d.Clients, d.Kills, d.Dir)
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.write(ctx); err != nil {
		return err
	}
	report, err := d.check(ctx)
	if err != nil {
		return err
	}
	code, err := d.server.Terminate(stopTimeout)
	if err != nil {
		return err
	}
	d.table(report)
	if !report.OK() || report.Acked != d.Records {
		return fmt.Errorf("%w: %s", ErrWrong, report)
	}
	if code != 0 {
		return fmt.Errorf("demo: the server ended with exit code %d\n%s", code, d.server.Tail())
	}
	return nil
}

// start starts the server and points the clients to it.
func (d *demo) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	server, err := child.Start(ctx, child.Options{
		Command: []string{d.Binary, "serve", "--data-dir", d.Dir, "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0",
			"--log-level", "warn"},
	})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.server = server
	d.client.SetAddr(server.Addr("api"))
	return nil
}

// write runs the clients, and beside them the kills.
func (d *demo) write(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	load := ledger.Load{Client: d.client, Ledger: d.ledger, Clients: d.Clients, Records: d.Records,
		Keys: keys, Batch: batch, Pad: 64, Name: "demo"}
	written := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.killInDrain(ctx, written); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() { d.progress(written) })
	d.began = time.Now()
	err := load.Run(ctx)
	d.wrote = time.Since(d.began)
	close(written)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return errors.Join(err, cause)
	}
	return err
}

// check waits until everything is applied and compares.
func (d *demo) check(ctx context.Context) (ledger.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := d.client.WaitDrained(ctx); err != nil {
		return ledger.Report{}, fmt.Errorf("demo: drain: %w", err)
	}
	report, err := d.ledger.Check(ctx, d.client)
	if err != nil {
		return report, fmt.Errorf("demo: read the store: %w", err)
	}
	return report, nil
}
