package demo

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/walproxy/walproxy/internal/ledger"
)

const (
	barInterval  = 100 * time.Millisecond
	lineInterval = time.Second
)

// progress shows how many records are acked until written is closed: as a bar on
// a terminal, as lines elsewhere.
func (d *demo) progress(written <-chan struct{}) {
	show, interval := d.line, lineInterval
	if d.Terminal {
		bar := progressbar.NewOptions(d.Records, progressbar.OptionSetWriter(d.Out),
			progressbar.OptionSetDescription("acked"), progressbar.OptionShowCount(),
			progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"),
			progressbar.OptionOnCompletion(func() { fmt.Fprintln(d.Out) }))
		show, interval = func(acked int) { _ = bar.Set(acked) }, barInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-written:
			show(d.ledger.Acked())
			return
		case <-tick.C:
			show(d.ledger.Acked())
		}
	}
}

func (d *demo) line(acked int) { fmt.Fprintf(d.Out, "acked %d of %d\n", acked, d.Records) }

// table prints the result.
func (d *demo) table(r ledger.Report) {
	fmt.Fprintln(d.Out)
	w := tabwriter.NewWriter(d.Out, 0, 0, 2, ' ', 0)
	for i, k := range d.kills {
		when := "in mid-drain"
		if !k.midDrain {
			when = "with nothing to drain"
		}
		fmt.Fprintf(w, "kill %d\t%s: %d acked, %d of them not applied yet; serving again after %s\n",
			i+1, when, k.acked, k.lag, k.restart.Round(time.Millisecond))
	}
	rate := float64(r.Acked) / max(d.wrote-d.down, time.Millisecond).Seconds()
	fmt.Fprintf(w, "acked\t%d in %s (%.0f a second while the server was up)\n", r.Acked, d.wrote.Round(time.Millisecond), rate)
	fmt.Fprintf(w, "answered again\t%d retries of writes whose first answer was lost\n", r.Repeats)
	fmt.Fprintf(w, "compared\t%d records: counters, registers, journals\n", r.Records)
	fmt.Fprintf(w, "lost\t%d\n", r.Lost)
	fmt.Fprintf(w, "doubled\t%d\n", r.Doubled)
	fmt.Fprintf(w, "out of order\t%d\n", r.OutOfOrder)
	if r.Alien > 0 {
		fmt.Fprintf(w, "never sent\t%d\n", r.Alien)
	}
	for _, fault := range r.Faults {
		fmt.Fprintf(w, "\t%s\n", fault)
	}
	_ = w.Flush() // the output has gone: nobody to tell
}
