package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// AsyncPush is the side of asynchronous archiving that PostgreSQL waits for.
type AsyncPush struct {
	Spool   Spool
	Timeout time.Duration // how long to wait for the worker's answer

	// Start starts a worker for the WAL directory of the file. It is called only when none is
	// alive: again in the same call when the one it started has died, after a pause that grows
	// from one start to the next. So one that cannot live is not started without end.
	Start   func(ctx context.Context) error
	LogFile string // of the worker
	Log     *slog.Logger
}

// The foreground looks for its answer after a tenth of the time it has waited so far, within
// these limits. To be told by inotify takes longer: the kernel needs milliseconds to
// take a watch down, at the end of each call.
const (
	shortestLook = 500 * time.Microsecond
	longestLook  = 20 * time.Millisecond
	// workerLook is how often it looks whether the worker has died.
	workerLook = 100 * time.Millisecond
)

// Push returns nil when the worker's answer to the file at path, which is absolute, is that
// PostgreSQL may go on, and else the error of the worker's try. Errors from before this
// call are none of it: they are removed, which asks the worker to try again.
func (a AsyncPush) Push(ctx context.Context, path string) error {
	name := filepath.Base(path)
	if _, err := postgres.ParseWALName(name); err != nil {
		return errs.WithHint(err, "archive-push takes the path that PostgreSQL gives as %%p")
	}
	ok, err := a.acknowledged(name)
	if err == nil && !ok {
		err = a.await(ctx, name, filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	a.Log.Info(fmt.Sprintf("pushed WAL file '%s' to the archive asynchronously", name))
	return nil
}

// acknowledged looks for the file's .ok, and says what it warns of.
func (a AsyncPush) acknowledged(name string) (bool, error) {
	s, ok, err := readStatus(a.Spool.Out(), name+okSuffix)
	if !ok || err != nil {
		return false, err
	}
	switch {
	case s.empty():
	case s.code == 0:
		a.Log.Warn(s.message)
	default:
		a.Log.Warn(fmt.Sprintf("WAL segment '%s' was not pushed due to error [%d] and was manually skipped: %s", name, s.code, s.message))
	}
	return true, nil
}

// refused gives the error that the worker has for the file, or for all.
func (a AsyncPush) refused(name string) error {
	for _, name := range []string{name + errorSuffix, globalStatus + errorSuffix} {
		s, ok, err := readStatus(a.Spool.Out(), name)
		if err != nil {
			return err
		}
		if ok {
			return s.failure(name)
		}
	}
	return nil
}

// await makes sure that there is a worker for as long as it waits for an answer.
func (a AsyncPush) await(ctx context.Context, name, walDir string) error {
	// What cannot be written is told here, where it reaches PostgreSQL's log.
	if err := a.Spool.makeDir(a.Spool.Out()); err != nil {
		return err
	}
	for _, stale := range []string{name, globalStatus} {
		stale = filepath.Join(a.Spool.Out(), stale+errorSuffix)
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return durable.Wrap(errs.FileRemove, err, "unable to remove '%s'", stale)
		}
	}

	begun := time.Now()
	look := time.NewTimer(shortestLook)
	defer look.Stop()
	// A worker that was started is not alive before it has its claim.
	var starts backoff
	var workerSeen time.Time
	for {
		if ok, err := a.acknowledged(name); ok || err != nil {
			return err
		}
		if err := a.refused(name); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(workerSeen) >= workerLook && !now.Before(starts.next) {
			alive, err := a.alive(walDir)
			if err != nil {
				return err
			}
			if !alive {
				if err := serviceable(walDir); err != nil {
					return err
				}
				if starts.pause > 0 {
					a.Log.Log(ctx, logging.LevelDetail, "the worker that was started has ended without an answer, starting another")
				}
				if err := a.Start(ctx); err != nil {
					return err
				}
				starts.failed(time.Now())
			}
			workerSeen = time.Now()
		}
		waited := time.Since(begun)
		if waited >= a.Timeout {
			return errs.WithHint(errs.New(errs.ArchiveTimeout, "unable to push WAL file '%s' to the archive asynchronously after %s second(s)",
				name, strconv.FormatFloat(a.Timeout.Seconds(), 'f', -1, 64)), "check '%s' for errors.", a.LogFile)
		}
		look.Reset(min(max(waited/10, shortestLook), longestLook, a.Timeout-waited))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
	}
}

// Served says whether a worker is there for the WAL directory of the file at path.
func (a AsyncPush) Served(path string) bool {
	alive, err := a.alive(filepath.Dir(path))
	return alive && err == nil
}

// alive says whether there is a worker for the WAL directory.
func (a AsyncPush) alive(walDir string) (bool, error) {
	of, alive, err := claimed(a.Spool.pushWorker())
	if err != nil || !alive || of == "" || of == walDir || sameDir(of, walDir) {
		return alive, err
	}
	return false, errs.WithHint(errs.New(errs.LockAcquire, "unable to push WAL from '%s': the worker on '%s' pushes WAL from '%s'",
		walDir, a.Spool.Path, of), "two clusters on one host need a stanza or a spool-path each.")
}

// serviceable refuses a directory that no WAL waits in: a worker for it would leave at once, without an answer.
func serviceable(walDir string) error {
	dir := statusDir(walDir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return errs.WithHint(errs.New(errs.PathMissing, "unable to list file info for missing path '%s'", dir),
			"is '%s' the WAL directory of a cluster?", walDir)
	}
	return nil
}

func sameDir(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
