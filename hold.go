package walproxy

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/replay"
)

// holdInterval is how often the sinks' backlogs are looked at.
const holdInterval = 100 * time.Millisecond

// hold copies the records of sinks that are far behind out of the log, so that
// they do not keep all of it from being freed, until ctx ends or it fails: then
// the log is freed below the checkpoints alone.
func (p *Proxy) hold(ctx context.Context) {
	loops := func() (loops []*replay.Loop) {
		for _, s := range p.sinks {
			loops = append(loops, s.loop())
		}
		return loops
	}
	holder := replay.NewHolder(p.log, loops(), p.logger.Named("hold"))
	ticker := time.NewTicker(holdInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for freed := true; freed; {
			holder.Follow(loops())
			var err error
			if freed, err = holder.Look(ctx); err != nil {
				if ctx.Err() == nil {
					p.logger.Error("records of sinks that are far behind stay in the log from now on", zap.Error(err))
				}
				return
			}
			if freed {
				p.check()
			}
		}
	}
}

// check has freeSpace look.
func (p *Proxy) check() {
	select {
	case p.checked <- struct{}{}:
	default: // it is about to
	}
}
