package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// limited is a server whose bounds of connections are set by reloads.
type limited struct {
	t    *testing.T
	i    *instance
	text string // of its endpoints, with a place for each number
}

func newLimited(t *testing.T, text string, numbers ...any) *limited {
	t.Helper()
	i, _, _, _ := running(t, fmt.Sprintf(text, numbers...))
	return &limited{t, i, text}
}

func (l *limited) set(numbers ...any) {
	l.t.Helper()
	l.i.reloader.load = func() (*config.Config, error) {
		return config.Parse("w.yaml", []byte("log: { min_free: -1 }\napi: { listen: \"127.0.0.1:0\" }\nadmin: { listen: \"127.0.0.1:0\" }\n"+
			"shutdown: { drain_timeout: 10s }\n"+fmt.Sprintf(l.text, numbers...)), []string{"WALPROXY_DATA_DIR=" + l.i.config.DataDir})
	}
	if out, err := l.i.reloader.reload(); err != nil || len(out.Refused) > 0 || len(out.Applied) == 0 {
		l.t.Fatalf("%+v, %v", out, err)
	}
}

// TestReloadConnections: how many connections the endpoints of Aerospike and PostgreSQL take
// changes while they have some: more are let in, and nobody is sent away.
func TestReloadConnections(t *testing.T) {
	t.Parallel()
	t.Run("aerowire", func(t *testing.T) {
		t.Parallel()
		l := newLimited(t, `aerowire: { listen: "127.0.0.1:0", namespaces: [test], sink: main, max_connections: %d }`, 1)
		ask := func(c net.Conn, patience time.Duration) error {
			_, err := c.Write(append(codec.AppendProto(nil, codec.TypeInfo, 5), "node\n"...))
			if err == nil {
				err = c.SetReadDeadline(time.Now().Add(patience))
			}
			head := make([]byte, codec.ProtoBytes)
			if err == nil {
				_, err = io.ReadFull(c, head)
			}
			if err != nil {
				return err
			}
			proto, err := codec.ParseProto(head, 1<<20)
			if err == nil {
				_, err = io.ReadFull(c, make([]byte, proto.Size))
			}
			return err
		}
		dial := func() net.Conn {
			c, err := net.Dial("tcp", l.i.aerowireListener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		served := func(c net.Conn) {
			t.Helper()
			if err := ask(c, time.Minute); err != nil {
				t.Error(err)
			}
		}
		waits := func(c net.Conn) {
			t.Helper()
			if err := ask(c, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("one too many: %v", err)
			}
		}
		first, second := dial(), dial()
		served(first)
		waits(second)
		l.set(2)
		served(second)
		l.set(1)
		served(first)
		served(second)
		third := dial()
		waits(third)
		_ = first.Close()
		waits(third) // there is still one
		_ = second.Close()
		served(third)
	})
	t.Run("pgwire", func(t *testing.T) {
		t.Parallel()
		c, _ := hosted(t)
		l := newLimited(t, `pgwire: { listen: "127.0.0.1:0", upstream: "postgres://`+c.Addr()+`", max_connections: %d, max_user_connections: %d, max_database_connections: %d, query_wait: 200ms }`, 1, 9, 9)
		g := &guests{t: t, dsn: pgtest.DSN(l.i.pgwireListener.Addr().String(), "app", "postgres")}
		refused := func(what string) {
			t.Helper()
			_, err := g.connect("s3cret")
			if said, ok := errors.AsType[*pgconn.PgError](err); !ok || said.Code != "53300" {
				t.Errorf("%s: %v, want 53300", what, err)
			}
		}
		first := g.in()
		refused("one too many")
		l.set(2, 9, 9)
		second := g.in()
		refused("two, and another")
		l.set(1, 9, 9)
		g.must(first, "SELECT 1")
		g.must(second, "SELECT 1")
		refused("a smaller number")
		l.set(9, 2, 9)
		refused("of one user")
		l.set(9, 9, 2)
		refused("of one database")
		l.set(9, 9, 9)
		g.must(g.in(), "SELECT 1")
	})
}
