package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// GetWorker fetches ahead what a recovery will ask for next, into the queue that AsyncGet takes
// it from.
type GetWorker struct {
	Spool  Spool
	PGPath string

	// Archives gives the archives of one of the Processes goroutines, in the order in which
	// they are asked.
	Archives  func() []Archive
	Processes int
	QueueMax  int64 // bytes of segments to fetch ahead; at least two segments are

	Idle time.Duration // how long to stay when nothing is asked for or fetched
	Poll time.Duration // how often to look without being told

	// Lock keeps other commands out, and they us, while something is fetched. Its error is of
	// code LockAcquire when another command has it, and it is tried again after Poll. Nil: there
	// is none to be had.
	Lock func(ctx context.Context) (release func() error, err error)

	// Leave gives the reason to end at once, empty when there is none.
	Leave func() string
	Log   *slog.Logger
}

const (
	// claimTries is how often a worker that starts looks whether the spool is free: archive-get
	// holds it for a moment when a recovery begins.
	claimTries = 50
	claimPause = 10 * time.Millisecond

	// retryPolls is after how many times Poll a segment that could not be fetched is tried again
	// by itself.
	retryPolls = 5
)

// Run fetches ahead until nothing has been asked for in a while, there is a reason to
// leave, or the queue is no longer that of this recovery. It returns nil at once if
// another worker has the spool.
//
// The queue is to hold the segments that follow the one last asked for, as many as QueueMax
// allows, on the same timeline; others are removed. They are fetched in order, several at a
// time, and none is begun behind one that cannot be fetched.
func (w *GetWorker) Run(ctx context.Context) error {
	c, err := w.claim(ctx)
	if c == nil || err != nil {
		return err
	}
	defer c.give()
	ctl, err := control(ctx, w.PGPath)
	if err != nil {
		return err
	}
	cluster := Cluster{ctl.Version, ctl.SystemID}
	owner, err := ownerOf(w.PGPath, cluster)
	if err != nil {
		return err
	}
	q, err := openQueue(w.Spool.In(), owner)
	if errors.Is(err, errForeign) || errors.Is(err, fs.ErrNotExist) {
		w.noQueue()
		return nil
	}
	if err != nil {
		return err
	}
	defer q.close()
	p := &prefetch{
		GetWorker: w, claim: c, queue: q, owner: owner, cluster: cluster, segment: ctl.WALSegmentSize,
		ahead:  int(max(2, w.QueueMax/ctl.WALSegmentSize)),
		have:   map[string]bool{},
		flying: map[string]context.CancelFunc{},
		jobs:   make(chan job),
		landed: make(chan landing),
	}
	return p.run(ctx)
}

func (w *GetWorker) claim(ctx context.Context) (*claim, error) {
	for range claimTries {
		c, err := takeClaim(w.Spool.getWorker(), w.PGPath)
		if errors.Is(err, fs.ErrNotExist) { // a restore removed the spool since this was started
			w.noQueue()
			return nil, nil
		}
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(claimPause):
		}
	}
	w.Log.Info("another process fetches WAL ahead")
	return nil, nil
}

func (w *GetWorker) noQueue() { w.Log.Info("there is no queue of WAL of this recovery") }

// prefetch is a worker at work. Its fields belong to the goroutine of run.
type prefetch struct {
	*GetWorker
	claim   *claim
	queue   *queue
	owner   []byte
	cluster Cluster
	segment int64 // bytes
	ahead   int   // segments

	asked  string                        // last
	window []string                      // what is to be in the queue
	have   map[string]bool               // what is
	flying map[string]context.CancelFunc // what is being fetched
	stuck  string                        // the segment of window that nothing is fetched from on; "" for none
	lock   func() error                  // releases it; nil when it is not held

	jobs   chan job
	landed chan landing

	idle, retry *time.Timer
}

// job is a segment to be fetched.
type job struct {
	ctx  context.Context
	name string
}

// landing is the end of a job.
type landing struct {
	job
	process  int
	from     found
	warnings []string
	err      error
}

// errLost is that the queue is no longer this recovery's.
var errLost = errors.New("the queue of WAL was removed")

func (p *prefetch) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var fetching sync.WaitGroup
	defer func() {
		cancel()
		for len(p.flying) > 0 {
			p.land(ctx, <-p.landed)
		}
		close(p.jobs)
		fetching.Wait()
		p.unlock()
	}()
	for n := range p.Processes {
		fetching.Go(func() { p.fetchAll(n+1, p.Archives()) })
	}

	changes := watch(p.Spool.In())
	defer changes.close()
	tick := time.NewTicker(p.Poll)
	defer tick.Stop()
	p.idle = time.NewTimer(p.Idle)
	defer p.idle.Stop()
	p.retry = time.NewTimer(p.Poll * retryPolls)
	defer p.retry.Stop()

	err := p.look()
	for err == nil {
		if reason := p.advance(ctx); reason != "" {
			p.Log.Info("no more WAL is fetched ahead: " + reason)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case l := <-p.landed:
			err = p.land(ctx, l)
		case e := <-changes.events():
			if name := filepath.Base(e.Name); name == requestLink || name == ownerFile {
				err = p.look()
			}
		case <-changes.errors(): // too many at once for the watch
			err = p.look()
		case <-tick.C:
			if reason := p.Leave(); reason != "" {
				p.Log.Info("no more WAL is fetched ahead: " + reason)
				return nil
			}
			err = p.look()
		case <-p.retry.C:
			p.stuck = ""
		case <-p.idle.C:
			if len(p.flying) == 0 {
				p.Log.Info("no more WAL is fetched ahead: nothing was asked for in " + p.Idle.String())
				return nil
			}
			p.idle.Reset(p.Idle)
		}
	}
	if errors.Is(err, errLost) {
		p.Log.Info("no more WAL is fetched ahead: " + err.Error())
		return nil
	}
	return err
}

// look sees whether the queue is still ours, and what was asked for. Then it removes what
// is not to be in the queue.
func (p *prefetch) look() error {
	if p.claim.lost() || !p.queue.isAt(p.Spool.In()) || p.queue.checkOwner(p.owner) != nil {
		return errLost
	}
	asked, err := p.queue.asked()
	if err != nil {
		return errLost
	}
	if asked == p.asked {
		return nil
	}
	p.asked = asked
	p.window = nil
	for next := asked; len(p.window) < p.ahead; {
		if next, err = postgres.NextSegment(next, p.segment); err != nil {
			return err
		}
		p.window = append(p.window, next)
	}
	for name, stop := range p.flying {
		if !slices.Contains(p.window, name) {
			stop()
		}
	}
	clear(p.have)
	left, err := p.queue.sweep(func(name string) bool {
		name, pending := strings.CutSuffix(name, tempSuffix)
		if pending {
			return p.flying[name] != nil
		}
		name = strings.TrimSuffix(name, okSuffix)
		return slices.Contains(p.window, name)
	})
	for _, name := range left {
		p.have[name] = true
	}
	if err != nil {
		p.Log.Warn(err.Error()) // what stays takes space
	}
	// What was missing before is tried again when it is what comes next; else in a while.
	if !slices.Contains(p.window, p.stuck) || p.stuck == p.window[0] {
		p.stuck = ""
	}
	p.idle.Reset(p.Idle)
	p.announce()
	return nil
}

// announce logs what is to be fetched, as pgBackRest does.
func (p *prefetch) announce() {
	var need []string
	for _, name := range p.window {
		if name == p.stuck {
			break
		}
		if !p.have[name] && p.flying[name] == nil {
			need = append(need, name)
		}
	}
	switch len(need) {
	case 0:
	case 1:
		p.Log.Info("get 1 WAL file(s) from archive: " + need[0])
	default:
		p.Log.Info(fmt.Sprintf("get %d WAL file(s) from archive: %s...%s", len(need), need[0], need[len(need)-1]))
	}
}

// next gives the first segment that is to be fetched and is not.
func (p *prefetch) next() (string, bool) {
	for _, name := range p.window {
		if name == p.stuck {
			break
		}
		if !p.have[name] && p.flying[name] == nil {
			return name, true
		}
	}
	return "", false
}

// advance fetches as much at once as is allowed. It gives the reason if there is one to leave.
func (p *prefetch) advance(ctx context.Context) (leave string) {
	for ctx.Err() == nil && len(p.flying) < p.Processes {
		name, ok := p.next()
		if !ok {
			break
		}
		if p.lock == nil {
			if reason := p.Leave(); reason != "" {
				return reason
			}
			if !p.acquire(ctx, name) {
				break
			}
		}
		if err := p.queue.reserve(name); err != nil {
			p.Log.Warn(err.Error())
			p.halt(name)
			break
		}
		ctx, stop := context.WithCancel(ctx)
		p.flying[name] = stop
		p.jobs <- job{ctx, name} // a goroutine is free
	}
	if len(p.flying) == 0 {
		p.unlock()
	}
	return ""
}

// halt fetches nothing from name on until later.
func (p *prefetch) halt(name string) {
	p.stuck = name
	p.retry.Reset(p.Poll * retryPolls)
	behind := p.window[slices.Index(p.window, name):]
	for _, name := range behind {
		if stop := p.flying[name]; stop != nil {
			stop()
		}
	}
}

func (p *prefetch) acquire(ctx context.Context, name string) bool {
	if p.Lock == nil {
		p.lock = func() error { return nil }
		return true
	}
	release, err := p.Lock(ctx)
	if err == nil {
		p.lock = release
		return true
	}
	p.Log.Log(ctx, logging.LevelDetail, err.Error())
	p.halt(name)
	if errs.CodeOf(err) == errs.LockAcquire {
		p.retry.Reset(p.Poll)
	}
	return false
}

func (p *prefetch) unlock() {
	if p.lock == nil {
		return
	}
	if err := p.lock(); err != nil {
		p.Log.Warn(err.Error())
	}
	p.lock = nil
}

// land puts a segment that was fetched into the queue, if it is still to be there.
func (p *prefetch) land(ctx context.Context, l landing) error {
	cancelled := l.ctx.Err() != nil
	p.flying[l.name]()
	delete(p.flying, l.name)
	log := p.Log.With(logging.Process(l.process))
	if l.err == nil && !cancelled {
		l.err = p.queue.add(ctx, l.name, l.warnings)
	}
	if l.err != nil || cancelled {
		p.queue.drop(l.name)
	}
	switch {
	case cancelled:
		return nil
	case l.err == nil:
		for _, line := range l.warnings {
			log.Warn(line)
		}
		log.Log(ctx, logging.LevelDetail, l.from.says(l.name))
		p.have[l.name] = true
		p.idle.Reset(p.Idle)
		return nil
	case errors.Is(l.err, ErrMissing):
		log.Log(ctx, logging.LevelDetail, fmt.Sprintf("unable to find %s in the archive", l.name))
	default:
		log.Warn(fmt.Sprintf("[%s] %s", errs.CodeOf(l.err), l.err))
	}
	p.halt(l.name)
	return p.look() // the reason may be that the queue is gone
}

// fetchAll is one of the goroutines that fetch.
func (p *prefetch) fetchAll(process int, archives []Archive) {
	g := Get{Archives: archives, PGPath: p.PGPath, Log: p.Log.With(logging.Process(process))}
	for j := range p.jobs {
		l := landing{job: j, process: process}
		var copies []found
		if copies, l.err = g.find(j.ctx, p.cluster, j.name); l.err == nil {
			l.from, l.warnings, l.err = firstWhole(j.ctx, j.name, copies, func(c Copy) error {
				return writeCopy(j.ctx, c, p.segment, func() (*os.File, error) { return p.queue.reopen(j.name) })
			})
		}
		p.landed <- l
	}
}
