package replay

import "time"

// keep watches lanes whose checkpoint is behind without records of their own to
// move it: log space is freed below the lowest one. It sleeps while none is.
func (p *pipeline) keep(joined <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-joined:
			return
		case <-p.late:
		}
		for behind := true; behind; {
			timer.Reset(p.loop.o.Idle.Interval)
			select {
			case <-joined:
				return
			case <-timer.C:
			}
			behind = p.sweep()
		}
	}
}

// sweep marks idle lanes; false: none is behind any more.
func (p *pipeline) sweep() (behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.feeds {
		behind = f.sweepLocked() || behind
	}
	p.dozing = !behind
	return behind
}

// sweepLocked makes every lane that is behind and has nothing queued move its
// checkpoint. One with records moves it with them.
func (f *feed) sweepLocked() (behind bool) {
	f.swept, f.sweptBytes = f.read, 0
	for _, ln := range f.lanes {
		if ln.stored.LSN >= f.last {
			continue
		}
		behind = true
		if len(ln.queue) == 0 && !ln.flying {
			ln.due = true
			signal(ln.wake)
		}
	}
	return behind
}
