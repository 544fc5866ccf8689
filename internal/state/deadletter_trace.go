package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/position"
)

const (
	// chunk bounds what one change undoes or forgets.
	chunk = 1000
	// tracesMax bounds the traces of records that the log no longer has: of more
	// the oldest are forgotten.
	tracesMax = 1 << 20
)

// Trace says what became of a record that was a dead letter and is none any
// more: retried as by, or given up if by is 0. ok is false if neither is known:
// the last tracesMax are known for good, the others while the log has the retry.
func (d *DeadLetters) Trace(lsn position.LSN) (by position.LSN, ok bool, err error) {
	err = d.use(func() error {
		by, ok, err = d.trace(lsn)
		return err
	})
	return by, ok, err
}

func (d *DeadLetters) trace(lsn position.LSN) (by position.LSN, ok bool, err error) {
	for _, kind := range []byte{'v', 'f'} {
		n, found, err := d.store.number(d.lsnKey(kind, lsn))
		if err != nil || found {
			return position.LSN(n), found, err
		}
	}
	return 0, false, nil
}

// GivenUp reports whether the record was a dead letter and given up: it must not
// be applied when it comes again.
func (d *DeadLetters) GivenUp(lsn position.LSN) (bool, error) {
	by, ok, err := d.Trace(lsn)
	return ok && by == 0, err
}

// LastTrace is the highest LSN that GivenUp may know, 0 if it knows none.
func (d *DeadLetters) LastTrace() (last position.LSN, err error) {
	err = d.use(func() (err error) {
		last, err = d.last('v')
		return err
	})
	return last, err
}

// LastDecided is the highest LSN of a record that is a dead letter, or was one and
// has a trace; 0: there is none.
func (d *DeadLetters) LastDecided() (last position.LSN, err error) {
	err = d.use(func() error {
		for _, kind := range []byte{'d', 'f', 'v'} {
			lsn, err := d.last(kind)
			if err != nil {
				return err
			}
			last = max(last, lsn)
		}
		return nil
	})
	return last, err
}

// Aside returns the dead letter lsn that the record by retried, as it was before.
// found is false if by did not, or that cannot come again.
func (d *DeadLetters) Aside(by, lsn position.LSN) (letter DeadLetter, found bool, err error) {
	err = d.use(func() error {
		value, ok, err := d.store.get(d.asideKey(by, lsn))
		if err != nil || !ok {
			return err
		}
		found = true
		letter, err = d.decode(lsn, value)
		return err
	})
	return letter, found, err
}

// keepTrace notes for good what became of a dead letter.
func (c *change) keepTrace(lsn, by position.LSN) error {
	key := c.lsnKey('v', lsn)
	_, found, err := c.store.number(key)
	if err != nil || found && by != 0 { // given up is the last word
		return err
	}
	if !found {
		c.traces++
	}
	return setNumber(c.batch, key, uint64(by))
}

// Resume undoes, durably, what was done by records that the sink's checkpoint
// does not cover: they will come again. low is the checkpoint's lowest lane;
// above says of a dead letter above low whether its own lane does not cover it.
// first is the lowest LSN that can come again: what is below it stays. What was
// given up stays so: see GivenUp.
//
// It is made of several changes. A crash between two is like one before the
// first.
func (d *DeadLetters) Resume(low, first position.LSN, above func(*DeadLetter) bool) error {
	again := func(letter *DeadLetter) bool { return letter.LSN > low && letter.LSN >= first && above(letter) }
	from := d.lsnKey('d', max(low+1, first))
	err := d.inChunks(pebble.Sync, func(c *change) (more bool, err error) {
		from, err = c.drop(from, again)
		return from != nil, err
	})
	if err != nil {
		return err
	}
	err = d.inChunks(pebble.Sync, func(c *change) (bool, error) { return c.restore(low, again) })
	if err != nil {
		return err
	}
	return d.Settle(first)
}

// Settle forgets what was set aside by records below first, the lowest LSN that
// can come again. Of what became a dead letter again, or was given up, a trace
// stays. It does not wait for the disk.
func (d *DeadLetters) Settle(first position.LSN) error {
	return d.inChunks(pebble.NoSync, func(c *change) (bool, error) { return c.forget(first) })
}

// inChunks makes changes until f reports that there is nothing more.
func (d *DeadLetters) inChunks(sync *pebble.WriteOptions, f func(*change) (more bool, err error)) error {
	for more := true; more; {
		err := d.changeWith(sync, func(c *change) (err error) {
			more, err = f(c)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// drop removes the letters from a key on that will come again, up to a chunk. It
// returns the key to go on from, nil at the end.
func (c *change) drop(from []byte, again func(*DeadLetter) bool) (next []byte, err error) {
	seen := 0
	err = c.scanFrom(c.prefix('d'), from, func(k, value []byte) (bool, error) {
		if seen++; seen > chunk {
			next = append(next, k...)
			return false, nil
		}
		letter, err := c.decode(position.LSN(lastNumber(k)), value)
		if err != nil || !again(&letter) {
			return true, err
		}
		return true, c.remove(&letter)
	})
	return next, err
}

// restore puts back what was set aside by records above low, but what will come
// again itself, up to a chunk.
func (c *change) restore(low position.LSN, again func(*DeadLetter) bool) (more bool, err error) {
	seen := 0
	err = c.scanFrom(c.prefix('x'), c.lsnKey('x', low+1), func(k, value []byte) (bool, error) {
		if seen++; seen > chunk {
			more = true
			return false, nil
		}
		lsn := position.LSN(lastNumber(k))
		letter, err := c.decode(lsn, value)
		if err != nil {
			return false, err
		}
		err = errors.Join(c.batch.Delete(k, nil), c.batch.Delete(c.lsnKey('f', lsn), nil))
		if !again(&letter) {
			err = errors.Join(err, c.add(&letter))
		}
		return true, err
	})
	return more, err
}

// forget drops what was set aside by records below first, up to a chunk.
func (c *change) forget(first position.LSN) (more bool, err error) {
	if first <= c.kept {
		return false, c.forgetTraces(first)
	}
	kept, seen := first, 0
	prefix := c.prefix('x')
	err = c.scanFrom(prefix, c.lsnKey('x', c.kept), func(k, _ []byte) (bool, error) {
		by, lsn := position.LSN(number(k[len(prefix):])), position.LSN(lastNumber(k))
		if by >= first {
			return false, nil
		}
		if seen++; seen > chunk {
			kept, more = by, true
			return false, nil
		}
		return true, errors.Join(c.batch.Delete(k, nil), c.batch.Delete(c.lsnKey('f', lsn), nil), c.traceOn(lsn, by))
	})
	if err != nil {
		return false, err
	}
	c.kept = kept
	return more, c.forgetTraces(first)
}

// traceOn keeps the trace from lsn to its retry unless that was applied.
func (c *change) traceOn(lsn, by position.LSN) error {
	_, ok, err := c.trace(by)
	if err == nil && !ok {
		_, ok, err = c.get(by)
	}
	if err != nil || !ok {
		return err
	}
	return c.keepTrace(lsn, by)
}

// forgetTraces drops the older half of the traces if there are too many, but none
// from first on: those records can come again.
func (c *change) forgetTraces(first position.LSN) error {
	if c.traces <= tracesMax {
		return nil
	}
	var seen uint64
	end := position.LSN(0)
	err := c.scan(c.prefix('v'), func(k, _ []byte) (bool, error) {
		if end = position.LSN(lastNumber(k)); end >= first || seen >= tracesMax/2 {
			return false, nil
		}
		seen++
		return true, nil
	})
	if err != nil || seen == 0 {
		return err
	}
	c.traces -= seen
	return c.batch.DeleteRange(c.lsnKey('v', 0), c.lsnKey('v', end), nil)
}
