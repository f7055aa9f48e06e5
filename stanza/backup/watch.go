package backup

import (
	"context"
	"time"
)

// watch tests the sessions with the servers from time to time while files are copied. When
// one is lost the copying ends at once: PostgreSQL is out of backup mode then.
type watch struct {
	ctx    context.Context // ends when the session is lost
	cancel context.CancelFunc
	enough chan struct{}
	lost   chan error // one value, when the watch ends
}

// watch begins a watch, which stop ends. Until then nobody else may use the session.
// Offline there is nothing to test.
func (r *run) watch(ctx context.Context) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{ctx: ctx, cancel: cancel, enough: make(chan struct{}), lost: make(chan error, 1)}
	if r.live == nil {
		w.lost <- nil
		return w
	}
	go w.run(r.alive, r.AliveEvery)
	return w
}

func (w *watch) run(alive func(context.Context) error, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-w.enough:
			w.lost <- nil
			return
		case <-tick.C:
		}
		if err := alive(w.ctx); err != nil {
			if w.ctx.Err() != nil { // interrupted, not lost
				err = nil
			}
			w.lost <- err
			w.cancel()
			return
		}
	}
}

// stop ends the watch and says whether the session was lost. A test under way is waited
// for, so that the session can be used; unless it is given up with the backup.
func (w *watch) stop(giveUp bool) error {
	defer w.cancel()
	if giveUp {
		w.cancel()
	}
	close(w.enough)
	return <-w.lost
}
