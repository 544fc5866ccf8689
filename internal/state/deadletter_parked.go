package state

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/mutation"
)

// The keys that are parked are stored with the number of dead letters that park
// them. In memory there is a table of fixed size that says of most keys surely
// that they are not; a key that it cannot tell costs one lookup.

const (
	tallyPages     = 1 << 10
	tallyPageBytes = 8 << 10
	// tallyKeysMax: with more parked keys than this at a start there is no table,
	// and every key is looked up until they are gone: reading them all would take
	// seconds, and the table would not say much.
	tallyKeysMax = 4 << 20
	// headsMax bounds how many keys' first parking letters are remembered.
	headsMax = 1 << 10
)

// tally counts keys by their hash, in at most 8 MiB. A counter that has reached
// its end stays there.
type tally [tallyPages]*[tallyPageBytes]uint8

func (t *tally) at(hash uint64) uint8 {
	page := t[hash%tallyPages]
	if page == nil {
		return 0
	}
	return page[hash/tallyPages%tallyPageBytes]
}

func (t *tally) add(hash uint64, by int) {
	page := t[hash%tallyPages]
	if page == nil {
		page = new([tallyPageBytes]uint8)
		t[hash%tallyPages] = page
	}
	if n := &page[hash/tallyPages%tallyPageBytes]; *n < 1<<8-1 {
		*n += uint8(by) // wraps as it should
	}
}

// MayPark reports whether a key of that hash (mutation.HashEncoded) may be
// parked: false is sure, and cheap.
func (d *DeadLetters) MayPark(hash uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return !d.mu.loaded || d.mayParkLocked(hash)
}

func (d *DeadLetters) mayParkLocked(hash uint64) bool {
	return d.mu.keys > 0 && (d.mu.tally == nil || d.mu.tally.at(hash) > 0)
}

// Any reports whether any key may be parked.
func (d *DeadLetters) Any() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return !d.mu.loaded || d.mu.keys > 0
}

// ParkedBy returns the first dead letter, of a position below before, that parks
// the key. ok is false if there is none.
func (d *DeadLetters) ParkedBy(key []byte, before position.LSN) (lsn position.LSN, ok bool, err error) {
	err = d.use(func() error {
		d.mu.RLock()
		may, head, version := d.mayParkLocked(mutation.HashEncoded(key)), d.mu.heads[string(key)], d.mu.version
		d.mu.RUnlock()
		if !may {
			return nil
		}
		if n, err := d.parking(key); err != nil || n == 0 {
			return err
		}
		prefix := d.queueKey(key)
		from := binary.BigEndian.AppendUint64(d.queueKey(key), uint64(head))
		return d.scanFrom(prefix, from, func(k, value []byte) (bool, error) {
			place := position.LSN(number(k[len(prefix):]))
			if len(value) != 1 || value[0] != parks {
				return place < before, nil
			}
			d.rememberHead(key, place, version)
			if ok = place < before; ok {
				lsn = position.LSN(lastNumber(k))
			}
			return false, nil
		})
	})
	return lsn, ok, err
}

// rememberHead notes where the first dead letter that parks key is: what was in
// front of it and is deleted need not be passed again. Since version nothing may
// have been added.
func (d *DeadLetters) rememberHead(key []byte, place position.LSN, version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.version != version || d.mu.heads[string(key)] == place {
		return
	}
	if d.mu.heads == nil || len(d.mu.heads) >= headsMax {
		d.mu.heads = map[string]position.LSN{}
	}
	d.mu.heads[string(key)] = place
}

// parking is how many dead letters park key.
func (d *DeadLetters) parking(key []byte) (uint64, error) {
	n, _, err := d.store.number(d.parkedKey(key))
	return n, err
}

func (d *DeadLetters) parkedKey(key []byte) []byte { return append(d.prefix('p'), key...) }

// parking is how many dead letters park a key, before a change and with it.
type parking struct{ before, now uint64 }

// park changes by how many dead letters key is parked.
func (c *change) park(key []byte, by int) error {
	p := c.parked[string(key)]
	if p == nil {
		p = &parking{}
		if c.MayPark(mutation.HashEncoded(key)) {
			n, err := c.parking(key)
			if err != nil {
				return err
			}
			p.before, p.now = n, n
		}
		c.parked[string(key)] = p
	}
	if by < 0 && p.now == 0 {
		return fmt.Errorf("%w: more dead letters than counted park a key of sink %q", ErrCorrupt, c.sink)
	}
	p.now += uint64(by) // wraps as it should
	return nil
}

// putParked writes how the keys are parked now.
func (c *change) putParked() error {
	for key, p := range c.parked {
		if err := c.put(c.parkedKey([]byte(key)), p); err != nil {
			return err
		}
		if p.before == 0 && p.now > 0 {
			c.keys++
		} else if p.before > 0 && p.now == 0 {
			c.keys--
		}
	}
	return nil
}

func (c *change) put(key []byte, p *parking) error {
	switch p.now {
	case p.before:
		return nil
	case 0:
		return c.batch.Delete(key, nil)
	}
	return setNumber(c.batch, key, p.now)
}

// publishParkedLocked makes the table say what the disk says.
func (c *change) publishParkedLocked() {
	d := c.DeadLetters
	if d.mu.keys == 0 {
		d.mu.tally = &tally{} // whatever it was, it is known now
	}
	for key, p := range c.parked {
		if p.now > p.before {
			delete(d.mu.heads, key) // it may be in front
		}
		if d.mu.tally == nil || (p.before > 0) == (p.now > 0) {
			continue
		}
		by := 1
		if p.now == 0 {
			by = -1
		}
		d.mu.tally.add(mutation.HashEncoded([]byte(key)), by)
	}
	d.mu.version++
	if d.mu.keys = c.keys; d.mu.keys == 0 {
		d.mu.tally, d.mu.heads = nil, nil
	}
}

// loadParked fills a table with the keys that are parked; nil if they are many.
func (d *DeadLetters) loadParked(keys uint64) (*tally, error) {
	if keys == 0 || keys > d.tallyMax {
		return nil, nil
	}
	t, prefix := &tally{}, d.prefix('p')
	err := d.scan(prefix, func(k, _ []byte) (bool, error) {
		t.add(mutation.HashEncoded(k[len(prefix):]), 1)
		return true, nil
	})
	return t, err
}

// countParked stores how the keys are parked, from their queues: the dead letters
// are from before it was stored.
func (d *DeadLetters) countParked() (keys uint64, err error) {
	const most = 10_000 // keys a batch
	batch := d.store.db.NewBatch()
	defer func() { _ = batch.Close() }()
	var last []byte
	var n uint64
	end := func() error { // of a key's queue
		if n == 0 {
			return nil
		}
		keys++
		if err := setNumber(batch, d.parkedKey(last), n); err != nil || batch.Count() < most {
			return err
		}
		if err := batch.Commit(pebble.NoSync); err != nil {
			return err
		}
		batch.Reset()
		return nil
	}
	prefix := d.prefix('q')
	err = d.scan(prefix, func(k, value []byte) (bool, error) {
		if len(k) < len(prefix)+16 {
			return false, fmt.Errorf("%w: dead letter queue key of %d bytes", ErrCorrupt, len(k))
		}
		if key := k[len(prefix) : len(k)-16]; string(key) != string(last) {
			if err := end(); err != nil {
				return false, err
			}
			last, n = append(last[:0], key...), 0
		}
		if len(value) == 1 && value[0] == parks {
			n++
		}
		return true, nil
	})
	if err == nil {
		err = end()
	}
	if err == nil {
		err = batch.Commit(pebble.NoSync)
	}
	return keys, err
}
