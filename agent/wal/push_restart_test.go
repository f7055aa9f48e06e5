package wal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// hold is what of a worker is seen from outside: the claim that ends with it.
func hold(t *testing.T, path string) (die func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	if err != nil {
		t.Error(err) // it may be called by a worker's goroutine
		return func() {}
	}
	return func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A worker that dies is replaced within the call, at once after it has lived for a while, and
// ever later when one after another dies.
func TestAsyncPushStartsAgain(t *testing.T) {
	const never = -1
	for _, test := range []struct {
		name   string
		lives  time.Duration // each worker, from its claim on
		claim  time.Duration // until it has that
		answer int           // the worker that answers; never: none does
		starts []float64     // seconds after the begin of the call
		code   errs.Code
	}{
		{"the first dies", 10 * time.Millisecond, 5 * time.Millisecond, 2, []float64{0, 1}, 0},
		{"some die", 10 * time.Millisecond, 5 * time.Millisecond, 4, []float64{0, 1, 3, 7}, 0},
		{"it cannot live", 0, 0, never, []float64{0, 1, 3, 7, 15, 31}, errs.ArchiveTimeout},
		{"it lives for a while", 20 * time.Second, 5 * time.Millisecond, never, []float64{0, 20, 40}, errs.ArchiveTimeout},
		{"it stays", time.Hour, 5 * time.Millisecond, never, []float64{0}, errs.ArchiveTimeout},
		{"it is slow to start", time.Hour, 2500 * time.Millisecond, never, []float64{0, 1}, errs.ArchiveTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPushSite(t, 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				begun := time.Now()
				var starts []time.Duration
				push, stop := s.foreground()
				defer stop()
				alive := make(chan struct{}, 1) // the claim is one's
				push.Start = func(context.Context) error {
					starts = append(starts, time.Since(begun))
					number := len(starts)
					go func() {
						wait := func(d time.Duration) {
							select {
							case <-time.After(d):
							case <-ctx.Done():
							}
						}
						wait(test.claim)
						select {
						case alive <- struct{}{}:
						default:
							return
						}
						die := hold(t, filepath.Join(s.spool.Path, "push.worker"))
						if number == test.answer {
							s.write(filepath.Join(s.spool.Out(), segA+".ok"), nil)
						}
						wait(test.lives)
						die()
						<-alive
					}()
					return nil
				}
				err := push.Push(t.Context(), s.path(segA))
				if took := time.Since(begun); errs.CodeOf(err) != test.code || err != nil && took > push.Timeout+time.Second {
					t.Errorf("after %s: [%d] %v", took, errs.CodeOf(err), err)
				}
				ok := len(starts) == len(test.starts)
				for i := 0; ok && i < len(starts); i++ {
					late := starts[i].Seconds() - test.starts[i]
					ok = late >= 0 && late < 0.5
				}
				if !ok {
					t.Errorf("workers were started after %v, expected is after %v seconds", starts, test.starts)
				}
			})
		})
	}
}

// What keeps a worker from being started is told, also when it is not the first.
func TestAsyncPushCannotStartAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPushSite(t, 0)
		push, stop := s.foreground()
		defer stop()
		starts := 0
		push.Start = func(context.Context) error {
			if starts++; starts == 2 {
				return syscall.EAGAIN
			}
			return nil
		}
		begun := time.Now()
		if err := push.Push(t.Context(), s.path(segA)); !errors.Is(err, syscall.EAGAIN) || time.Since(begun) > 2*time.Second {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
	})
}

// A real worker that dies while it has the file in hand is replaced by the call that started it.
func TestAsyncPushWorkerDies(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	hangs := make(chan struct{})
	s.repos[0].hangs = hangs
	s.ready(segA)
	push, stop := s.foreground()
	defer stop()
	start, starts := push.Start, 0
	ended := make(chan struct{})
	push.Start = func(ctx context.Context) error {
		if starts++; starts > 1 {
			return start(ctx)
		}
		go func() {
			defer close(ended)
			dies := s.start()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for s.repos[0].tried(segA) == 0 {
				<-tick.C
			}
			dies()
			s.repos[0].set(func() { s.repos[0].hangs = nil })
		}()
		return nil
	}
	begun := time.Now()
	if err := push.Push(t.Context(), s.path(segA)); err != nil {
		t.Fatal(err)
	}
	<-ended
	if starts != 2 || time.Since(begun) > push.Timeout/2 || !s.repos[0].has(s, segA) {
		t.Errorf("after %s and %d starts\n%s", time.Since(begun), starts, s.log.String())
	}
	if !slices.Contains(s.log.clear(), "DEBUG+2 the worker that was started has ended without an answer, starting another") {
		t.Error("the log does not say so")
	}
}

// A worker that dies while archive-get waits for what it fetches is waited for no longer.
func TestGetWorkerDies(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 10)
	s.archive(all)
	s.fetch(all[0])
	s.queued(all[1:9]...)
	s.killWorkers()
	s.revive()
	if err := os.Remove(filepath.Join(s.spool.In(), all[1])); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(s.spool.In(), all[1]+".pgx.tmp"), content(all[1])[:1000])
	die := hold(t, filepath.Join(s.spool.Path, "get.worker"))
	got := make(chan error)
	begun := time.Now()
	go func() { got <- s.get().GetFile(t.Context(), all[1], s.target) }()
	select {
	case err := <-got:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(200 * time.Millisecond): // while it is alive
	}
	die()
	if err := <-got; err != nil || s.read(s.target) != string(content(all[1])) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
	s.queued(all[2:10]...) // by another
	if n := s.starts.Load(); n != 2 {
		t.Errorf("%d workers were started", n)
	}
}
