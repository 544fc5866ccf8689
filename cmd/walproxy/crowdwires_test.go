package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// wires are where the endpoints of the databases listen.
type wires struct {
	*crowd
	aerowire, pgwire string
}

// restAero opens a connection of an Aerospike client that rests behind one question.
func (w *wires) restAero(int) (func(), error) {
	conn, err := dialCrowd(w.t.Context(), "tcp", w.aerowire)
	if err != nil {
		return nil, err
	}
	return func() { _ = conn.Close() }, askNode(conn)
}

// askNode asks for the node's name.
func askNode(conn net.Conn) error {
	if _, err := conn.Write(append(codec.AppendProto(nil, codec.TypeInfo, 5), "node\n"...)); err != nil {
		return err
	}
	head := make([]byte, codec.ProtoBytes)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	proto, err := codec.ParseProto(head, 1<<20)
	if err == nil {
		_, err = io.CopyN(io.Discard, conn, int64(proto.Size))
	}
	return err
}

// restSession logs a client of PostgreSQL in, which does one query and rests.
func (w *wires) restSession(int) (func(), error) {
	conn, err := dialCrowd(w.t.Context(), "tcp", w.pgwire)
	if err != nil {
		return nil, err
	}
	const parameters = "user\x00postgres\x00database\x00postgres\x00\x00"
	startup := binary.BigEndian.AppendUint32(nil, uint32(8+len(parameters)))
	startup = append(binary.BigEndian.AppendUint32(startup, 3<<16), parameters...)
	if _, err = conn.Write(startup); err == nil {
		err = untilReady(conn)
	}
	if err == nil {
		err = query(conn)
	}
	return func() { _ = conn.Close() }, err
}

func query(conn net.Conn) error {
	_, err := conn.Write([]byte("Q\x00\x00\x00\x0dSELECT 1\x00"))
	if err != nil {
		return err
	}
	return untilReady(conn)
}

// untilReady reads messages up to ReadyForQuery.
func untilReady(conn net.Conn) error {
	for {
		var head [5]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(conn, body); err != nil {
			return err
		}
		switch head[0] {
		case 'E':
			return fmt.Errorf("refused: %q", body)
		case 'Z':
			return nil
		}
	}
}

// TestCrowdWires: connections that rest at the endpoints for Aerospike and PostgreSQL cost
// a bounded memory each, and the others no ack. With WALPROXY_LONG 10,000 at each.
func TestCrowdWires(t *testing.T) {
	idle, acks, slack := 100, 50, 250*time.Millisecond
	long := os.Getenv("WALPROXY_LONG") != ""
	if long {
		idle, acks, slack = 10_000, 1000, 50*time.Millisecond
	}
	store, _ := hosted(t)
	c := newCrowd(t, "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0", "WALPROXY_AEROWIRE__MAX_CONNECTIONS=15000", "WALPROXY_AEROWIRE__IDLE_TIMEOUT=1h",
		"WALPROXY_PGWIRE__LISTEN=127.0.0.1:0", "WALPROXY_PGWIRE__UPSTREAM=postgres://"+store.Addr()+"/?sslmode=disable", "WALPROXY_PGWIRE__MAX_CONNECTIONS=15000",
		"WALPROXY_PGWIRE__POOL__MODE=transaction", "WALPROXY_PGWIRE__POOL__SIZE=4")
	c.prepare()
	w := &wires{c, c.server.Addr("aerowire"), c.server.Addr("pgwire")}
	_, _ = c.latencies(acks)
	for _, kind := range []struct {
		name  string
		begin func(int) (func(), error)
		most  int64 // bytes in use for each
	}{
		{"Aerospike", w.restAero, 32 << 10},
		{"PostgreSQL", w.restSession, 24 << 10},
	} {
		end, err := kind.begin(0) // what the first one needs
		if err != nil {
			t.Fatal(err)
		}
		end()
		alone, tailAlone := c.latencies(acks)
		bare, bareRSS := c.memory()
		began := time.Now()
		c.join(idle, kind.begin)
		took := time.Since(began)
		live, resident := c.memory()
		median, tail := c.latencies(acks)
		end, err = kind.begin(0) // there is room for another one
		if err != nil {
			t.Fatal(err)
		}
		end()
		c.disperse()
		again, tailAgain := c.latencies(acks)
		t.Logf("%5d %-10s %6d bytes in use each, %6d resident; in %v; an ack %v, of 99 in 100 %v; alone before %v, %v; behind %v, %v", idle, kind.name,
			(live-bare)/int64(idle), (resident-bareRSS)/int64(idle), took.Round(time.Millisecond), median, tail, alone, tailAlone, again, tailAgain)
		// With room for what a collector leaves, which few connections do not outweigh.
		if grown, most := live-bare, int64(idle)*kind.most+2<<20; grown > most {
			t.Errorf("%s: %d connections hold %d KiB, at most %d", kind.name, idle, grown>>10, most>>10)
		}
		if most := 4*max(alone, again) + slack; median > most {
			t.Errorf("%s: an ack takes %v beside the crowd; at most %v", kind.name, median, most)
		}
		if most := 10*max(tailAlone, tailAgain) + 4*slack; tail > most {
			t.Errorf("%s: of 99 in 100 acks the longest takes %v beside the crowd; at most %v", kind.name, tail, most)
		}
	}
}
