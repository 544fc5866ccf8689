package ledger

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"
)

// Load writes from many clients at once and keeps the ledger. Every write is
// sent until its outcome is known, under one request id.
type Load struct {
	Client *Client
	Ledger *Ledger
	// Clients write side by side, each in its own order.
	Clients int
	// Records to write, all clients together; 0: until the context ends.
	Records int
	// Keys of each kind; all clients write to all of them.
	Keys int
	// Prefix of the keys: another one makes records anew.
	Prefix string
	// Batch is how many writes a client sends at once, unless it sends single ones.
	Batch int
	// Pad makes sets and events this much larger, in bytes.
	Pad int
	// Name of the run: it makes the tokens unique and seeds the choices.
	Name string
	// Again sends what the ledger knows to be of unknown outcome first.
	Again bool
	// Pause after an attempt that failed; doubled up to half a second. 20 ms.
	Pause time.Duration
}

// Run writes until everything is acked or ctx ends: then what is under way stays
// unknown. It returns an error for a write that can never succeed.
func (l *Load) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var again []Write
	if l.Again {
		again = l.Ledger.Unknown()
	}
	var wg sync.WaitGroup
	for i := range l.Clients {
		records := l.Records/l.Clients + min(1, max(0, l.Records%l.Clients-i))
		wg.Go(func() {
			if err := l.client(ctx, i, records, again); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); errors.As(cause, new(*hopelessError)) {
		return cause
	}
	return nil
}

// hopelessError is an answer that no retry changes.
type hopelessError struct{ err error }

func (e *hopelessError) Error() string { return "a write can never succeed: " + e.err.Error() }
func (e *hopelessError) Unwrap() error { return e.err }

// client is one client: it sends its next writes when the last ones are settled.
func (l *Load) client(ctx context.Context, number, records int, again []Write) error {
	rng := rand.New(rand.NewPCG(uint64(number), hash(l.Name)))
	form := Form(number % int(forms))
	for i := number; i < len(again); i += l.Clients {
		if err := l.settle(ctx, Single, again[i:i+1]); err != nil {
			return err
		}
	}
	for next := 0; ctx.Err() == nil && (l.Records == 0 || next < records); {
		n := 1
		if form != Single {
			n = 1 + rng.IntN(max(1, l.Batch))
		}
		if l.Records > 0 {
			n = min(n, records-next)
		}
		writes := make([]Write, n)
		for i := range writes {
			writes[i] = l.write(rng, number, next+i)
		}
		next += n
		if err := l.settle(ctx, form, writes); err != nil {
			return err
		}
	}
	return nil
}

func hash(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // cannot fail
	return h.Sum64()
}

func (l *Load) write(rng *rand.Rand, client, n int) Write {
	w := Write{
		Kind:  Kind(rng.IntN(int(kinds))),
		Key:   fmt.Sprintf("%sk%d", l.Prefix, rng.IntN(max(1, l.Keys))),
		Token: fmt.Sprintf("%s-%d-%d", l.Name, client, n),
		Delta: 1 + rng.Int64N(1000),
		Pad:   l.Pad,
	}
	return w
}

const (
	maxPause = 500 * time.Millisecond
	// requestTimeout bounds one request.
	requestTimeout = 60 * time.Second
)

// settle sends the writes until each is acked, or ctx ends.
func (l *Load) settle(ctx context.Context, form Form, writes []Write) error {
	pause := l.Pause
	if pause == 0 {
		pause = 20 * time.Millisecond
	}
	for len(writes) > 0 && ctx.Err() == nil {
		left, err := l.attempt(ctx, form, writes)
		if err != nil {
			return err
		}
		if len(left) == len(writes) { // nothing works: wait, with jitter
			select {
			case <-ctx.Done():
			case <-time.After(pause/2 + rand.N(pause)):
			}
			pause = min(2*pause, maxPause)
		}
		writes = left
	}
	return nil
}

// attempt sends the writes once and returns those that are not acked.
func (l *Load) attempt(ctx context.Context, form Form, writes []Write) (left []Write, err error) {
	for _, w := range writes {
		l.Ledger.Attempt(w)
	}
	requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answers, errs := l.Client.Send(requestCtx, form, writes)
	for i, w := range writes {
		if errs[i] == nil {
			l.Ledger.Ack(w.Token, answers[i].LSN, answers[i].Repeat)
			continue
		}
		if Refused(errs[i]) {
			l.Ledger.Refuse(w.Token)
		}
		var answered *APIError
		if errors.As(errs[i], &answered) && answered.Status < 500 && !answered.Retryable {
			return nil, &hopelessError{errs[i]}
		}
		left = append(left, w)
	}
	return left, nil
}
