// Command writer writes to an embedded walproxy until it is killed. It says on
// stdout what it tries and what was acknowledged, each line in one write:
//
//	try <kind> <key> <delta> <token>
//	ack <lsn> <repeat> <token>
//
// On stdin it is given the writes of unknown outcome of its predecessors, as
// try lines; it repeats them first.
//
// Given a number of records and of keys it writes so many, as fast as it can, to a
// log whose store is paused, and ends.
package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/crashtest/embedded"
	"github.com/walproxy/walproxy/internal/ledger"
)

const (
	writers = 8
	keys    = 5
)

func main() {
	switch len(os.Args) {
	case 3:
	case 5:
		if err := pile(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fail(err)
		}
		return
	default:
		fail(fmt.Errorf("usage: writer DIR NAME [RECORDS KEYS]"))
	}
	again, err := readAgain()
	if err != nil {
		fail(err)
	}
	ctx := context.Background()
	proxy, err := embedded.Open(ctx, os.Args[1])
	if err != nil {
		fail(err)
	}
	fmt.Fprintln(os.Stderr, "listening embedded=yes")
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for at := i; at < len(again); at += writers {
				write(ctx, proxy, again[at:at+1])
			}
			forever(ctx, proxy, i)
		})
	}
	wg.Wait()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "writer:", err)
	os.Exit(1)
}

func readAgain() ([]ledger.Write, error) {
	var writes []ledger.Write
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		w, err := ledger.ParseTry(in.Text())
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, in.Err()
}

// forever writes, alone and in batches.
func forever(ctx context.Context, proxy *embedded.Embedded, number int) {
	for n := 0; ; {
		writes := make([]ledger.Write, 1+n%5)
		for i := range writes {
			writes[i] = ledger.Write{
				Kind: ledger.Kind(rand.IntN(3)), Key: fmt.Sprintf("k%d", rand.IntN(keys)),
				Delta: 1 + rand.Int64N(1000), Token: fmt.Sprintf("%s-%d-%d", os.Args[2], number, n),
			}
			n++
		}
		write(ctx, proxy, writes)
	}
}

// write tells what it tries, and what was acknowledged.
func write(ctx context.Context, proxy *embedded.Embedded, writes []ledger.Write) {
	var batch []*walproxyv1.Mutation
	for _, w := range writes {
		m, err := embedded.Mutation(w)
		if err != nil {
			fail(err)
		}
		batch = append(batch, m)
		say(w.Try())
	}
	results := make([]walproxy.BatchResult, 1)
	if len(batch) == 1 {
		results[0].Result, results[0].Err = proxy.Append(ctx, batch[0])
	} else {
		results = proxy.AppendBatch(ctx, batch)
	}
	for i, r := range results {
		if r.Err != nil {
			fail(r.Err)
		}
		say(ledger.AckLine(writes[i].Token, uint64(r.LSN), r.Repeat))
	}
}

// say writes a line at once: what is in the pipe survives the kill.
func say(line string) {
	if _, err := os.Stdout.WriteString(line + "\n"); err != nil {
		os.Exit(1) // nobody listens
	}
}
