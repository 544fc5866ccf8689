package wal

// aheadMin is how much is worth a write of its own while an fsync is under way: less is
// written with the rest of its group.
const aheadMin = 32 << 10

// aheadLoops is how many goroutines wait for something to write ahead; one at a time
// writes. One that the committer wakes is next in line behind it, on a processor that
// Go leaves to the fsync then, for as long as that takes if there is work elsewhere:
// the next writer wakes the other one.
const aheadLoops = 2

// aheadLoop writes the next group while the one before is synced, so that little of it
// is left to write when that is done: the disk does not wait for copies. What it wrote is
// acknowledged after an fsync that began later.
func (l *Log) aheadLoop() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.ahead:
			for l.writeAhead() {
			}
		}
	}
}

// mayWriteAhead reports whether there is something to write during the fsync that is
// under way. Under mu.
func (l *Log) mayWriteAhead() bool {
	return l.mu.queue.filling.size >= l.aheadMin && l.mu.syncing && !l.mu.writing && !l.mu.noRoom && l.mu.err == nil
}

// writeAhead writes what is queued, if that is to be done now.
func (l *Log) writeAhead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mayWriteAhead() {
		return false
	}
	q := &l.mu.queue
	if !l.hasRoom(q.filling.frames) {
		l.mu.noRoom = true // a segment is activated when the one before is durable
		return false
	}
	b := q.next()
	l.toWrite(b)
	l.mu.ahead = b
	l.mu.Unlock()
	err := l.writeBatch(b)
	l.mu.Lock()
	if err != nil {
		l.poisonLocked(err)
	}
	q.written = append(q.written, b)
	q.recycleFrames(b, l.o.GroupBytes)
	l.mu.ahead, l.mu.writing = nil, false
	wake(l.wrote)
	return true
}

// wroteAhead reports whether the beginning of the next group is written, or nearly.
func (l *Log) wroteAhead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.queue.written) > 0 || l.mu.ahead != nil
}
