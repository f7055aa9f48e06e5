package posix

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

var _ storage.Locker = (*Storage)(nil)

// lockPause is how often a lock that another has is tried again. It is held for the
// time of a rename.
const lockPause = 5 * time.Millisecond

// lockLimit is when whoever has the lock is taken to hang.
const lockLimit = time.Minute

// Lock locks a directory, which is made if it is not there, against everybody else who
// locks it through any Storage on a file system that knows flock. On one that does not,
// nobody is kept out: better than to archive nothing there. The lock goes with the process.
func (s *Storage) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	if err := s.check(ctx, name, false); err != nil {
		return nil, err
	}
	// All of them, though they may be there: another process may have made one and died
	// before it was durable. Made here, they are synced with the next Put below.
	for _, dir := range append(parents(name), name) {
		if err := s.makeDir(dir); err != nil {
			return nil, err
		}
	}
	dir, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, s.fail(errs.PathOpen, err, "unable to open path '%s' to lock it", name)
	}
	limit := time.NewTimer(lockLimit)
	defer limit.Stop()
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.EINVAL):
			return dir.Close, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(s.fail(errs.LockAcquire, err, "unable to lock path '%s'", name), dir.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), dir.Close())
		case <-limit.C:
			err := errs.New(errs.LockAcquire, "unable to lock path '%s': another process has it for %s", s.Path(name), lockLimit)
			return nil, errors.Join(errs.WithHint(err, "does a process that archives hang?"), dir.Close())
		case <-time.After(lockPause):
		}
	}
}
