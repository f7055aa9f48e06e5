package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// pending is a WAL file a worker has taken up, until PostgreSQL has been told that it may
// go on, or no longer asks.
type pending struct {
	name     string
	in       []place // by lane
	sum      [16]byte
	warnings []string
	answered bool   // to be acknowledged, whatever else comes of it
	gone     bool   // PostgreSQL no longer waits for it
	process  int    // that pushed it last, for the log
	told     string // the error in the spool
}

// open says whether the file still has to be pushed.
func (f *pending) open() bool { return !f.answered && !f.gone }

// place is how far a file is on the way to one repository.
type place struct {
	at   stage
	err  error  // that it failed with
	line string // see pushed
}

type stage int

const (
	queued stage = iota
	underWay
	stored
	failed
)

// failure gives the error of a file of which nothing can be expected for now. It is nil if
// something can, or if all repositories are lost, which is not about one file.
func (f *pending) failure(lanes []*lane) error {
	var own error
	var lines []string
	lost := 0
	for i, l := range lanes {
		switch p := &f.in[i]; {
		case p.at == stored:
		case p.at == failed && p.line == "":
			own = p.err
		case p.at == failed:
			lines = append(lines, p.line)
		case p.at == queued && l.blocked():
			switch {
			case l.lost:
				lost++
				lines = append(lines, l.down)
			case p.line != "":
				lines = append(lines, p.line)
			default:
				lines = append(lines, l.down)
			}
		default:
			return nil
		}
	}
	switch {
	case own != nil:
		return own
	case len(lines) == 0 || lost == len(lanes):
		return nil
	}
	return notEverywhere(lines)
}

// done takes in what came of a job.
func (r *pushRun) done(ctx context.Context, p pushed) {
	now := time.Now()
	l, f := p.lane, p.file
	l.busy--
	if p.trial {
		l.trial = false
	}
	f.process = p.process
	at := &f.in[l.index]
	switch {
	case p.err == nil:
		if l.down != "" {
			r.recovered()
		}
		l.up()
	case p.line != "":
		l.failures++
		if !p.down {
			at.err, at.line = p.err, p.line
		}
		if p.down || l.down != "" || l.failures >= tooMany {
			l.fail(p, now)
			if f.open() {
				l.add(f)
			}
			r.settleAll(ctx, l)
			return
		}
	}
	if !f.open() {
		return
	}
	if p.err != nil {
		at.at, at.err, at.line = failed, p.err, p.line
		l.refused = append(l.refused, f)
		r.settle(ctx, f)
		return
	}
	if f.sum != p.sum {
		// The repositories must not be told different things.
		for i, other := range r.lanes {
			if f.in[i].at == stored {
				other.add(f)
			}
		}
		f.sum = p.sum
	}
	at.at = stored
	if p.warning != "" {
		r.w.Push.Log.Warn(p.warning, logging.Process(p.process))
		f.warnings = append(f.warnings, p.warning)
	}
	for _, place := range f.in {
		if place.at != stored {
			r.settle(ctx, f)
			return
		}
	}
	r.worked = now
	r.w.Push.Log.Log(ctx, logging.LevelDetail, fmt.Sprintf("pushed WAL file '%s' to the archive", f.name), logging.Process(p.process))
	r.acknowledge(f)
}

// settleAll says of every file that waits for the lane, which cannot be used, what that
// means for it.
func (r *pushRun) settleAll(ctx context.Context, l *lane) {
	var lines []string
	for _, l := range r.lanes {
		if l.blocked() && l.lost {
			lines = append(lines, l.down)
		}
	}
	if len(lines) == len(r.lanes) {
		r.fail(ctx, noRepo(lines))
	}
	for _, f := range l.queue {
		r.settle(ctx, f)
	}
}

// settle writes the error of a file of which nothing can be expected for now.
func (r *pushRun) settle(ctx context.Context, f *pending) {
	if !f.open() {
		return
	}
	err := f.failure(r.lanes)
	if err == nil || err.Error() == f.told {
		return
	}
	// What is the same for one file after another is warned of once.
	level := logging.LevelDetail
	if r.warned != err.Error() {
		r.warned, level = err.Error(), slog.LevelWarn
	}
	r.w.Push.Log.Log(ctx, level, fmt.Sprintf("could not push WAL file '%s' to the archive (will be retried): [%d] %s",
		f.name, errs.CodeOf(err), err), logging.Process(f.process))
	f.told = err.Error()
	r.refuse(ctx, f.name, err)
}

// fail writes an error that is about all files.
func (r *pushRun) fail(ctx context.Context, err error) {
	if err.Error() == r.global {
		return
	}
	r.global = err.Error()
	r.w.Push.Log.Error(r.global, logging.Code(errs.CodeOf(err)))
	r.refuse(ctx, globalStatus, err)
}

// recovered takes such an error back.
func (r *pushRun) recovered() {
	if r.global == "" {
		return
	}
	r.global = ""
	_ = os.Remove(filepath.Join(r.w.Spool.Out(), globalStatus+errorSuffix)) // the next to ask removes it too
}

// refuse writes an error into the spool. That this fails is a matter for the log: PostgreSQL
// then waits until its time is over.
func (r *pushRun) refuse(ctx context.Context, name string, err error) {
	r.spoolTrouble(ctx, r.inOut(func(out *os.Root) error {
		return writeStatus(ctx, out, name+errorSuffix, status{int(errs.CodeOf(err)), err.Error()})
	}))
}

// acknowledge puts a file among those whose .ok is to be written.
func (r *pushRun) acknowledge(f *pending) {
	f.answered = true
	r.answers = append(r.answers, f)
}

// answersAtOnce is how many acknowledgements are written together.
const answersAtOnce = 64

// answer writes acknowledgements, as many as take no long time. What cannot be written
// stays to be written. They are not made durable: what they tell of is, and one that a crash takes
// away is given again as soon as the file has been found in the archive.
func (r *pushRun) answer(ctx context.Context) {
	n := min(len(r.answers), answersAtOnce)
	if n == 0 || time.Now().Before(r.answerRetry.next) {
		return
	}
	written := 0
	err := r.inOut(func(out *os.Root) error {
		for _, f := range r.answers[:n] {
			if err := writeOK(ctx, out, f); err != nil {
				return err
			}
			written++
		}
		return nil
	})
	r.spoolTrouble(ctx, err)
	if err == nil {
		r.answerRetry = backoff{}
	} else {
		r.answerRetry.failed(time.Now())
	}
	for _, f := range r.answers[:written] {
		f.gone = true
		delete(r.files, f.name)
	}
	r.answers = r.answers[written:]
}

func writeOK(ctx context.Context, out *os.Root, f *pending) error {
	if f.gone {
		return nil
	}
	if err := writeStatus(ctx, out, f.name+okSuffix, status{message: strings.Join(f.warnings, "\n")}); err != nil {
		return err
	}
	if f.told != "" {
		_ = out.Remove(f.name + errorSuffix) // the .ok has precedence
	}
	return nil
}

// inOut does something in the spool's out directory, which may have been removed, or moved
// away, at any time.
func (r *pushRun) inOut(do func(*os.Root) error) error {
	out, err := os.OpenRoot(r.w.Spool.Out())
	if err != nil {
		return durable.Wrap(errs.PathOpen, err, "unable to open path '%s'", r.w.Spool.Out())
	}
	return errors.Join(do(out), out.Close())
}

// spoolTrouble logs that something could not be written, once.
func (r *pushRun) spoolTrouble(ctx context.Context, err error) {
	switch {
	case err == nil:
		r.spoolText = ""
	case ctx.Err() != nil:
	case r.spoolText != err.Error():
		r.spoolText = err.Error()
		r.w.Push.Log.Error(r.spoolText, logging.Code(errs.CodeOf(err)))
	}
}

// askedFor is what it means that PostgreSQL's side removed an error we wrote.
func (r *pushRun) askedFor(name string) {
	if name == globalStatus {
		if r.global == "" {
			return
		}
		r.global = ""
		r.worked = time.Now()
		r.trouble.next = time.Time{}
		for _, l := range r.lanes {
			l.asked = l.down != ""
		}
		return
	}
	f := r.files[name]
	if f == nil || f.told == "" || !f.open() {
		return
	}
	f.told, r.warned = "", ""
	r.worked = time.Now()
	for i, l := range r.lanes {
		at := f.in[i].at
		if at == failed {
			l.add(f)
		}
		if at == failed || at == queued {
			l.asked = l.down != ""
		}
	}
}

// dropAll gives up everything that waits, as there is more than there may be. Timelines'
// histories are kept: they are small, and without its history nothing of a timeline can
// be restored.
func (r *pushRun) dropAll(queue, segmentSize int64) error {
	var files []*pending
	var keep ready
	for _, name := range r.todo {
		if isHistory(name) {
			keep = append(keep, name)
		} else {
			files = append(files, &pending{name: name, in: make([]place, len(r.lanes))})
		}
	}
	for _, f := range r.files {
		if f.open() && !isHistory(f.name) {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return nil
	}
	slices.SortFunc(files, func(a, b *pending) int { return inOrder(a.name, b.name) })
	drop := Drop{At: r.w.Push.Now(), Queue: queue, Limit: *r.w.Push.QueueMax}
	if err := r.w.Push.Ledger.Record(runs(files, segmentSize, drop)...); err != nil {
		return err // nothing is dropped that is not on record
	}
	r.worked = time.Now()
	r.todo = keep
	r.sayPush(files)
	for _, f := range files {
		warning := r.w.Push.dropWarning(f.name)
		r.w.Push.Log.Warn(warning)
		f.warnings = []string{warning}
		r.files[f.name] = f
		r.acknowledge(f)
	}
	return nil
}

// runs makes one drop like d of each run of consecutive segments, and of each other file.
func runs(files []*pending, segmentSize int64, d Drop) []Drop {
	var drops, others []Drop
	for _, f := range files {
		d.From, d.To = f.name, f.name
		if !isSegment(f.name) {
			others = append(others, d)
			continue
		}
		if n := len(drops); n > 0 && postgres.IsSegmentSize(segmentSize) {
			if next, err := postgres.NextSegment(drops[n-1].To, segmentSize); err == nil && next == f.name {
				drops[n-1].To = f.name
				continue
			}
		}
		drops = append(drops, d)
	}
	return append(drops, others...)
}

// sayPush logs what is taken up.
func (r *pushRun) sayPush(files []*pending) {
	text := fmt.Sprintf("push %d WAL file(s) to archive: %s", len(files), files[0].name)
	if len(files) > 1 {
		text += "..." + files[len(files)-1].name
	}
	r.w.Push.Log.Info(text)
}
