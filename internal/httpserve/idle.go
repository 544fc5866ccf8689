package httpserve

import (
	"container/list"
	"net"
	"sync"
)

// idleConns are the connections that carry no request, the one that rests longest first.
type idleConns struct {
	mu     sync.Mutex
	order  *list.List // of net.Conn
	at     map[net.Conn]*list.Element
	wanted bool // the next one to rest makes room
}

func newIdleConns() *idleConns {
	return &idleConns{order: list.New(), at: map[net.Conn]*list.Element{}}
}

// rest notes that a connection carries no request, or closes it for the room it takes.
func (i *idleConns) rest(c net.Conn) {
	i.mu.Lock()
	if !i.wanted {
		i.at[c] = i.order.PushBack(c)
		i.mu.Unlock()
		return
	}
	i.wanted = false
	i.mu.Unlock()
	_ = c.Close() // nothing was promised on it
}

// leave notes that it carries one, or is closed.
func (i *idleConns) leave(c net.Conn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e := i.at[c]; e != nil {
		i.order.Remove(e)
		delete(i.at, c)
	}
}

// makeRoom closes the connection that rests longest, or the next one to rest.
func (i *idleConns) makeRoom() {
	i.mu.Lock()
	e := i.order.Front()
	i.wanted = e == nil
	var c net.Conn
	if e != nil {
		c = i.order.Remove(e).(net.Conn)
		delete(i.at, c)
	}
	i.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// roomMade notes that no room is wanted any more.
func (i *idleConns) roomMade() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wanted = false
}
