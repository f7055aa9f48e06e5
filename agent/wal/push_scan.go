package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// lookAt gives the time of the next look at the spool and at what PostgreSQL has ready: at
// once when there was a change, but it takes no more than a tenth of the time, however many
// files there are.
func (r *pushRun) lookAt() time.Time {
	rest := 10 * r.took
	if !r.look {
		rest = max(rest, poll)
	}
	return r.looked.Add(rest)
}

// scan finds out what waits, forgets what no longer does, and drops it all when it is too
// much. Nothing is there when the WAL directory has gone, or another worker has come.
func (r *pushRun) scan(ctx context.Context) (there bool, err error) {
	begun := time.Now()
	r.look = false
	defer func() {
		r.looked = time.Now()
		r.took = r.looked.Sub(begun)
	}()
	if alone, err := r.stillAlone(ctx); !alone {
		return false, err
	}
	// The spool first: what is acknowledged there and then not ready has been taken.
	spool, err := listNames(r.w.Spool.Out())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.spoolTrouble(ctx, durable.Wrap(errs.PathOpen, err, "unable to list '%s'", r.w.Spool.Out()))
	}
	all, err := readReady(r.w.WALDir)
	if errors.Is(err, fs.ErrNotExist) {
		r.w.Push.Log.Info(fmt.Sprintf("leaving: the WAL directory '%s' is gone", r.w.WALDir))
		return false, nil
	}
	if err != nil {
		r.trouble.failed(time.Now())
		r.fail(ctx, err)
		return true, nil
	}
	r.checkQueue(ctx, r.compare(spool, all))
	return true, nil
}

// stillAlone takes the claim anew when the spool has been removed.
func (r *pushRun) stillAlone(ctx context.Context) (bool, error) {
	if !r.claim.lost() {
		return true, nil
	}
	old, oldChanges := r.claim, r.changes
	alone, err := r.begin()
	switch {
	case err != nil: // read-only, it may be: what cannot be answered can still be pushed
		r.spoolTrouble(ctx, err)
		return true, nil
	case !alone:
		r.w.Push.Log.Info("leaving: another worker serves the spool")
		return false, nil
	}
	oldChanges.close()
	old.give()
	return true, nil
}

// compare sorts out what waits and what is in the spool. It gives what waits from the first
// file on that is not acknowledged: PostgreSQL, which goes by their order, is about to take what
// comes before it.
func (r *pushRun) compare(spool []string, all ready) (behind ready) {
	waits := make(map[string]bool, len(all))
	for _, name := range all {
		waits[name] = true
	}
	acknowledged, refused := map[string]bool{}, map[string]bool{}
	for _, name := range spool {
		if file, ok := strings.CutSuffix(name, okSuffix); ok {
			if waits[file] {
				acknowledged[file] = true
			} else {
				r.remove(name)
			}
		} else if file, ok := strings.CutSuffix(name, errorSuffix); ok {
			refused[file] = true
			if file != globalStatus && !waits[file] {
				r.remove(name)
			}
		}
	}
	for name, f := range r.files {
		switch {
		case !waits[name] || acknowledged[name]: // by an operator, or another worker
			f.gone = true
			delete(r.files, name)
		case f.told != "" && !refused[name]:
			r.askedFor(name)
		}
	}
	if r.global != "" && !refused[globalStatus] {
		r.askedFor(globalStatus)
	}
	r.todo = make(ready, 0, len(all))
	for _, name := range all {
		if !acknowledged[name] && r.files[name] == nil {
			r.todo = append(r.todo, name)
		}
	}
	for len(all) > 0 && (acknowledged[all[0]] || r.files[all[0]] != nil && r.files[all[0]].answered) {
		all = all[1:]
	}
	return all
}

// remove removes a file of the spool that nobody needs. If it stays it does no harm.
func (r *pushRun) remove(name string) { _ = os.Remove(filepath.Join(r.w.Spool.Out(), name)) }

// clean removes what earlier workers left, once, and while none of pgBackRest's can be writing.
func (r *pushRun) clean() {
	if r.cleaned {
		return
	}
	r.cleaned = true
	names, err := listNames(r.w.Spool.Out())
	if err != nil {
		return // the next scan says so
	}
	for _, name := range names {
		if !strings.HasSuffix(name, okSuffix) {
			r.remove(name)
		}
	}
}

// checkQueue drops what waits when it is more than may wait.
func (r *pushRun) checkQueue(ctx context.Context, all ready) {
	if r.w.Push.QueueMax == nil || len(all) == 0 || r.leaving != "" {
		return
	}
	queue, err := all.bytes(r.w.WALDir)
	if err == nil && queue > *r.w.Push.QueueMax {
		err = r.dropAll(queue, queue/int64(len(all)))
	}
	if err != nil {
		r.fail(ctx, err) // and goes on pushing
	}
}
