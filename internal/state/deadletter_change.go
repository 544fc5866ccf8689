package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/mutation"
)

// change is one atomic change of a sink's dead letters.
type change struct {
	*DeadLetters
	batch        *pebble.Batch
	count, bytes uint64
	parked       map[uint64]int // hash of a key: by how much its count changes
	kept         position.LSN
}

func (d *DeadLetters) change(f func(*change) error) error { return d.changeWith(pebble.Sync, f) }

// changeWith makes the change that f prepares, if there is anything to it.
func (d *DeadLetters) changeWith(sync *pebble.WriteOptions, f func(*change) error) error {
	return d.use(func() error {
		d.changes.Lock()
		defer d.changes.Unlock()
		c := &change{DeadLetters: d, batch: d.store.db.NewBatch(), parked: map[uint64]int{}}
		defer c.batch.Close()
		d.mu.RLock()
		c.count, c.bytes, c.kept = d.mu.count, d.mu.bytes, d.mu.kept
		d.mu.RUnlock()
		if err := f(c); err != nil || c.batch.Empty() {
			return err
		}
		if err := c.putTotals(); err != nil {
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
	c.mu.count, c.mu.bytes, c.mu.kept = c.count, c.bytes, c.kept
	for hash, by := range c.parked {
		if n := int(c.mu.parks[hash]) + by; n > 0 {
			c.mu.parks[hash] = uint32(n)
		} else {
			delete(c.mu.parks, hash)
		}
	}
}

// The totals' value: count and bytes, 8 bytes each.
func (c *change) putTotals() error {
	value := binary.BigEndian.AppendUint64(nil, c.count)
	return c.batch.Set(c.prefix('t'), binary.BigEndian.AppendUint64(value, c.bytes), nil)
}

func (d *DeadLetters) totals() (count, bytes uint64, err error) {
	value, found, err := d.store.get(d.prefix('t'))
	if err != nil || !found {
		return 0, 0, err
	}
	if len(value) != 16 {
		return 0, 0, fmt.Errorf("%w: totals of %d bytes, want 16", ErrCorrupt, len(value))
	}
	return number(value), number(value[8:]), nil
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
	c.tally(letter, value, 1)
	return errors.Join(errs...)
}

func (c *change) remove(letter *DeadLetter) error {
	errs := []error{c.batch.Delete(c.lsnKey('d', letter.LSN), nil)}
	for _, key := range letter.Keys {
		errs = append(errs, c.batch.Delete(c.placeKey(key, letter), nil))
	}
	c.tally(letter, encodeLetter(letter), -1)
	return errors.Join(errs...)
}

func (c *change) tally(letter *DeadLetter, value []byte, by int) {
	c.count += uint64(by)
	c.bytes += uint64(by) * weight(letter, value) // wraps as it should
	if !letter.Parks {
		return
	}
	for _, key := range letter.Keys {
		c.parked[mutation.HashEncoded(key)] += by
	}
}

func (c *change) setAside(r Retry) error {
	letter, found, err := c.get(r.LSN)
	if err != nil || !found {
		return err
	}
	return errors.Join(
		c.remove(&letter),
		c.batch.Set(c.asideKey(r.By, r.LSN), encodeLetter(&letter), nil),
		c.trace(r.LSN, r.By),
	)
}

// trace notes what became of a dead letter.
func (c *change) trace(lsn, by position.LSN) error {
	return setNumber(c.batch, c.lsnKey('f', lsn), uint64(by))
}

// drop removes the letters from LSN from on that will come again.
func (c *change) drop(from position.LSN, again func(*DeadLetter) bool) error {
	return c.scanFrom(c.prefix('d'), c.lsnKey('d', from), func(k, value []byte) (bool, error) {
		letter, err := c.decode(position.LSN(lastNumber(k)), value)
		if err != nil || !again(&letter) {
			return true, err
		}
		return true, c.remove(&letter)
	})
}

// restore puts back what was set aside by records above low, but what will come
// again itself.
func (c *change) restore(low position.LSN, again func(*DeadLetter) bool) error {
	return c.scanFrom(c.prefix('x'), c.lsnKey('x', low+1), func(k, value []byte) (bool, error) {
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
}

// forget drops what was set aside by records below first, and their traces.
func (c *change) forget(first position.LSN) error {
	if first <= c.kept {
		return nil
	}
	c.kept = first
	return errors.Join(
		c.batch.DeleteRange(c.prefix('x'), c.lsnKey('x', first), nil),
		c.batch.DeleteRange(c.prefix('f'), c.lsnKey('f', first), nil))
}
