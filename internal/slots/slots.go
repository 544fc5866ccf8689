// Package slots bounds how many connections there are at once, by a number that can
// change meanwhile.
package slots

import "sync"

// Pool gives out slots. Calls may be concurrent.
type Pool struct {
	mu    sync.Mutex
	most  int
	taken int
	freed chan struct{} // closed when there may be room; nil: nobody waits
}

// New returns a Pool of so many.
func New(most int) *Pool { return &Pool{most: most} }

// Take waits for a slot, which Free gives back; false: stop was closed before.
func (p *Pool) Take(stop <-chan struct{}) bool {
	for {
		freed := p.try()
		if freed == nil {
			return true
		}
		select {
		case <-freed:
		case <-stop:
			return false
		}
	}
}

// TryTake takes a slot if there is one.
func (p *Pool) TryTake() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked()
}

func (p *Pool) try() (freed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.takeLocked() {
		return nil
	}
	if p.freed == nil {
		p.freed = make(chan struct{})
	}
	return p.freed
}

func (p *Pool) takeLocked() bool {
	if p.taken >= p.most {
		return false
	}
	p.taken++
	return true
}

// Free gives a slot back.
func (p *Pool) Free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	p.tellLocked()
}

// Resize changes how many there are. Those beyond a smaller number are kept until they
// are given back.
func (p *Pool) Resize(most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = most
	p.tellLocked()
}

func (p *Pool) tellLocked() {
	if p.freed != nil && p.taken < p.most {
		close(p.freed)
		p.freed = nil
	}
}
