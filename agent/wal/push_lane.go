package wal

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Pauses between tries that nobody asked for.
const (
	shortestPause = time.Second
	longestPause  = 30 * time.Second
)

// backoff says when something that failed is tried again.
type backoff struct {
	pause time.Duration
	next  time.Time
}

func (b *backoff) failed(now time.Time) {
	b.pause = min(max(2*b.pause, shortestPause), longestPause)
	b.next = now.Add(b.pause)
}

// tooMany is how many files in a row a repository may refuse before it is held to refuse
// all of them.
const tooMany = 3

// lane is the way of files into one repository. All but its goroutines belongs to the
// goroutine of pushRun.
type lane struct {
	index    int
	jobs     chan pushJob
	busy     int        // jobs given and not done
	most     int        // of these
	queue    []*pending // to be pushed, in PostgreSQL's order
	refused  []*pending // that failed, and wait for PostgreSQL to ask again
	failures int        // in a row

	// A repository that cannot be used is tried with one file at a time.
	down  string // the line of the error; empty when it can be used
	lost  bool   // not even its archive.info says that it could
	retry backoff
	asked bool // PostgreSQL wants it to be tried now
	trial bool // it is being tried
}

// blocked says that nothing can be expected of the lane for now.
func (l *lane) blocked() bool { return l.down != "" && !l.asked && !l.trial }

// free says whether the lane can be given a file.
func (l *lane) free(now time.Time) bool {
	if l.busy >= l.most {
		return false
	}
	return l.down == "" || !l.trial && (l.asked || !now.Before(l.retry.next))
}

// first gives the next file to be pushed, which stays in the queue; nil if there is none.
func (l *lane) first() *pending {
	for len(l.queue) > 0 && !l.queue[0].open() {
		l.queue = l.queue[1:]
	}
	if len(l.queue) == 0 {
		return nil
	}
	return l.queue[0]
}

// add puts a file where it belongs in the queue.
func (l *lane) add(f *pending) {
	f.in[l.index].at = queued
	at, _ := slices.BinarySearchFunc(l.queue, f, func(a, b *pending) int { return inOrder(a.name, b.name) })
	l.queue = slices.Insert(l.queue, at, f)
}

// give starts the push of the next file.
func (l *lane) give(c Cluster, term int) {
	f := l.queue[0]
	l.queue = l.queue[1:]
	f.in[l.index].at = underWay
	l.busy++
	l.trial, l.asked = l.down != "", false
	l.jobs <- pushJob{f, c, term, l.trial}
}

// fail notes that the repository cannot be used. All that it refused is due to that.
func (l *lane) fail(p pushed, now time.Time) {
	if l.down == "" || p.trial {
		l.retry.failed(now)
	}
	l.down, l.lost = p.line, p.down
	l.requeue()
}

// up notes that it can.
func (l *lane) up() {
	l.failures = 0
	if l.down != "" {
		l.down, l.lost, l.asked, l.retry = "", false, false, backoff{}
		l.requeue()
	}
}

func (l *lane) requeue() {
	for _, f := range l.refused {
		if p := f.in[l.index]; f.open() && p.at == failed && p.line != "" {
			l.add(f)
		}
	}
	l.refused = nil
}

// pushJob is one file to be pushed to one repository.
type pushJob struct {
	file    *pending // its name only
	cluster Cluster
	term    int // when it changes the repository may have too
	trial   bool
}

// pushed is how that went.
type pushed struct {
	lane    *lane
	file    *pending
	process int
	trial   bool
	sum     [16]byte
	warning string

	err  error  // nil: the repository has the file durably
	line string // err as one repository's among several; empty when the file itself is at fault
	down bool   // err is about the whole repository
}

// loadedJob is a job with its file, or why there is none.
type loadedJob struct {
	pushJob
	content *opened
	err     error
}

// load reads files until jobs is closed, ahead of those who push them: while a repository makes one
// durable there is nothing else to do.
func (w *PushWorker) load(jobs <-chan pushJob, loaded chan<- loadedJob, sha1 bool) {
	push := w.Push
	push.SHA1 = sha1
	for j := range jobs {
		l := loadedJob{pushJob: j}
		wal, err := postgres.ParseWALName(j.file.name)
		if l.err = err; err == nil {
			l.content, l.err = push.open(filepath.Join(w.WALDir, j.file.name), wal, j.cluster)
		}
		loaded <- l
	}
}

// pusher is what one goroutine needs to push to one repository.
type pusher struct {
	push    Push
	archive Archive
	process int
	term    int // in which the archive was looked at
}

// serve pushes until loaded is closed.
func (p *pusher) serve(ctx context.Context, l *lane, loaded <-chan loadedJob, results chan<- pushed) {
	for j := range loaded {
		r := p.do(ctx, j)
		r.lane, r.file, r.process, r.trial = l, j.file, p.process, j.trial
		results <- r
	}
}

func (p *pusher) do(ctx context.Context, j loadedJob) (r pushed) {
	if j.content != nil {
		defer j.content.release()
	}
	if p.term != j.term {
		if err := p.look(ctx, j.pushJob); err != nil {
			return pushed{err: err, line: inRepo(p.archive, err), down: true}
		}
	}
	if j.err != nil {
		return pushed{err: j.err}
	}
	r.sum = j.content.Sum
	if r.warning, r.err = p.push.put(ctx, p.archive, j.content.File); r.err == nil || errs.CodeOf(r.err) == errs.ArchiveDuplicate {
		return r
	}
	r.line = inRepo(p.archive, r.err)
	// Is it this file, or all of them?
	if ctx.Err() == nil {
		if err := p.look(ctx, j.pushJob); err != nil {
			r.line, r.down = inRepo(p.archive, err), true
		}
	}
	return r
}

// look finds out whether the repository takes WAL of the cluster.
func (p *pusher) look(ctx context.Context, j pushJob) error {
	p.term = 0
	stanza, err := p.archive.Cluster(ctx)
	if err == nil {
		err = agree(server, j.cluster, p.archive.Name(), stanza)
	}
	if err == nil {
		p.term = j.term
	}
	return err
}
