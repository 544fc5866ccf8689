package aeronodes

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// node is one address of the cluster.
type node struct {
	cluster *Cluster
	name    string
	addr    string // the same in every run; set by the first
	served  atomic.Int64
	wg      sync.WaitGroup

	mu struct {
		sync.Mutex
		listener net.Listener // nil: it does not run
		began    time.Time
		conns    map[net.Conn]bool
	}
}

func (m *node) listen() error {
	listener, err := net.Listen("tcp", m.addr)
	if err != nil {
		return err
	}
	m.run(listener)
	return nil
}

func (m *node) run(listener net.Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.listener, m.mu.began, m.mu.conns = listener, time.Now(), map[net.Conn]bool{}
	m.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.serve(near) })
		}
	})
}

// kill ends the node; it may be called again.
func (m *node) kill() {
	m.mu.Lock()
	if m.mu.listener != nil {
		m.mu.listener.Close()
		m.mu.listener = nil
	}
	for c := range m.mu.conns {
		c.Close()
	}
	m.mu.Unlock()
	m.wg.Wait()
}

func (m *node) runs() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.listener != nil
}

func (m *node) began() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.began
}

// replicas is the line of the partitions that the node has, a bit for each.
func (m *node) replicas(v view) string {
	var maps []string
	for rank := range replicas {
		bits := make([]byte, Partitions/8)
		for p := range Partitions {
			if v.owner(p, rank) == m {
				bits[p>>3] |= 0x80 >> (p & 7)
			}
		}
		maps = append(maps, base64.StdEncoding.EncodeToString(bits))
	}
	var lines []string
	for _, ns := range m.cluster.namespaces {
		lines = append(lines, fmt.Sprintf("%s:0,%d,%s", ns, replicas, strings.Join(maps, ",")))
	}
	return strings.Join(lines, ";")
}

// hold counts connections that kill closes; false: it was called.
func (m *node) hold(conns ...net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conns {
		m.mu.conns[c] = true
	}
	return m.mu.listener != nil
}

func (m *node) drop(conns ...net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conns {
		delete(m.mu.conns, c)
		c.Close()
	}
}

// serve answers one request after the other, until either side ends.
func (m *node) serve(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", m.cluster.store)
	if err != nil {
		return
	}
	defer m.drop(near, far)
	if !m.hold(near, far) {
		return
	}
	for {
		kind, body, err := read(near)
		if err != nil {
			return
		}
		switch kind {
		case codec.TypeInfo:
			err = m.info(near, far, body)
		default:
			err = m.message(near, far, kind, body)
		}
		if err != nil {
			return
		}
	}
}

// read reads a message.
func read(from io.Reader) (kind byte, body []byte, err error) {
	head := make([]byte, codec.ProtoBytes)
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, nil, err
	}
	proto, err := codec.ParseProto(head, codec.SizeMax)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, proto.Size)
	_, err = io.ReadFull(from, body)
	return proto.Type, body, err
}

// write sends a message.
func write(to io.Writer, kind byte, body []byte) error {
	_, err := to.Write(append(codec.AppendProto(nil, kind, len(body)), body...))
	return err
}

// info answers what it can, and asks the store for the rest.
func (m *node) info(near, far net.Conn, body []byte) error {
	v := m.cluster.view()
	var out []byte
	var others []string
	for _, name := range codec.ParseInfo(body) {
		if answer, ok := m.answer(v, name); ok {
			out = codec.AppendInfo(out, name, answer)
		} else {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		if err := write(far, codec.TypeInfo, []byte(strings.Join(others, "\n")+"\n")); err != nil {
			return err
		}
		kind, rest, err := read(far)
		if err != nil || kind != codec.TypeInfo {
			return errors.Join(err, errStore)
		}
		out = append(out, rest...)
	}
	return write(near, codec.TypeInfo, out)
}

var errStore = errors.New("aeronodes: the store answers with something else")
