package durable_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgx-backup/pgx/internal/durable"
)

func open(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestBatch: each file is finished once, some when others come, and all when Flush returns.
func TestBatch(t *testing.T) {
	const n = 1000
	f := open(t)
	var b durable.Batch
	var finished [n]atomic.Int32
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := worker; i < n; i += 4 {
				if err := b.Add(f, 1, func() error { finished[i].Add(1); return nil }); err != nil {
					t.Error(err)
				}
				if i%97 != 0 {
					continue
				}
				if err := b.Flush(); err != nil {
					t.Error(err)
				}
				if got := finished[i].Load(); got != 1 {
					t.Errorf("after a flush file %d was finished %d times", i, got)
				}
			}
		})
	}
	all.Wait()
	if err := b.Flush(); err != nil {
		t.Error(err)
	}
	for i := range finished {
		if got := finished[i].Load(); got != 1 {
			t.Errorf("file %d was finished %d times", i, got)
		}
	}
}

// TestBatchWaits: neither many files nor much content stays with a batch, and Flush waits
// for what another goroutine is finishing.
func TestBatchWaits(t *testing.T) {
	f := open(t)
	var b durable.Batch
	count := 0
	for i := 0; count == 0 && i < 10_000; i++ {
		if err := b.Add(f, 0, func() error { count++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if count < 2 || count > 1000 {
		t.Errorf("%d files were finished at once", count)
	}

	begun, proceed, flushed := make(chan struct{}), make(chan struct{}), make(chan error)
	var done atomic.Bool
	var adding sync.WaitGroup
	adding.Go(func() {
		_ = b.Add(f, 1<<40, func() error { close(begun); <-proceed; done.Store(true); return nil })
	})
	<-begun
	go func() {
		err := b.Flush()
		if !done.Load() {
			err = errors.New("flushed too early")
		}
		flushed <- err
	}()
	close(proceed)
	if err := <-flushed; err != nil {
		t.Error(err)
	}
	adding.Wait()
}

// TestBatchFails: what was not made durable is never said to be, and the others are finished.
func TestBatchFails(t *testing.T) {
	f := open(t)
	var b durable.Batch
	broken, count := errors.New("broken"), 0
	for i := range 3 {
		err := b.Add(f, 0, func() error {
			count++
			if i == 1 {
				return broken
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.Flush(); err != broken {
			t.Errorf("error %v", err)
		}
	}
	if err := b.Add(f, 0, func() error { return nil }); err != broken || count != 3 {
		t.Errorf("error %v, %d files finished", err, count)
	}
}

// A file of several windows holds what was written, whatever the writes were.
func TestLargeInPlace(t *testing.T) {
	content := make([]byte, 27<<20+123)
	for i := range content {
		content[i] = byte(i>>16 + i)
	}
	for _, step := range []int{1<<20 - 7, 9 << 20, len(content)} {
		r := root(t)
		f, err := durable.CreateInPlace(r, "x", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(content); at += step {
			if _, err := f.Write(content[at:min(at+step, len(content))]); err != nil {
				t.Fatal(err)
			}
		}
		var b durable.Batch
		if err := errors.Join(f.CommitLater(t.Context(), &b), b.Flush()); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadFile("x"); err != nil || !bytes.Equal(got, content) {
			t.Errorf("steps of %d: %d bytes are not what was written, error %v", step, len(got), err)
		}
	}
}
