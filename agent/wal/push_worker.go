package wal

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

// PushWorker pushes what PostgreSQL has ready, ahead of being asked for it, and writes the
// answers that AsyncPush finds.
//
// Each repository is served at its own pace, by goroutines of its own. A file is
// acknowledged when all repositories have it durably. One that fails, or a repository that
// fails, does not keep the others from going on.
type PushWorker struct {
	Spool  Spool
	WALDir string // pg_wal of the cluster, absolute

	Repos     []Repository
	Processes int   // files on their way to each repository; half as many more are read ahead
	BatchSize int64 // bytes to take up before looking again at what waits
	Push      Push  // how; its Archives are not used

	// Idle is how long the worker stays when there is nothing to do.
	Idle time.Duration

	// Lock takes the lock that keeps other commands on the stanza away while there is work, without
	// waiting. While another command has it the error is syscall.EWOULDBLOCK.
	Lock func(ctx context.Context) (release func() error, err error)

	// Leave gives a reason to end as soon as possible, empty if there is none.
	Leave func() string
}

// Repository is one the worker pushes to.
type Repository struct {
	Open func() Archive // one for each goroutine
	SHA1 bool           // see Push
}

const (
	// poll is how long the worker does not look when nothing tells it of changes.
	poll = time.Second
	// grace is what jobs get to end in when the worker is to leave.
	grace = 10 * time.Second
	// lockPause is the first pause before the lock is tried again.
	lockPause = 20 * time.Millisecond
)

// Run works until there has been nothing to do for long enough, a reason to leave comes up,
// or the WAL directory goes. While another worker serves the spool it returns at once.
func (w *PushWorker) Run(ctx context.Context) error {
	r := &pushRun{w: w, files: map[string]*pending{}, worked: time.Now()}
	if alone, err := r.begin(); !alone || err != nil {
		return err
	}
	defer r.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	readers := (w.Processes + 1) / 2
	most := w.Processes + readers
	r.results = make(chan pushed, len(w.Repos)*most) // none of them ever waits for us
	for i, repo := range w.Repos {
		l := &lane{index: i, most: most, jobs: make(chan pushJob, most)}
		r.lanes = append(r.lanes, l)
		loaded := make(chan loadedJob)
		var reading sync.WaitGroup
		for range readers {
			reading.Go(func() { w.load(l.jobs, loaded, repo.SHA1) })
		}
		r.working.Go(func() {
			reading.Wait()
			close(loaded)
		})
		for n := range w.Processes {
			p := &pusher{push: w.Push, archive: repo.Open(), process: i*w.Processes + n + 1}
			r.working.Go(func() { p.serve(ctx, l, loaded, r.results) })
		}
	}
	return r.loop(ctx)
}

// pushRun is a worker that runs. It belongs to one goroutine.
type pushRun struct {
	w       *PushWorker
	claim   *claim
	changes changes
	lanes   []*lane
	working sync.WaitGroup
	results chan pushed

	todo  ready               // waits, and is not taken up
	files map[string]*pending // taken up

	answers     []*pending // to be acknowledged
	answerRetry backoff
	spoolText   string // why the spool cannot be written, as it was logged
	global      string // the error in global.error
	trouble     backoff
	warned      string // the last error of a file that was logged as a warning

	release     func() error // gives the lock back; nil while it is not held
	term        int          // counts the times it was held
	lockRetry   backoff
	cluster     Cluster
	segmentSize int64
	cleaned     bool // what workers before this one left is gone

	look    bool // something has changed
	looked  time.Time
	took    time.Duration // for the last look
	worked  time.Time     // when there was something to do
	leaving string        // why
	leaveBy time.Time
}

// begin makes sure that this is the only worker on the spool, which it makes if need be.
func (r *pushRun) begin() (alone bool, err error) {
	s := r.w.Spool
	if err := s.makeDir(s.Out()); err != nil {
		return false, err
	}
	c, err := takeClaim(s.pushWorker(), r.w.WALDir)
	if c == nil || err != nil {
		return false, err
	}
	r.claim = c
	r.changes = watch(s.Out(), statusDir(r.w.WALDir))
	return true, nil
}

// end gives everything back. Pushes under way have been cancelled.
func (r *pushRun) end() {
	for _, l := range r.lanes {
		close(l.jobs)
	}
	r.working.Wait()
	r.unlock()
	r.changes.close()
	r.claim.give()
}

func (r *pushRun) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		over, err := r.step(ctx)
		if over || err != nil {
			return err
		}
		timer.Reset(time.Until(r.next()))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-r.results:
			r.done(ctx, p)
		case e := <-r.changes.events():
			r.changed(e)
		case <-r.changes.errors():
			r.look = true // events were lost
		case <-timer.C:
		}
		r.drain(ctx)
	}
}

// drain takes in what else has happened.
func (r *pushRun) drain(ctx context.Context) {
	for {
		select {
		case p := <-r.results:
			r.done(ctx, p)
		case e := <-r.changes.events():
			r.changed(e)
		default:
			return
		}
	}
}

// changed takes in a change in the spool or in archive_status.
func (r *pushRun) changed(e fsnotify.Event) {
	name := filepath.Base(e.Name)
	if file, ok := strings.CutSuffix(name, errorSuffix); ok {
		if e.Op.Has(fsnotify.Remove) {
			r.askedFor(file)
		}
		// An operator renames it to .ok.
		r.look = r.look || e.Op.Has(fsnotify.Rename)
	}
	if strings.HasSuffix(name, readySuffix) && e.Op.Has(fsnotify.Create) {
		r.look = true
	}
}

// step does what there is to do without waiting.
func (r *pushRun) step(ctx context.Context) (over bool, err error) {
	if !time.Now().Before(r.lookAt()) {
		r.mayStay()
		if there, err := r.scan(ctx); !there || err != nil {
			return true, err
		}
	}
	now := time.Now()
	if r.leaving == "" && r.runnable(now) && r.lock(ctx, now) {
		r.take(now)
		r.dispatch(now)
	}
	r.answer(ctx)
	if ctx.Err() != nil {
		return true, ctx.Err()
	}
	if r.busy() > 0 {
		return r.leaving != "" && now.After(r.leaveBy), nil
	}
	unwritten := len(r.answers) > 0 && r.answerRetry.pause == 0
	if r.leaving != "" && !unwritten {
		return true, nil
	}
	if !r.runnable(now) {
		r.unlock()
		if !unwritten && now.Sub(r.worked) >= r.w.Idle {
			r.w.Push.Log.Log(ctx, logging.LevelDetail, "nothing to push, leaving")
			return true, nil
		}
	}
	return false, nil
}

// mayStay asks for a reason to leave.
func (r *pushRun) mayStay() {
	if r.leaving != "" || r.w.Leave == nil {
		return
	}
	if r.leaving = r.w.Leave(); r.leaving != "" {
		r.leaveBy = time.Now().Add(grace)
		r.w.Push.Log.Info("leaving: " + r.leaving)
	}
}

func (r *pushRun) busy() int {
	n := 0
	for _, l := range r.lanes {
		n += l.busy
	}
	return n
}

// runnable says whether a repository could be given a file.
func (r *pushRun) runnable(now time.Time) bool {
	if now.Before(r.trouble.next) {
		return false
	}
	for _, l := range r.lanes {
		if l.free(now) && (len(r.todo) > 0 || l.first() != nil) {
			return true
		}
	}
	return false
}

// next gives the time when something is to be done though nothing happens.
func (r *pushRun) next() time.Time {
	now := time.Now()
	at := r.lookAt()
	earlier := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if len(r.answers) > 0 {
		earlier(r.answerRetry.next)
	}
	switch {
	case r.leaving != "":
		earlier(r.leaveBy)
		return at
	case r.release == nil && r.runnable(now):
		earlier(r.lockRetry.next)
		return at
	case r.busy() == 0 && !now.Before(r.worked):
		earlier(r.worked.Add(r.w.Idle))
	}
	if now.Before(r.trouble.next) {
		earlier(r.trouble.next)
		return at
	}
	for _, l := range r.lanes {
		if l.blocked() && l.busy < l.most && (len(r.todo) > 0 || l.first() != nil) {
			earlier(l.retry.next)
		}
	}
	return at
}

// lock takes the lock that is held while there is work, and looks what cluster it is.
func (r *pushRun) lock(ctx context.Context, now time.Time) bool {
	if r.release != nil {
		return true
	}
	if now.Before(r.lockRetry.next) {
		return false
	}
	release, err := r.w.Lock(ctx)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		if r.lockRetry.pause == 0 {
			r.w.Push.Log.Info("waiting for another command: " + errs.Message(err))
		}
		r.lockRetry.pause = min(max(2*r.lockRetry.pause, lockPause), poll)
		r.lockRetry.next = now.Add(r.lockRetry.pause)
		r.look = true // that command may be another's archive-push
		return false
	}
	r.lockRetry = backoff{}
	if err == nil {
		r.release = release
		err = r.identify(ctx)
	}
	if err != nil {
		r.unlock()
		r.trouble.failed(time.Now())
		r.fail(ctx, err)
		return false
	}
	if r.trouble.pause > 0 {
		r.trouble = backoff{}
		r.recovered()
	}
	r.term++
	r.clean()
	return true
}

// unlock lets other commands have their turn.
func (r *pushRun) unlock() {
	if r.release == nil {
		return
	}
	if err := r.release(); err != nil {
		r.w.Push.Log.Warn(err.Error())
	}
	r.release = nil
}

// identify reads what cluster it is. What was done for another one counts for nothing.
func (r *pushRun) identify(ctx context.Context) error {
	ctl, err := control(ctx, r.w.Push.PGPath)
	if err != nil {
		return err
	}
	c := Cluster{ctl.Version, ctl.SystemID}
	if r.term > 0 && c != r.cluster {
		for _, f := range r.files {
			f.gone = true
		}
		clear(r.files)
	}
	r.cluster, r.segmentSize = c, ctl.WALSegmentSize
	return nil
}

// take takes up the next batch when a repository has nothing else to do.
func (r *pushRun) take(now time.Time) {
	hungry := false
	for _, l := range r.lanes {
		hungry = hungry || l.free(now) && l.busy < r.w.Processes && l.first() == nil
	}
	if !hungry || len(r.todo) == 0 {
		return
	}
	if r.mayStay(); r.leaving != "" {
		return
	}
	n := min(len(r.todo), int(max(1, r.w.BatchSize/r.segmentSize)))
	var batch []*pending
	for _, name := range r.todo[:n] {
		f := &pending{name: name, in: make([]place, len(r.lanes))}
		r.files[name] = f
		batch = append(batch, f)
		for _, l := range r.lanes {
			l.add(f)
		}
	}
	r.todo = r.todo[n:]
	r.worked = now
	r.sayPush(batch)
}

// dispatch gives every repository as much to do as it can take.
func (r *pushRun) dispatch(now time.Time) {
	if r.leaving != "" {
		return
	}
	for _, l := range r.lanes {
		for l.free(now) && l.first() != nil {
			l.give(r.cluster, r.term)
		}
	}
}
