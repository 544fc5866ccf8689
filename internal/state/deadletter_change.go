package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/position"
)

// change is one atomic change of a sink's dead letters.
type change struct {
	*DeadLetters
	batch *pebble.Batch
	totals
	parked  map[string]*parking // of the keys that it concerns
	kept    position.LSN
	removed bool // some dead letter goes
}

func (d *DeadLetters) change(f func(*change) error) error { return d.changeWith(pebble.Sync, f) }

// changeWith makes the change that f prepares, if there is anything to it.
func (d *DeadLetters) changeWith(sync *pebble.WriteOptions, f func(*change) error) error {
	return d.use(func() error {
		d.changes.Lock()
		defer d.changes.Unlock()
		c := &change{DeadLetters: d, batch: d.store.db.NewBatch(), parked: map[string]*parking{}}
		defer c.batch.Close()
		d.mu.RLock()
		c.totals, c.kept = d.mu.totals, d.mu.kept
		d.mu.RUnlock()
		if err := f(c); err != nil {
			return err
		}
		if c.batch.Empty() {
			d.mu.Lock()
			d.mu.kept = c.kept
			d.mu.Unlock()
			return nil
		}
		if err := errors.Join(c.putParked(), c.batch.Set(c.prefix('t'), c.totals.encode(), nil)); err != nil {
			return err
		}
		if sync == pebble.Sync {
			failpoint.Hit("state-before-sync")
		}
		if err := c.batch.Commit(sync); err != nil {
			return err
		}
		c.publish()
		return nil
	})
}

// publish makes the counters say what the disk says.
func (c *change) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publishParkedLocked()
	c.mu.totals, c.mu.kept = c.totals, c.kept
	if c.removed && c.mu.removed != nil {
		close(c.mu.removed)
		c.mu.removed = nil
	}
}

// The totals' value: count, bytes, parked keys and traces, 8 bytes each. Of
// before there were the others it is the first two.
func (t totals) encode() (value []byte) {
	for _, n := range []uint64{t.count, t.bytes, t.keys, t.traces} {
		value = binary.BigEndian.AppendUint64(value, n)
	}
	return value
}

func (d *DeadLetters) putTotals(t totals) error {
	return d.store.db.Set(d.prefix('t'), t.encode(), pebble.Sync)
}

// storedTotals; counted is false if the parked keys are yet to be counted.
func (d *DeadLetters) storedTotals() (t totals, counted bool, err error) {
	value, found, err := d.store.get(d.prefix('t'))
	if err != nil || !found {
		return t, true, err
	}
	if len(value) != 16 && len(value) != 32 {
		return t, true, fmt.Errorf("%w: totals of %d bytes, want 32", ErrCorrupt, len(value))
	}
	t.count, t.bytes = number(value), number(value[8:])
	if len(value) == 16 {
		return t, false, nil
	}
	t.keys, t.traces = number(value[16:]), number(value[24:])
	return t, true, nil
}

// letterOverhead estimates what an entry costs beside its value.
const letterOverhead = 64

// weight is what a dead letter counts for in the bound.
func weight(letter *DeadLetter, value []byte) uint64 {
	n := len(value) + letterOverhead
	for _, key := range letter.Keys {
		n += len(key) + letterOverhead
	}
	return uint64(n)
}

func (c *change) add(letter *DeadLetter) error {
	value := encodeLetter(letter)
	errs := []error{c.batch.Set(c.lsnKey('d', letter.LSN), value, nil)}
	mark := []byte{0}
	if letter.Parks {
		mark[0] = parks
	}
	for _, key := range letter.Keys {
		errs = append(errs, c.batch.Set(c.placeKey(key, letter), mark, nil))
	}
	return errors.Join(append(errs, c.tally(letter, value, 1))...)
}

func (c *change) remove(letter *DeadLetter) error {
	errs := []error{c.batch.Delete(c.lsnKey('d', letter.LSN), nil)}
	for _, key := range letter.Keys {
		errs = append(errs, c.batch.Delete(c.placeKey(key, letter), nil))
	}
	c.removed = true
	return errors.Join(append(errs, c.tally(letter, encodeLetter(letter), -1))...)
}

func (c *change) tally(letter *DeadLetter, value []byte, by int) error {
	c.count += uint64(by)
	c.bytes += uint64(by) * weight(letter, value) // wraps as it should
	if !letter.Parks {
		return nil
	}
	for _, key := range letter.Keys {
		if err := c.park(key, by); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) setAside(r Retry) error {
	letter, found, err := c.get(r.LSN)
	if err != nil || !found {
		return err
	}
	return errors.Join(
		c.remove(&letter),
		c.batch.Set(c.asideKey(r.By, r.LSN), encodeLetter(&letter), nil),
		setNumber(c.batch, c.lsnKey('f', r.LSN), uint64(r.By)),
	)
}
