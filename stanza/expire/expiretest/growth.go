package expiretest

import (
	"context"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// Store writes the files into a directory.
func (h *History) Store(dir string) error {
	made := map[string]bool{}
	for name, f := range h.Files {
		file := filepath.Join(dir, name)
		if parent := filepath.Dir(file); !made[parent] {
			if err := os.MkdirAll(parent, 0o750); err != nil {
				return err
			}
			made[parent] = true
		}
		if f.Target != "" {
			if err := os.Symlink(f.Target, file); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(file, f.Content, 0o640); err != nil {
			return err
		}
		if err := os.Chtimes(file, f.ModTime, f.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// More is how many times as large a history is on which something is tried once more.
const More = 8

// Grows makes sure that what commands take grows as their repository does, and not with the square
// of that: it runs each on a history of some size and on one More times as large, which may
// take as many times the calls of the storage, and the time that Linear says. The commands must not
// change anything.
func Grows(t *testing.T, l Large, now time.Time, commands map[string]func(st storage.Storage) error) {
	t.Helper()
	large := l
	large.Fulls *= More
	small, big := &counter{Storage: l.store(t, now)}, &counter{Storage: large.store(t, now)}
	for name, run := range commands {
		t.Run(name, func(t *testing.T) {
			small.calls, big.calls = 0, 0
			Linear(t, func() error { return run(small) }, func() error { return run(big) })
			t.Logf("%d backups: %d calls; %d backups: %d calls", l.Backups(), small.calls, large.Backups(), big.calls)
			if limit := More * (small.calls + 10); big.calls > limit {
				t.Errorf("%d calls of the storage instead of at most %d", big.calls, limit)
			}
		})
	}
}

// Linear makes sure that what is done for More times as much takes no more than three times as
// many times the time of a processor. What is quadratic takes More times as many.
func Linear(t *testing.T, small, large func() error) {
	t.Helper()
	used, usedMore := cost(t, small), cost(t, large)
	t.Logf("%v, and %v for %d times as much", used, usedMore, More)
	if limit := 3 * More * used; usedMore > limit {
		t.Errorf("%v of a processor instead of at most %v", usedMore, limit)
	}
}

// store makes a repository of a history: in memory, where there is such a file system.
func (l Large) store(t *testing.T, now time.Time) storage.Storage {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pgx-growth-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := l.Make(now).Store(dir); err != nil {
		t.Fatal(err)
	}
	st, err := posix.New(dir, posix.Refuse)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// cost gives the time of the processor that a run takes: the best of three, which others on the
// machine have disturbed least.
func cost(t *testing.T, run func() error) (best time.Duration) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it runs on other threads
	for range 3 {
		runtime.GC()
		before := threadTime(t)
		if err := run(); err != nil {
			t.Fatal(err)
		}
		if used := threadTime(t) - before; best == 0 || used < best {
			best = used
		}
	}
	return best
}

// threadTime gives the time that this thread has run.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}

// counter counts the calls that read.
type counter struct {
	storage.Storage
	calls int
}

func (c *counter) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	c.calls++
	return c.Storage.Open(ctx, name, at)
}

func (c *counter) Stat(ctx context.Context, name string) (storage.Object, error) {
	c.calls++
	return c.Storage.Stat(ctx, name)
}

func (c *counter) List(ctx context.Context, prefix string, what storage.Listing) iter.Seq2[storage.Object, error] {
	c.calls++
	return c.Storage.List(ctx, prefix, what)
}
