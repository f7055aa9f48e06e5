package wal_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/errs"
)

// A clock that is set differs from before in two ways: files have times that are ahead of it, or far
// behind, and what is recorded goes back in time. Durations it does not touch: each is the difference of
// two times of one process, which Go measures with the monotonic clock.

// jumps are how far the clock is set.
var jumps = []time.Duration{time.Hour, -time.Hour, -20 * 365 * 24 * time.Hour}

// redate moves the times of everything below dirs, without pause until it is told to stop: so
// whatever is written meanwhile has times of a clock that was set in between.
func redate(t *testing.T, by time.Duration, dirs ...string) (stop func()) {
	t.Helper()
	round := func() {
		at := time.Now().Add(by)
		for _, dir := range dirs {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type()&fs.ModeSymlink == 0 {
					err = os.Chtimes(path, at, at)
				}
				if errors.Is(err, fs.ErrNotExist) {
					return nil // removed in the meantime
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	round()
	done := make(chan struct{})
	var moving sync.WaitGroup
	moving.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				round()
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		moving.Wait()
	})
}

// TestClockJumpPush: the clock is set before and during a drain. All is pushed once, old errors and
// answers are what they are, and the worker that has nothing to do leaves after its time.
func TestClockJumpPush(t *testing.T) {
	for _, by := range jumps {
		t.Run(by.String(), func(t *testing.T) {
			s := newPushSite(t, 2)
			s.worker.Idle = 300 * time.Millisecond
			var names []string
			for n := range 20 {
				names = append(names, segmentName(1, 16+n))
			}
			s.ready(names...)
			for name, content := range map[string]string{ // of workers before the clock was set
				names[0] + ".error": "44\nold", "global.error": "103\nold", names[1] + ".ok": "", segA + ".ok": "", "push.worker": "",
			} {
				s.write(filepath.Join(s.spool.Out(), name), []byte(content))
			}
			s.write(filepath.Join(s.spool.Path, "push.worker"), []byte("/elsewhere"))
			stop := redate(t, by, s.pg, s.spool.Path)
			defer stop()

			push, end := s.foreground()
			defer end()
			start, starts := push.Start, 0
			push.Start = func(ctx context.Context) error { starts++; return start(ctx) }
			for _, name := range names {
				if err := push.Push(t.Context(), s.path(name)); err != nil {
					t.Fatal(err)
				}
				s.taken(name)
			}
			begun := time.Now()
			s.until("it leaves", func() bool { return s.log.count("nothing to push, leaving") == 1 })
			if took := time.Since(begun); took < s.worker.Idle/2 || took > 20*s.worker.Idle {
				t.Errorf("it left after %s", took)
			}
			for _, r := range s.repos {
				if !r.has(s, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == names[1] })...) {
					t.Errorf("%s does not have all", r.Name())
				}
				if r.tried(names[1]) > 0 {
					t.Errorf("%s was given %s, which was acknowledged before", r.Name(), names[1])
				}
				for name, n := range r.puts {
					if n != 1 {
						t.Errorf("%s was given %s %d times", r.Name(), name, n)
					}
				}
			}
			if starts != 1 {
				t.Errorf("%d workers were started", starts)
			}
		})
	}
}

// TestClockJumpWait: while the foreground waits, what it waits for does not come earlier or later.
func TestClockJumpWait(t *testing.T) {
	for _, by := range jumps {
		t.Run(by.String(), func(t *testing.T) {
			s := newPushSite(t, 1)
			s.worker.Idle = time.Minute
			hangs := make(chan struct{})
			s.repos[0].hangs = hangs
			s.ready(segA, segB)
			defer redate(t, by, s.pg, s.spool.Path)()
			push, end := s.foreground()
			defer end()
			push.Timeout = 200 * time.Millisecond
			begun := time.Now()
			err := push.Push(t.Context(), s.path(segA))
			if took := time.Since(begun); errs.CodeOf(err) != errs.ArchiveTimeout || took < push.Timeout || took > 20*push.Timeout {
				t.Errorf("after %s: %v", took, err)
			}
			close(hangs)
			push.Timeout = time.Minute
			for _, name := range []string{segA, segB} {
				if err := push.Push(t.Context(), s.path(name)); err != nil {
					t.Error(err)
				}
			}
			// The errors of two calls are told apart by what is there, not by when it was written.
			s.repos[0].set(func() { s.repos[0].gone = errHost })
			s.ready(segC)
			for range 2 {
				if err := push.Push(t.Context(), s.path(segC)); !strings.Contains(text(err), errHost.Error()) {
					t.Error(err)
				}
			}
			s.repos[0].set(func() { s.repos[0].gone = nil })
			if err := push.Push(t.Context(), s.path(segC)); err != nil {
				t.Error(err)
			}
			if !s.repos[0].has(s, segA, segB, segC) {
				t.Error("the repository does not have all")
			}
		})
	}
}

// TestClockJumpDrops: what is dropped is on record in the order in which it was, with the times that the
// clock showed, however these follow one another.
func TestClockJumpDrops(t *testing.T) {
	s := newPushSite(t, 1)
	limit := int64(1 << 20)
	s.worker.Push.QueueMax = &limit
	s.repos[0].gone = errHost
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var want []wal.Drop
	for n, by := range []time.Duration{0, time.Hour, -time.Hour, -20 * 365 * 24 * time.Hour} {
		clock := at.Add(by)
		s.worker.Push.Now = func() time.Time { return clock }
		from, to := segmentName(1, 16+2*n), segmentName(1, 17+2*n)
		s.ready(from, to)
		stop := redate(t, by, s.pg, filepath.Dir(s.spool.Path))
		s.run()
		stop()
		if out := s.out(); !strings.HasPrefix(out[from+".ok"], "0\ndropped WAL file '") || !strings.HasPrefix(out[to+".ok"], "0\ndropped WAL file '") {
			t.Errorf("spool holds %q", out)
		}
		s.taken(from, to)
		want = append(want, wal.Drop{From: from, To: to, At: clock, Queue: 2 << 20, Limit: limit})
	}
	got, err := s.worker.Push.Ledger.Drops()
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("recorded\n%v, want\n%v; %v", got, want, err)
	}
	// What is dropped no longer counts, whenever that was.
	s.repos[0].set(func() { s.repos[0].gone = nil })
	s.ready(segA)
	s.run()
	if !s.repos[0].has(s, segA) {
		t.Errorf("%s was not pushed: %q", segA, s.out())
	}
}

// TestClockJumpGet: neither what is in the queue nor what is on its way is judged by its age.
func TestClockJumpGet(t *testing.T) {
	for _, by := range jumps {
		t.Run(by.String(), func(t *testing.T) {
			s := newGetSite(t, 1)
			s.idle = 500 * time.Millisecond
			all := segments(1, 1, 40)
			s.archive(all)
			s.fetch(all[0])
			s.queued(all[1:9]...)
			defer redate(t, by, s.pg, s.spool.Path)()
			for _, name := range all[1:20] {
				s.fetch(name)
			}
			s.queued(all[20:28]...)
			if n := s.asynchronous(); n < 8 {
				t.Errorf("%d segments came from the queue", n)
			}
			s.until(func() bool { return s.workerLog.count("nothing was asked for in") == 1 }, s.workerLog.String)
			s.workers.Wait()
			// Another worker goes on with what that left.
			s.fetch(all[20])
			s.queued(all[21:29]...)
			if n := s.starts.Load(); n != 2 {
				t.Errorf("%d workers were started", n)
			}
		})
	}
}

// TestClockJumpQueue: what waits is counted, wherever its time lies.
func TestClockJumpQueue(t *testing.T) {
	for _, by := range jumps {
		s := newPushSite(t, 1)
		s.ready(segA, segB)
		s.write(filepath.Join(s.spool.Out(), segA+".error"), []byte("104\nno space"))
		redate(t, by, s.pg, s.spool.Path)()
		q, err := wal.Queue(s.spool, s.walDir())
		if err != nil || q.Waiting != 2 || q.Bytes != 2<<20 || q.Oldest != segA || q.LastError != "[104] no space" {
			t.Errorf("%s: %+v, %v", by, q, err)
		}
		if off := time.Until(q.Since) - by; off.Abs() > time.Minute {
			t.Errorf("%s: it waits since %s", by, q.Since)
		}
	}
}
