package wal_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

func TestGetAhead(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 250, 50) // 256 of them have the same high part
	s.archive(all)
	s.fetch(all[0])
	s.queued(all[1:9]...)
	for _, name := range all[1:] {
		s.fetch(name)
	}
	if n := s.asynchronous(); n < 8 {
		t.Errorf("%d of %d segments came from the queue\n%s", n, len(all), &s.log)
	}
	if got, want := s.log.String(), "found "+all[1]+" in the archive asynchronously"; !strings.Contains(got, want) {
		t.Errorf("the log does not say: %s\n%s", want, got)
	}
	if n := s.starts.Load(); n != 1 {
		t.Errorf("%d workers were started", n)
	}
	next := segments(1, 300, 3)
	s.missing(next[0])
	if want := "unable to find " + next[0] + " in the archive asynchronously"; s.log.count(want) != 1 {
		t.Errorf("the log does not say: %s", want)
	}
	// The worker finds it by itself, or archive-get does: then, too, the worker goes on.
	s.archive(next)
	s.fetch(next[0])
	s.queued(next[1:]...)
	s.fetch(next[1])
	s.fetch(next[2])
}

func TestGetAheadComesByItself(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 6)
	s.archive(all[:3])
	s.fetch(all[0])
	s.queued(all[1], all[2])
	s.archive(all[4:])
	s.archive(all[3:4])
	s.queued(all[1:]...)
}

// TestGetAheadStops: nothing is fetched behind a segment that is missing.
func TestGetAheadStops(t *testing.T) {
	s := newGetSite(t, 1)
	s.processes = 1
	all := segments(1, 1, 8)
	s.archive(all[:2])
	s.archive(all[3:])
	s.fetch(all[0])
	s.until(func() bool { return s.workerLog.count("unable to find "+all[2]) > 2 }, s.workerLog.String)
	s.queued(all[1])
	s.fetch(all[1])
	s.missing(all[2])
	// PostgreSQL would not, but may, ask for more.
	s.fetch(all[3])
	s.queued(all[4:]...)
}

func TestGetJumps(t *testing.T) {
	s := newGetSite(t, 1)
	s.window = 3 * segmentBytes
	one, two := segments(1, 1, 30), segments(2, 14, 10)
	s.archive(one)
	s.fetch(one[0])
	s.queued(one[1:4]...)
	s.fetch(one[20])
	s.queued(one[21:24]...)
	s.fetch(one[19])
	s.queued(one[20:23]...)
	s.fetch(one[5])
	s.queued(one[6:9]...)

	// A new timeline is tried, and is not there yet: the queue stays as it is.
	s.missing("00000002.history")
	s.missing(two[0])
	s.queued(one[6:9]...)
	s.archive(append(two, "00000002.history", two[9]+".partial"))
	s.fetch("00000002.history")
	s.queued(one[6:9]...)
	s.fetch(two[0])
	s.queued(two[1:4]...)
	s.fetch(two[9] + ".partial")
	s.queued(two[1:4]...)
	s.fetch(one[10])
	s.queued(one[11:14]...)
}

// TestGetDamaged: of two copies the one that is whole is given, and what is wrong with the
// other is told to who asks, as it is without a queue.
func TestGetDamaged(t *testing.T) {
	s := newGetSite(t, 2)
	s.processes = 1
	all := segments(1, 1, 5)
	s.archive(all)
	s.damage(all[1], 1)
	s.damage(all[3], 1)
	s.damage(all[3], 2)
	s.fetch(all[0])
	s.queued(all[1], all[1]+".ok", all[2])
	s.fetch(all[1])
	s.queued(all[2])
	if n := s.log.count("[ChecksumError]") + s.log.count("[FormatError]"); n != 1 {
		t.Errorf("the log of archive-get does not name the damage\n%s", &s.log)
	}
	s.fetch(all[2])
	for range 2 {
		if err := s.try(all[3]); errs.CodeOf(err) != errs.FileRead {
			t.Errorf("error %v", err)
		}
	}
}

func TestGetWithoutWorker(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 20)
	s.archive(all)
	s.noWorkers = true
	for _, name := range all[:5] {
		s.fetch(name)
	}
	if n := s.log.count("unable to start fetching WAL ahead"); n != 5 {
		t.Errorf("%d warnings", n)
	}
	s.noWorkers = false
	s.fetch(all[5])
	s.queued(all[6:14]...)
	s.killWorkers()
	s.noWorkers = true
	for _, name := range all[6:] {
		s.fetch(name)
	}
	if n := s.asynchronous(); n != 8 {
		t.Errorf("%d came from what the worker left", n)
	}
	s.missing(segments(1, 21, 1)[0])
}

// TestGetKilled: what a worker leaves when it is killed in the middle of a segment is not taken for
// one, nor waited for.
func TestGetKilled(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 20)
	s.archive(all)
	s.fetch(all[0])
	s.queued(all[1:9]...)
	s.killWorkers()
	for _, name := range all[1:4] {
		if err := os.Remove(filepath.Join(s.spool.In(), name)); err != nil {
			t.Fatal(err)
		}
		s.write(filepath.Join(s.spool.In(), name+".pgx.tmp"), content(name)[:1000])
	}
	s.noWorkers = true
	started := time.Now()
	s.fetch(all[1])
	if d := time.Since(started); d > time.Second {
		t.Errorf("took %s", d)
	}
	s.revive()
	s.noWorkers = false
	s.fetch(all[2])
	s.queued(all[3:11]...)
}

// TestGetWaits: a segment that is on its way is waited for, but not without end.
func TestGetWaits(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 4)
	s.archive(all)
	for _, hangs := range []bool{false, true} {
		s.ahead = []source{s.sources[0]}
		s.ahead[0].slow = make(chan struct{})
		s.fetch(all[0])
		s.queued(all[1]+".pgx.tmp", all[2]+".pgx.tmp", all[3]+".pgx.tmp")
		if hangs {
			// It fetches the segment itself, and tells the worker that it need not.
			s.fetch(all[1])
			s.queued(all[2]+".pgx.tmp", all[3]+".pgx.tmp", segments(1, 5, 1)[0]+".pgx.tmp")
			break
		}
		// It asks no archive while it waits.
		s.sources[0].gone.Store(true)
		result := make(chan error)
		go func() { result <- s.get().GetFile(t.Context(), all[1], s.target) }()
		select {
		case err := <-result:
			t.Fatalf("came back too early: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		s.sources[0].gone.Store(false)
		close(s.ahead[0].slow)
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if n := s.asynchronous(); n != 1 {
			t.Errorf("%d segments came from the queue\n%s", n, &s.log)
		}
		_ = os.Remove(s.target)
		s.queued(all[2], all[3])
		s.killWorkers()
		s.revive()
		if err := os.RemoveAll(s.spool.Path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGetTwoRecoveries: with one spool, each gets its WAL, and only one a queue.
func TestGetTwoRecoveries(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 40)
	s.archive(all)
	o := s.other()
	for i := range 10 {
		s.fetch(all[i])
		o.fetch(all[20+i])
	}
	s.queued(all[10:18]...)
	if o.starts.Load() != 0 || o.asynchronous() != 0 {
		t.Errorf("the other got %d from the queue", o.asynchronous())
	}
	s.killWorkers()
	o.fetch(all[30])
	o.queued(all[31:39]...)
	s.fetch(all[10])
	o.fetch(all[31])
	if n := o.asynchronous(); n != 1 {
		t.Errorf("the other got %d from the queue", n)
	}
	o.queued(all[32:40]...)
}

// TestGetForeignQueue: nothing is taken that this recovery's worker did not fetch since the machine
// came up.
func TestGetForeignQueue(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 10)
	s.archive(all)
	s.fetch(all[0])
	s.queued(all[1:9]...)
	owner := s.read(filepath.Join(s.spool.In(), "owner"))
	for what, change := range map[string]string{
		"system": strings.Replace(owner, "system-id=", "system-id=1", 1),
		"boot":   strings.Replace(owner, "boot-id=", "boot-id=0", 1),
		"path":   strings.Replace(owner, "pg-path=", "pg-path=/x", 1),
		"cut":    owner[:10],
		"none":   "",
	} {
		t.Run(what, func(t *testing.T) {
			s.t = t
			s.killWorkers()
			s.revive()
			if err := os.RemoveAll(s.spool.In()); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(s.spool.In(), 0o750); err != nil {
				t.Fatal(err)
			}
			if change != "" {
				s.write(filepath.Join(s.spool.In(), "owner"), []byte(change))
			}
			// As pgBackRest leaves it, and wrong in each place.
			for name, content := range map[string]string{
				all[1]: "other WAL", all[2]: "other WAL", all[2] + ".ok": "0\nwarning", all[9]: "other WAL",
				all[3] + ".ok": "", all[4] + ".error": "25\nassert", "global.error": "25\nassert", all[5] + ".pgbackrest.tmp": "half",
			} {
				s.write(filepath.Join(s.spool.In(), name), []byte(content))
			}
			s.fetch(all[1])
			s.queued(all[2:10]...)
			s.fetch(all[2])
			entries, err := os.ReadDir(s.spool.Path)
			if err != nil || len(entries) != 2 {
				t.Errorf("the spool holds %v, %v", entries, err)
			}
		})
	}
}

// TestGetSweeps: what another program puts into a queue of ours goes.
func TestGetSweeps(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 12)
	s.archive(all)
	s.fetch(all[0])
	s.queued(all[1:9]...)
	for _, name := range []string{all[1] + ".ok", all[2] + ".error", "global.error", all[11], "dir"} {
		if name == "dir" {
			if err := os.Mkdir(filepath.Join(s.spool.In(), name), 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		s.write(filepath.Join(s.spool.In(), name), []byte("25\nassert"))
	}
	s.fetch(all[1])
	s.queued(all[2:10]...)
}

// TestGetRestore: a restore removes the spool while a worker is at work.
func TestGetRestore(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 40)
	s.archive(all)
	again := 0
	for range 20 {
		s.fetch(all[rand.IntN(10)])
		// The worker may put a segment into a directory that was found empty.
		for os.RemoveAll(s.spool.Path) != nil {
			again++
		}
		if _, err := os.Lstat(s.spool.Path); err == nil {
			t.Fatal("the spool is still there")
		}
		s.fetch(all[20])
		s.queued(all[21:29]...)
	}
	t.Logf("%d times the spool was not empty when it was removed", again)
}

func TestGetLeaves(t *testing.T) {
	all := segments(1, 1, 40)
	for what, leave := range map[string]func(s *getSite){
		"asked to": func(s *getSite) { reason := "a stop file exists"; s.leave.Store(&reason) },
		"idle":     func(*getSite) {},
		"owner gone": func(s *getSite) {
			if err := os.Remove(filepath.Join(s.spool.In(), "owner")); err != nil {
				t.Error(err)
			}
		},
		"claim gone": func(s *getSite) {
			if err := os.Remove(filepath.Join(s.spool.Path, "get.worker")); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newGetSite(t, 1)
			s.archive(all)
			if what == "idle" {
				s.idle = 100 * time.Millisecond
			}
			s.fetch(all[0])
			leave(s)
			s.workers.Wait()
			s.leave.Store(nil)
			s.fetch(all[1])
			s.fetch(all[2])
			s.queued(all[3:11]...)
			s.killWorkers()
			if what == "idle" && !strings.Contains(s.workerLog.String(), "nothing was asked for in 100ms") {
				t.Errorf("%s", &s.workerLog)
			}
		})
	}
}

// TestGetIdleWhileMissing: to wait for a segment that does not come is to be idle.
func TestGetIdleWhileMissing(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 3)
	s.archive(all[:1])
	s.idle = 300 * time.Millisecond
	s.fetch(all[0])
	for range 3 {
		s.missing(all[1])
	}
	s.workers.Wait()
	s.missing(all[1])
	if n := s.starts.Load(); n != 1 {
		t.Errorf("%d workers were started", n)
	}
	s.archive(all[1:])
	s.fetch(all[1])
	s.queued(all[2])
}

func TestGetLock(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 12)
	s.archive(all)
	var held, taken, refused atomic.Int32
	refused.Store(3)
	s.lock = func(context.Context) (func() error, error) {
		if refused.Add(-1) >= 0 {
			return nil, errs.New(errs.LockAcquire, "held")
		}
		taken.Add(1)
		if held.Add(1) != 1 {
			t.Error("taken twice")
		}
		return func() error { held.Add(-1); return nil }, nil
	}
	free := func() {
		t.Helper()
		s.until(func() bool { return held.Load() == 0 }, func() string { return "the lock is held while there is nothing to do" })
	}
	s.fetch(all[0])
	s.queued(all[1:9]...)
	free()
	if n := taken.Load(); n != 1 {
		t.Errorf("the lock was taken %d times", n)
	}
	s.fetch(all[1])
	s.queued(all[2:10]...)
	free()
}

// TestGetSpoolTrouble: a spool that cannot be used costs nothing but the queue.
func TestGetSpoolTrouble(t *testing.T) {
	all := segments(1, 1, 12)
	t.Run("not a directory", func(t *testing.T) {
		s := newGetSite(t, 1)
		s.archive(all)
		s.spool.Path = filepath.Join(s.pg, "global", "pg_control", "demo")
		for _, name := range all[:3] {
			s.fetch(name)
		}
		s.missing(segments(1, 13, 1)[0])
		if n := s.log.count("unable to use the spool"); n != 4 {
			t.Errorf("%d warnings\n%s", n, &s.log)
		}
	})
	t.Run("full", func(t *testing.T) {
		s := newGetSite(t, 1)
		s.archive(all)
		s.mount("size=3584k")
		for _, name := range all {
			s.fetch(name)
		}
		s.missing(segments(1, 13, 1)[0])
		if n := s.workerLog.count("no space left on device"); n == 0 {
			t.Errorf("the log of the worker does not say it\n%s", &s.workerLog)
		}
		if n := s.asynchronous(); n == 0 {
			t.Error("nothing came from the queue")
		}
		s.killWorkers()
	})
	t.Run("read-only", func(t *testing.T) {
		s := newGetSite(t, 1)
		s.archive(all)
		s.mount("size=20m")
		s.fetch(all[0])
		s.queued(all[1:9]...)
		s.killWorkers()
		s.mount("remount,ro")
		s.noWorkers = true
		for _, name := range all[1:] {
			s.fetch(name)
		}
		s.missing(segments(1, 13, 1)[0])
	})
}

// TestGetOneWorker: of two workers the second goes.
func TestGetOneWorker(t *testing.T) {
	s := newGetSite(t, 1)
	all := segments(1, 1, 12)
	s.archive(all)
	s.fetch(all[0])
	s.queued(all[1:9]...)
	s.work()
	s.until(func() bool { return s.workerLog.count("another process fetches WAL ahead") == 1 }, s.workerLog.String)
	s.fetch(all[1])
	s.queued(all[2:10]...)
	if n := s.workerLog.count("found " + all[9]); n != 1 {
		t.Errorf("a segment was fetched %d times", n)
	}
}

// BenchmarkGetQueued is a segment that waits in the queue.
func BenchmarkGetQueued(b *testing.B) {
	s := newGetSite(b, 1)
	all := segments(1, 1, 3)
	s.archive(all[:2])
	s.fetch(all[0])
	queued := filepath.Join(s.spool.In(), all[1])
	for b.Loop() {
		b.StopTimer()
		s.write(queued, nil)
		b.StartTimer()
		if err := s.get().GetFile(b.Context(), all[1], s.target); err != nil {
			b.Fatal(err)
		}
	}
}
