package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// model is a log as it should be, beside the real one.
type model struct {
	t        *testing.T
	root     string
	dir      string
	opens    int
	log      *Log
	payloads [][]byte // of LSN i+1
	points   []Point
	released LSN // everything below may be gone
}

func (m *model) open(rt *rapid.T) {
	o := testOptions()
	o.SegmentBytes = rapid.SampledFrom([]int64{300, 2000, 16 << 10}).Draw(rt, "segment_bytes")
	o.GroupBytes = rapid.SampledFrom([]int{100, 2000, 1 << 20}).Draw(rt, "group_bytes")
	l, err := Open(m.dir, o)
	if err != nil {
		rt.Fatalf("Open: %v", err)
	}
	m.log = l
}

func (m *model) appendSome(rt *rapid.T) {
	ctx := testContext(m.t)
	var last Ticket
	for range rapid.IntRange(1, 30).Draw(rt, "records") {
		p := payloadOf(LSN(len(m.payloads)+1), rapid.SampledFrom([]int{0, 10, 200, 3000}).Draw(rt, "size"))
		ticket, err := m.log.Enqueue(ctx, p)
		if err != nil || ticket.LSN != LSN(len(m.payloads)+1) {
			rt.Fatalf("LSN %d, %v", ticket.LSN, err)
		}
		m.payloads = append(m.payloads, p)
		last = ticket
	}
	if err := last.Wait(ctx); err != nil {
		rt.Fatal(err)
	}
	for lsn := len(m.points) + 1; lsn <= len(m.payloads); lsn++ {
		p, err := m.log.PointOf(LSN(lsn))
		if err != nil {
			rt.Fatal(err)
		}
		m.points = append(m.points, p)
	}
}

// crash goes on with a copy of the directory, taken while the log is open.
func (m *model) crash(rt *rapid.T) {
	m.opens++
	next := filepath.Join(m.root, fmt.Sprint(m.opens))
	m.stopJanitor() // a copy is no snapshot: it must not see half of a rename
	copyDir(m.t, m.dir, next)
	if err := m.log.Close(); err != nil {
		rt.Fatal(err)
	}
	if err := os.RemoveAll(m.dir); err != nil {
		rt.Fatal(err)
	}
	m.dir = next
	m.open(rt)
}

func (m *model) stopJanitor() {
	eventually(m.t, "the janitor to rest", func() bool {
		m.log.mu.Lock()
		defer m.log.mu.Unlock()
		sum := int64(0)
		for _, s := range m.log.mu.segments {
			sum += s.end.offset
		}
		return sum == m.log.mu.space.bytes && len(m.log.mu.trash) == 0 && len(m.log.prepared) == 1
	})
}

func (m *model) restart(rt *rapid.T) {
	if err := m.log.Close(); err != nil {
		rt.Fatal(err)
	}
	m.open(rt)
}

func (m *model) release(rt *rapid.T) {
	lsn := LSN(rapid.IntRange(0, len(m.payloads)+2).Draw(rt, "below"))
	m.log.Release(lsn)
	m.released = max(m.released, lsn)
}

func (m *model) read(rt *rapid.T) {
	from := LSN(rapid.IntRange(1, len(m.payloads)+1).Draw(rt, "from"))
	got, err := readAll(m.log, from)
	if first := m.log.First(); from < first {
		if !errors.Is(err, ErrBelowFirst) {
			rt.Fatalf("read from %d, first is %d: %v", from, first, err)
		}
		return
	}
	if err != nil || len(got) != len(m.payloads)-int(from)+1 {
		rt.Fatalf("read %d records from %d, want %d: %v", len(got), from, len(m.payloads)-int(from)+1, err)
	}
	for i, p := range got {
		if !bytes.Equal(p, m.payloads[int(from)-1+i]) {
			rt.Fatalf("LSN %d differs", int(from)+i)
		}
	}
}

// check holds after every step.
func (m *model) check(rt *rapid.T) {
	l := m.log
	if n := LSN(len(m.payloads)); l.Durable() != n || l.Appended() != n {
		rt.Fatalf("durable %d, appended %d, want %d", l.Durable(), l.Appended(), n)
	}
	first := l.First()
	if first > max(m.released, 1) {
		rt.Fatalf("first %d, though only what is below %d was released", first, m.released)
	}
	for lsn := max(first, 2) - 1; lsn <= l.Durable(); lsn++ {
		if err := l.Contains(m.points[lsn-1]); err != nil {
			rt.Fatalf("LSN %d: %v", lsn, err)
		}
	}
}

// TestModel does random things to a log and to a slice.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: t, root: memoryDir(t)}
		m.dir = filepath.Join(m.root, "0")
		m.open(rt)
		defer func() { _ = m.log.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"append":  m.appendSome,
			"restart": m.restart,
			"crash":   m.crash,
			"release": m.release,
			"read":    m.read,
			"":        m.check,
		})
	})
}
