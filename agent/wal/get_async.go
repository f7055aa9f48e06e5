package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// AsyncGet is archive-get with a worker that fetches ahead.
type AsyncGet struct {
	Get     Get // what is not in the queue is fetched so
	Spool   Spool
	Timeout time.Duration // how long to wait for a segment that the worker is fetching

	// Start starts a worker. It is called at most once in a call, and only when none is alive.
	Start func(ctx context.Context) error
}

const (
	// lookPause is how often a segment on its way is looked at.
	lookPause = 2 * time.Millisecond

	// patience is how long nothing may come of it before it is fetched here instead.
	patience = 2 * time.Second
)

// GetFile is as the function GetFile, and answers as that would. A segment that the worker has
// fetched is moved to target. One that it is fetching is waited for. Any other file is
// looked up and fetched in this call: so ErrMissing is a fact about the archive now, and
// nothing that is wrong with the spool or the worker keeps PostgreSQL from its WAL.
func (a AsyncGet) GetFile(ctx context.Context, name, target string) error {
	w, err := a.Get.wanted(ctx, name)
	if err != nil {
		return err
	}
	if w.wal.Kind != postgres.Segment {
		return GetFile(ctx, a.Get, name, target)
	}
	owner, err := ownerOf(a.Get.PGPath, w.cluster)
	if err != nil {
		a.unusable(err)
		return a.now(ctx, w, target)
	}

	q, err := openQueue(a.Spool.In(), owner)
	if err == nil {
		defer q.close()
		if a.takes(ctx, q, name, target) {
			a.tell(ctx, q, name)
			return nil
		}
		if err := a.now(ctx, w, target); err != nil {
			// Nothing of it is told to the worker: PostgreSQL may only be trying which
			// timeline goes on here, and what is in the queue is what it asks for next.
			return err
		}
		a.tell(ctx, q, name)
		return nil
	}

	// A recovery begins. The worker does so at the same time, with the segment after this.
	if errors.Is(err, errForeign) || errors.Is(err, fs.ErrNotExist) {
		q, err = a.begin(owner, name)
	}
	switch {
	case err != nil:
		a.unusable(err)
	case q == nil:
		a.Get.Log.Log(ctx, logging.LevelDetail, fmt.Sprintf("the spool '%s' is in use by another recovery", a.Spool.Path))
	default:
		defer q.close()
		a.start(ctx)
	}
	if err := a.now(ctx, w, target); err != nil || q == nil {
		return err
	}
	a.ask(q, name)
	return nil
}

// now gets a segment from the archive.
func (a AsyncGet) now(ctx context.Context, w wanted, target string) error {
	err := a.Get.get(ctx, w, target)
	if errors.Is(err, ErrMissing) {
		a.Get.Log.Info(fmt.Sprintf("unable to find %s in the archive asynchronously", w.name))
	}
	return err
}

// takes moves a segment from the queue to target, if it is there or comes there soon.
func (a AsyncGet) takes(ctx context.Context, q *queue, name, target string) bool {
	taken, err := q.take(ctx, name, target)
	if !taken && err == nil && a.awaits(ctx, q, name) {
		taken, err = q.take(ctx, name, target)
	}
	if err != nil {
		a.unusable(err)
	}
	if !taken {
		return false
	}
	if text := q.warning(name); text != "" {
		a.Get.Log.Warn(text)
	}
	a.Get.Log.Info(fmt.Sprintf("found %s in the archive asynchronously", name))
	return true
}

// awaits waits for a segment that is on its way; true if it was.
func (a AsyncGet) awaits(ctx context.Context, q *queue, name string) bool {
	came, ok := q.onItsWay(name)
	if !ok {
		// It may have arrived since it was not there to be taken.
		return true
	}
	if alive, err := a.alive(); !alive || err != nil {
		return false // left by a worker that was killed
	}
	timeout := time.NewTimer(a.Timeout)
	defer timeout.Stop()
	stalled := time.NewTimer(patience)
	defer stalled.Stop()
	look := time.NewTicker(lookPause)
	defer look.Stop()
	workerSeen := time.Now()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timeout.C:
			return false
		case <-stalled.C:
			return false
		case <-look.C:
		}
		now, ok := q.onItsWay(name)
		if !ok {
			return true
		}
		if now != came {
			came = now
			stalled.Reset(patience)
		}
		if time.Since(workerSeen) >= workerLook {
			if alive, err := a.alive(); !alive || err != nil {
				return false // killed in the meantime
			}
			workerSeen = time.Now()
		}
	}
}

func (a AsyncGet) alive() (bool, error) {
	_, alive, err := claimed(a.Spool.getWorker())
	return alive, err
}

// tell has the worker fetch what comes after a segment that was found.
func (a AsyncGet) tell(ctx context.Context, q *queue, name string) {
	a.ask(q, name)
	switch alive, err := a.alive(); {
	case err != nil:
		a.unusable(err)
	case !alive:
		a.start(ctx)
	}
}

func (a AsyncGet) ask(q *queue, name string) {
	if err := q.ask(name); err != nil {
		a.unusable(err)
	}
}

func (a AsyncGet) start(ctx context.Context) {
	if err := a.Start(ctx); err != nil && ctx.Err() == nil {
		a.Get.Log.Warn(fmt.Sprintf("unable to start fetching WAL ahead, it is fetched when PostgreSQL asks for it: %s", err))
	}
}

// unusable tells the operator why WAL is not fetched ahead.
func (a AsyncGet) unusable(err error) {
	a.Get.Log.Warn(fmt.Sprintf("unable to use the spool '%s', WAL is fetched when PostgreSQL asks for it: %s", a.Spool.Path, err))
}

// begin makes a queue for this recovery, unless a worker is alive: then what is there is another
// recovery's, or will be, and the result is nil.
func (a AsyncGet) begin(owner []byte, name string) (*queue, error) {
	if err := a.Spool.makeDir(a.Spool.Path); err != nil {
		return nil, err
	}
	c, err := takeClaim(a.Spool.getWorker(), "")
	if c == nil || err != nil {
		return nil, err
	}
	defer c.give()
	// Another archive-get of this recovery may have been faster.
	q, err := openQueue(a.Spool.In(), owner)
	if err != nil {
		q, err = newQueue(a.Spool.In(), owner)
	}
	if err == nil {
		err = q.ask(name)
	}
	if err != nil && q != nil {
		q.close()
		q = nil
	}
	return q, err
}
