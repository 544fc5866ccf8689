package peers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// openRedis starts a server of its own; each writer has a connection.
func openRedis(program string) func(t testing.TB, dir string, writers int) *running {
	return func(t testing.TB, dir string, writers int) *running {
		socket := filepath.Join(dir, "s")
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, program, "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "",
			"--appendonly", "yes", "--appendfsync", "always", "--maxclients", "2000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conns := make([]net.Conn, writers)
		readers := make([]*bufio.Reader, writers)
		deadline := time.Now().Add(30 * time.Second)
		for i := range conns {
			var err error
			for conns[i], err = net.Dial("unix", socket); err != nil && time.Now().Before(deadline); conns[i], err = net.Dial("unix", socket) {
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				t.Fatal(err)
			}
			readers[i] = bufio.NewReaderSize(conns[i], 64)
		}
		return &running{
			write: func(i int, payload []byte) error {
				key := fmt.Sprintf("%08d", i)
				b := fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(payload), payload)
				if _, err := conns[i].Write(b); err != nil {
					return err
				}
				line, err := readers[i].ReadString('\n')
				if err == nil && line != "+OK\r\n" {
					err = fmt.Errorf("redis: %q", line)
				}
				return err
			},
			close: func() error {
				for _, c := range conns {
					_ = c.Close() // the server goes
				}
				cancel()
				_ = cmd.Wait() // killed
				return nil
			},
		}
	}
}

// postgres is one server for the whole run; each cell has a table of its own.
type postgres struct {
	cluster *pgtest.Cluster
	mu      sync.Mutex
	tables  int
}

func (p *postgres) open(t testing.TB, _ string, writers int) *running {
	ctx := context.Background()
	p.mu.Lock()
	p.tables++
	table := fmt.Sprintf("bench%d", p.tables)
	p.mu.Unlock()
	conns := make([]*pgx.Conn, writers)
	for i := range conns {
		c, err := pgx.Connect(ctx, p.cluster.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	if _, err := conns[0].Exec(ctx, "CREATE TABLE "+table+" (id bigserial PRIMARY KEY, payload bytea)"); err != nil {
		t.Fatal(err)
	}
	insert := "INSERT INTO " + table + " (payload) VALUES ($1)"
	return &running{
		write: func(i int, payload []byte) error {
			_, err := conns[i].Exec(ctx, insert, payload)
			return err
		},
		close: func() error {
			_, err := conns[0].Exec(ctx, "DROP TABLE "+table)
			var closing sync.WaitGroup
			for _, c := range conns {
				closing.Go(func() { _ = c.Close(ctx) })
			}
			closing.Wait()
			return err
		},
	}
}
