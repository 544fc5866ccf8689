package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/crashtest/embedded"
	"github.com/walproxy/walproxy/internal/ledger"
)

// pileBatch is how many records pile appends at once.
const pileBatch = 5000

// pile writes that many records, whatever their keys, to a log whose store gets
// none of them, and closes it.
func pile(ctx context.Context, dir, name, records, keys string) error {
	n, err := strconv.Atoi(records)
	k, keysErr := strconv.Atoi(keys)
	if err := errors.Join(err, keysErr); err != nil {
		return err
	}
	proxy, err := embedded.OpenPaused(ctx, dir)
	if err != nil {
		return err
	}
	out := &lines{out: bufio.NewWriter(os.Stdout)}
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for next := i * pileBatch; next < n && errs[i] == nil; next += writers * pileBatch {
				writes := make([]ledger.Write, min(pileBatch, n-next))
				for j := range writes {
					writes[j] = ledger.Write{
						Kind: ledger.Kind(j % 3), Key: fmt.Sprintf("k%d", r.IntN(k)),
						Delta: 1 + r.Int64N(1000), Token: fmt.Sprintf("%s-%d", name, next+j),
					}
				}
				errs[i] = out.write(ctx, proxy, writes)
			}
		})
	}
	wg.Wait()
	var left *walproxy.RemainingError
	if err := proxy.Close(ctx); !errors.As(err, &left) {
		errs = append(errs, fmt.Errorf("close: %w, want one that tells what remains", err))
	}
	return errors.Join(append(errs, out.out.Flush())...)
}

// lines are those of several writers.
type lines struct {
	mu  sync.Mutex
	out *bufio.Writer
}

// write appends a batch and tells what was acknowledged.
func (l *lines) write(ctx context.Context, proxy *embedded.Embedded, writes []ledger.Write) error {
	batch := make([]*walproxyv1.Mutation, len(writes))
	for i, w := range writes {
		m, err := embedded.Mutation(w)
		if err != nil {
			return err
		}
		batch[i] = m
	}
	results := proxy.AppendBatch(ctx, batch)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range results {
		if r.Err != nil {
			return r.Err
		}
		said := writes[i].Try() + "\n" + ledger.AckLine(writes[i].Token, uint64(r.LSN), r.Repeat) + "\n"
		if _, err := io.WriteString(l.out, said); err != nil {
			return err
		}
	}
	return nil
}
