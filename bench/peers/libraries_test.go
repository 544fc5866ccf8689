package peers

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	tidwall "github.com/tidwall/wal"
	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

func openTidwall(t testing.TB, dir string, _ int) *running {
	l, err := tidwall.Open(filepath.Join(dir, "log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	index := uint64(0)
	return &running{close: l.Close, write: func(_ int, payload []byte) error {
		mu.Lock()
		defer mu.Unlock()
		index++
		return l.Write(index, payload)
	}}
}

func openTidwallBatch(t testing.TB, dir string, _ int) *running {
	l, err := tidwall.Open(filepath.Join(dir, "log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	var batch tidwall.Batch
	b := newBatcher(func(payloads [][]byte) error {
		batch.Clear()
		for _, p := range payloads {
			index++
			batch.Write(index, p)
		}
		return l.WriteBatch(&batch)
	})
	return &running{write: b.write, close: func() error {
		b.close()
		return l.Close()
	}}
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

func openPebble(t testing.TB, dir string, _ int) *running {
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Uint64
	return &running{close: db.Close, write: func(_ int, payload []byte) error {
		b := db.NewBatch()
		err := b.Set(binary.BigEndian.AppendUint64(nil, next.Add(1)), payload, nil)
		return errors.Join(err, b.Commit(pebble.Sync), b.Close())
	}}
}

// openRecord is Pebble's log writer without a store, at its best: the file is never
// longer than it was made, and begun again when it is full.
func openRecord(t testing.TB, dir string, _ int) *running {
	raw, err := openRaw(dir)
	if err != nil {
		t.Fatal(err)
	}
	sem := make(chan struct{}, record.SyncConcurrency-1)
	w := record.NewLogWriter(&recordFile{raw}, 1, record.LogWriterConfig{
		QueueSemChan:        sem, // it takes one out for each that is synced
		WALFsyncLatency:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "fsync"}),
		WriteWALSyncOffsets: func() bool { return true },
	})
	var mu sync.Mutex
	return &running{close: w.Close, write: func(_ int, payload []byte) error {
		sem <- struct{}{}
		var synced sync.WaitGroup
		var syncErr error
		synced.Add(1)
		mu.Lock()
		_, err := w.SyncRecord(payload, &synced, &syncErr)
		mu.Unlock()
		if err != nil {
			return err
		}
		synced.Wait()
		return syncErr
	}}
}

type recordFile struct{ raw *rawFile }

func (f *recordFile) Write(b []byte) (int, error) {
	if f.raw.at+int64(len(b)) > rawSize {
		f.raw.at = 0
	}
	n, err := f.raw.file.WriteAt(b, f.raw.at)
	f.raw.at += int64(n)
	return n, err
}

func (f *recordFile) Sync() error  { return unix.Fdatasync(int(f.raw.file.Fd())) }
func (f *recordFile) Close() error { return f.raw.file.Close() }

func openEtcd(t testing.TB, dir string, _ int) *running {
	w, err := etcdwal.Create(zap.NewNop(), filepath.Join(dir, "wal"), nil)
	if err != nil {
		t.Fatal(err)
	}
	term, index := uint64(1), uint64(0)
	b := newBatcher(func(payloads [][]byte) error {
		entries := make([]*raftpb.Entry, len(payloads))
		for i, p := range payloads {
			index++
			n := index
			entries[i] = &raftpb.Entry{Term: &term, Index: &n, Data: p}
		}
		return w.Save(&raftpb.HardState{}, entries)
	})
	return &running{write: b.write, close: func() error {
		b.close()
		return w.Close()
	}}
}

func openRaftWAL(t testing.TB, dir string, _ int) *running {
	w, err := raftwal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	b := newBatcher(func(payloads [][]byte) error {
		logs := make([]*raft.Log, len(payloads))
		for i, p := range payloads {
			index++
			logs[i] = &raft.Log{Index: index, Term: 1, Data: p}
		}
		return w.StoreLogs(logs)
	})
	return &running{write: b.write, close: func() error {
		b.close()
		return w.Close()
	}}
}

func openJetStream(t testing.TB, dir string, _ int) *running {
	ns, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: true,
		NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	js, err := nc.JetStream(nats.MaxWait(60 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: "bench", Subjects: []string{"bench"}, Storage: nats.FileStorage}); err != nil {
		t.Fatal(err)
	}
	return &running{
		write: func(_ int, payload []byte) error {
			_, err := js.Publish("bench", payload)
			return err
		},
		close: func() error {
			nc.Close()
			ns.Shutdown()
			ns.WaitForShutdown()
			return nil
		},
	}
}
