package durable

import (
	"errors"
	"os"
	"slices"
	"sync"

	"github.com/pgx-backup/pgx/internal/errs"
)

// A Batch makes files durable some at a time. The file system then has to commit its journal
// once for all of them: on ext4 that takes a third of the time and half of the CPU of a
// sync right after each file. The zero value is ready; its methods may be called from many
// goroutines at once.
type Batch struct {
	mu      sync.Mutex
	waiting []func() error
	bytes   int64
	running []chan struct{} // each closed when what was waiting once is done
	failed  error
}

// How many files wait for one another at most, and how many bytes they have about.
const (
	batchFiles = 32
	batchBytes = 32 << 20
)

// Add takes over a file of size bytes that is written. Its content starts for the disk at once; finish,
// which has to sync and close it, is called here when enough files wait, together with
// theirs, or by Flush. The first error of any of them is that of every later Add and
// Flush too, for something is not durable that was to be.
func (b *Batch) Add(file *os.File, size int64, finish func() error) error {
	var err error
	if size > 0 {
		_, err = startSync(file, 0, 0)
	}
	if err != nil {
		// The kernel may have given the content up, and a sync need not tell of that again.
		content := finish
		_ = file.Truncate(0)
		finish = func() error {
			return errors.Join(Wrap(errs.FileSync, err, "unable to sync file '%s' after write", file.Name()), content())
		}
	}
	b.mu.Lock()
	b.waiting = append(b.waiting, finish)
	b.bytes += size
	if len(b.waiting) < batchFiles && b.bytes < batchBytes {
		defer b.mu.Unlock()
		return b.failed
	}
	b.mu.Unlock()
	return b.finish()
}

// Flush returns when all files are durable that were added before.
func (b *Batch) Flush() error {
	_ = b.finish() // its error stays
	b.mu.Lock()
	running := slices.Clone(b.running)
	b.mu.Unlock()
	for _, done := range running {
		<-done
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// finish finishes what waits.
func (b *Batch) finish() error {
	done := make(chan struct{})
	b.mu.Lock()
	all := b.waiting
	b.waiting, b.bytes = nil, 0
	b.running = append(b.running, done)
	b.mu.Unlock()

	var first error
	for _, finish := range all { // all of them: each has to close its file
		if err := finish(); first == nil {
			first = err
		}
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil {
		b.failed = first
	}
	b.running = slices.DeleteFunc(b.running, func(c chan struct{}) bool { return c == done })
	close(done)
	return b.failed
}
