package wal_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/errs"
)

const (
	segA = "000000010000000000000005"
	segB = "000000010000000000000006"
	segC = "000000010000000000000007"
)

var errHost = errs.New(errs.HostConnect, "unable to connect to 'backup'")

// TestPushWorkerSpool is what a worker leaves in the spool and says, in one run.
func TestPushWorkerSpool(t *testing.T) {
	const (
		detail  = "DEBUG+2 "
		pushed  = detail + "pushed WAL file '%s' to the archive"
		again   = "WAL file '" + segA + "' already exists in the repo1 archive with the same checksum\nHINT: this is valid in some recovery scenarios but may also indicate a problem."
		retried = "WARN could not push WAL file '%s' to the archive (will be retried): [%d] %s"
	)
	type files = map[string]string
	limit := func(n int64) *int64 { return &n }
	for _, test := range []struct {
		name    string
		repos   int
		prepare func(*pushSite)
		want    files    // in out
		log     []string // sorted as the rest is
	}{
		{"stored", 1, func(s *pushSite) { s.ready(segA, segB) },
			files{segA + ".ok": "", segB + ".ok": ""},
			[]string{"INFO push 2 WAL file(s) to archive: " + segA + "..." + segB, fmt.Sprintf(pushed, segA), fmt.Sprintf(pushed, segB)}},
		{"one", 1, func(s *pushSite) { s.ready(segA) }, files{segA + ".ok": ""},
			[]string{"INFO push 1 WAL file(s) to archive: " + segA, fmt.Sprintf(pushed, segA)}},
		{"there already", 1, func(s *pushSite) {
			s.ready(segA)
			s.run()
			s.log.clear()
			if err := os.RemoveAll(s.spool.Path); err != nil {
				s.t.Fatal(err)
			}
		}, files{segA + ".ok": "0\n" + again},
			[]string{"INFO push 1 WAL file(s) to archive: " + segA, "WARN " + again, fmt.Sprintf(pushed, segA)}},
		{"other content", 1, func(s *pushSite) {
			s.ready(segA)
			s.run()
			s.log.clear()
			if err := os.RemoveAll(s.spool.Path); err != nil {
				s.t.Fatal(err)
			}
			s.write(s.path(segA), append(s.content(segA)[:walSegment-1], 1))
		}, files{segA + ".error": "45\nWAL file '" + segA + "' already exists in the repo1 archive with a different checksum"},
			[]string{"INFO push 1 WAL file(s) to archive: " + segA,
				fmt.Sprintf(retried, segA, 45, "WAL file '"+segA+"' already exists in the repo1 archive with a different checksum")}},
		{"no segment, and others after it", 1, func(s *pushSite) {
			s.ready(segA, segB)
			s.write(s.path(segA), []byte("short"))
		}, files{segA + ".error": "29\nWAL file 'PG/pg_wal/" + segA + "': WAL segment has 5 bytes, fewer than the 40 of its header", segB + ".ok": ""},
			[]string{"INFO push 2 WAL file(s) to archive: " + segA + "..." + segB, fmt.Sprintf(pushed, segB),
				fmt.Sprintf(retried, segA, 29, "WAL file 'PG/pg_wal/"+segA+"': WAL segment has 5 bytes, fewer than the 40 of its header")}},
		{"refused by one of two", 2, func(s *pushSite) {
			s.ready(segA)
			s.repos[1].refuses = map[string]error{segA: errs.New(errs.FileWrite, "no space")}
		}, files{segA + ".error": "104\narchive-push command encountered error(s):\nrepo2: [FileWriteError] no space"},
			[]string{"INFO push 1 WAL file(s) to archive: " + segA,
				fmt.Sprintf(retried, segA, 104, "archive-push command encountered error(s):\nrepo2: [FileWriteError] no space")}},
		{"one of two out of reach", 2, func(s *pushSite) {
			s.ready(segA)
			s.repos[0].gone = errHost
		}, files{segA + ".error": "104\narchive-push command encountered error(s):\nrepo1: [HostConnectError] unable to connect to 'backup'"},
			[]string{"INFO push 1 WAL file(s) to archive: " + segA,
				fmt.Sprintf(retried, segA, 104, "archive-push command encountered error(s):\nrepo1: [HostConnectError] unable to connect to 'backup'")}},
		{"all out of reach", 2, func(s *pushSite) {
			s.ready(segA, segB, segC)
			s.repos[0].gone = errHost
			s.repos[1].gone = errHost
		}, files{"global.error": "103\nunable to find a valid repository:\nrepo1: [HostConnectError] unable to connect to 'backup'\nrepo2: [HostConnectError] unable to connect to 'backup'"},
			[]string{"INFO push 3 WAL file(s) to archive: " + segA + "..." + segC,
				"ERROR unable to find a valid repository:\nrepo1: [HostConnectError] unable to connect to 'backup'\nrepo2: [HostConnectError] unable to connect to 'backup'"}},
		{"no pg_control", 1, func(s *pushSite) {
			s.ready(segA)
			if err := os.Remove(filepath.Join(s.pg, "global", "pg_control")); err != nil {
				s.t.Fatal(err)
			}
		}, files{"global.error": "55\nunable to read pg_control: open PG/global/pg_control: no such file or directory\nHINT: is 'PG' the data directory of the cluster?"},
			[]string{"ERROR unable to read pg_control: open PG/global/pg_control: no such file or directory\nHINT: is 'PG' the data directory of the cluster?"}},
		{"too much waits", 1, func(s *pushSite) {
			s.ready(segA, segB, "00000002.history", segA+".00000028.backup")
			s.worker.Push.QueueMax = limit(4<<20 - 1)
		}, files{
			segA + ".ok":                 "0\ndropped WAL file '" + segA + "' because archive queue exceeded 4MB",
			segA + ".00000028.backup.ok": "0\ndropped WAL file '" + segA + ".00000028.backup' because archive queue exceeded 4MB",
			segB + ".ok":                 "0\ndropped WAL file '" + segB + "' because archive queue exceeded 4MB",
			"00000002.history.ok":        "",
		}, []string{"INFO push 3 WAL file(s) to archive: " + segA + "..." + segB,
			"WARN dropped WAL file '" + segA + "' because archive queue exceeded 4MB",
			"WARN dropped WAL file '" + segA + ".00000028.backup' because archive queue exceeded 4MB",
			"WARN dropped WAL file '" + segB + "' because archive queue exceeded 4MB",
			"INFO push 1 WAL file(s) to archive: 00000002.history", fmt.Sprintf(pushed, "00000002.history")}},
		{"not too much", 1, func(s *pushSite) {
			s.ready(segA, segB)
			s.worker.Push.QueueMax = limit(2 << 20)
		}, files{segA + ".ok": "", segB + ".ok": ""},
			[]string{"INFO push 2 WAL file(s) to archive: " + segA + "..." + segB, fmt.Sprintf(pushed, segA), fmt.Sprintf(pushed, segB)}},
		{"what others left", 1, func(s *pushSite) {
			s.ready(segA, segB)
			left := files{
				segA + ".error": "45\nolder", "global.error": "103\nolder", segB + ".ok": "", // told, not taken
				segC + ".ok": "", segC + ".error": "1\nx", // taken
				segA + ".ok.pgbackrest.tmp": "",
			}
			for name, content := range left {
				s.write(filepath.Join(s.spool.Out(), name), []byte(content))
			}
		}, files{segA + ".ok": "", segB + ".ok": ""},
			[]string{"INFO push 1 WAL file(s) to archive: " + segA, fmt.Sprintf(pushed, segA)}},
		{"batches, in PostgreSQL's order", 1, func(s *pushSite) {
			s.worker.BatchSize, s.worker.Processes = 2<<20, 1
			s.ready("000000020000000000000007", "00000002.history", segA, segB+".partial", segA+".00000028.backup")
		}, files{"000000020000000000000007.ok": "", "00000002.history.ok": "", segA + ".ok": "", segB + ".partial.ok": "", segA + ".00000028.backup.ok": ""},
			[]string{
				"INFO push 2 WAL file(s) to archive: 00000002.history..." + segA,
				fmt.Sprintf(pushed, "00000002.history"), fmt.Sprintf(pushed, segA),
				"INFO push 2 WAL file(s) to archive: " + segA + ".00000028.backup..." + segB + ".partial",
				fmt.Sprintf(pushed, segA+".00000028.backup"), fmt.Sprintf(pushed, segB+".partial"),
				"INFO push 1 WAL file(s) to archive: 000000020000000000000007", fmt.Sprintf(pushed, "000000020000000000000007")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newPushSite(t, test.repos)
			test.prepare(s)
			s.run()
			plain := func(text string) string { return strings.ReplaceAll(text, s.pg, "PG") }
			got := files{}
			for name, content := range s.out() {
				got[name] = plain(content)
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("spool holds\n%q, want\n%q", got, test.want)
			}
			log := s.log.clear()
			log = slices.DeleteFunc(log, func(line string) bool { return line == detail+"nothing to push, leaving" })
			for i := range log {
				log[i] = plain(log[i])
			}
			want := test.log
			if s.worker.Processes > 1 {
				slices.Sort(log)
				slices.Sort(want)
			}
			if !slices.Equal(log, want) {
				t.Errorf("log is\n%s\nwant\n%s", strings.Join(log, "\n"), strings.Join(want, "\n"))
			}
			for name, content := range got {
				if file, ok := strings.CutSuffix(name, ".ok"); ok && !strings.Contains(content, "dropped") && test.name != "what others left" {
					for _, r := range s.repos {
						if !r.has(s, file) {
							t.Errorf("%s does not have %s", r.Name(), file)
						}
					}
				}
			}
		})
	}
}

// A drop is on record, with runs of what follows one another.
func TestPushWorkerRecordsDrops(t *testing.T) {
	s := newPushSite(t, 1)
	limit := int64(1)
	s.worker.Push.QueueMax = &limit
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s.worker.Push.Now = func() time.Time { return at }
	s.ready(segA, segB, segB+".00000028.backup", segC, "000000010000000000000009", "000000020000000000000009")
	s.run()
	drops, err := s.worker.Push.Ledger.Drops()
	if err != nil {
		t.Fatal(err)
	}
	var want []wal.Drop
	for _, r := range [][2]string{{segA, segC}, {"000000010000000000000009", "000000010000000000000009"},
		{"000000020000000000000009", "000000020000000000000009"}, {segB + ".00000028.backup", segB + ".00000028.backup"}} {
		want = append(want, wal.Drop{From: r[0], To: r[1], At: at, Queue: 6 << 20, Limit: 1})
	}
	if !reflect.DeepEqual(drops, want) {
		t.Errorf("recorded\n%+v, want\n%+v", drops, want)
	}
	if s.repos[0].has(s, segA) {
		t.Error("what is dropped was stored")
	}

	// What cannot be recorded is not dropped, but pushed as before.
	s = newPushSite(t, 1)
	s.worker.Push.QueueMax = &limit
	s.worker.Push.Ledger.Path = filepath.Join(s.path(segA), "no", "directory")
	s.ready(segA)
	s.run()
	if !s.repos[0].has(s, segA) || s.out()[segA+".ok"] != "" || s.log.count("ERROR unable to record dropped WAL") != 1 {
		t.Errorf("spool %q, log:\n%s", s.out(), s.log.String())
	}
}

// A repository that hangs does not keep the other from any file, and one that has the
// files is not asked to take them again.
func TestPushWorkerOneHangs(t *testing.T) {
	s := newPushSite(t, 2)
	s.worker.BatchSize = 3 << 20
	s.worker.Idle = time.Minute
	hangs := make(chan struct{})
	s.repos[1].hangs = hangs
	var names []string
	for n := range 12 {
		names = append(names, segmentName(1, 16+n))
	}
	s.ready(names...)
	defer s.start()()
	s.until("one repository has all", func() bool { return s.repos[0].has(s, names...) })
	if out := s.out(); len(out) > 0 {
		t.Errorf("spool holds %q", out)
	}
	close(hangs)
	s.until("all is acknowledged", func() bool { return s.hasOK(names...) })
	if !s.repos[1].has(s, names...) {
		t.Error("acknowledged before it was everywhere")
	}
	for _, r := range s.repos {
		for name, n := range r.puts {
			if n != 1 {
				t.Errorf("%s was given %s %d times", r.Name(), name, n)
			}
		}
	}
}

// A repository out of reach does not keep the other from any file; it is not tried with
// each of them, and when it is back gets all without being asked for each.
func TestPushWorkerOneGone(t *testing.T) {
	s := newPushSite(t, 2)
	s.worker.BatchSize = 3 << 20
	s.worker.Idle = time.Minute
	s.repos[1].gone = errHost
	var names []string
	for n := range 12 {
		names = append(names, segmentName(1, 16+n))
	}
	s.ready(names...)
	push, stop := s.foreground()
	defer stop()
	err := push.Push(t.Context(), s.path(names[0]))
	if err == nil || err.Error() != "archive-push command encountered error(s):\nrepo2: [HostConnectError] unable to connect to 'backup'" {
		t.Fatal(err)
	}
	s.until("one repository has all, and PostgreSQL is told", func() bool { return s.repos[0].has(s, names...) && len(s.out()) == len(names) })
	if n := s.log.count("WARN could not push"); n > 4 {
		t.Errorf("%d warnings", n)
	}
	s.repos[1].set(func() { s.repos[1].gone = nil })
	if err := push.Push(t.Context(), s.path(names[0])); err != nil {
		t.Fatal(err)
	}
	s.until("all is acknowledged, and no error left", func() bool { return s.hasOK(names...) && len(s.out()) == len(names) })
	if !s.repos[1].has(s, names...) {
		t.Error("acknowledged before it was everywhere")
	}
	for name, n := range s.repos[0].puts {
		if n != 1 {
			t.Errorf("repo1 was given %s %d times", name, n)
		}
	}
}

// A repository that refuses every file is held to be out of order after a few.
func TestPushWorkerRefusesAll(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Processes = 1
	var names []string
	refuses := map[string]error{}
	for n := range 50 {
		names = append(names, segmentName(1, 16+n))
		refuses[names[n]] = errs.New(errs.FileWrite, "no space for '%s'", names[n])
	}
	s.repos[0].refuses = refuses
	s.ready(names...)
	s.run()
	if n := len(s.repos[0].puts); n != 3 && n != 3+1 { // one may be on its way when the third is refused
		t.Errorf("%d files were tried", n)
	}
	if got := s.out(); len(got) != len(names) || got[names[0]+".error"] !=
		"104\narchive-push command encountered error(s):\nrepo1: [FileWriteError] no space for '"+names[0]+"'" {
		t.Errorf("spool holds %q", sortedKeys(got))
	}
	s.repos[0].refuses = nil
	s.run()
	if !s.hasOK(names...) || !s.repos[0].has(s, names...) {
		t.Errorf("spool holds %q", sortedKeys(s.out()))
	}
}

// While it waits for work the worker holds no lock, and finds what becomes ready.
func TestPushWorkerIdle(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	defer s.start()()
	s.ready(segA)
	s.until("the first is acknowledged", func() bool { return s.hasOK(segA) })
	s.until("the lock is free", func() bool {
		free := s.held.TryLock()
		if free {
			s.held.Unlock()
		}
		return free
	})
	s.taken(segA)
	s.ready(segB)
	s.until("the second is acknowledged, and the first forgotten", func() bool { return s.hasOK(segB) && len(s.out()) == 1 })
}

func TestPushWorkerEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*pushSite, *atomic.Pointer[string])
		log  string
	}{
		{"reason to leave", func(_ *pushSite, leave *atomic.Pointer[string]) {
			why := "the configuration was changed"
			leave.Store(&why)
		},
			"INFO leaving: the configuration was changed"},
		{"WAL directory gone", func(s *pushSite, _ *atomic.Pointer[string]) {
			if err := os.Rename(s.pg, s.pg+".old"); err != nil {
				s.t.Fatal(err)
			}
		}, "INFO leaving: the WAL directory "},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newPushSite(t, 1)
			s.worker.Idle = time.Hour
			var leave atomic.Pointer[string]
			s.worker.Leave = func() string {
				if why := leave.Load(); why != nil {
					return *why
				}
				return ""
			}
			ended := make(chan error)
			go func() { ended <- s.worker.Run(t.Context()) }()
			s.ready(segA)
			s.until("it works", func() bool { return s.hasOK(segA) })
			test.end(s, &leave)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if s.log.count(test.log) != 1 {
				t.Errorf("log:\n%s", s.log.String())
			}
		})
	}
}

// Another command's lock is waited for.
func TestPushWorkerWaitsForLock(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	var free atomic.Bool
	s.worker.Lock = func(context.Context) (func() error, error) {
		if !free.Load() {
			return nil, errs.New(errs.LockAcquire, "unable to acquire lock on file '/lock/demo-archive-1.lock': %w", syscall.EWOULDBLOCK)
		}
		return func() error { return nil }, nil
	}
	s.ready(segA)
	defer s.start()()
	const line = "INFO waiting for another command: unable to acquire lock on file '/lock/demo-archive-1.lock': resource temporarily unavailable"
	s.until("it waits", func() bool { return s.log.count(line) == 1 })
	if s.repos[0].tried(segA) > 0 || len(s.out()) > 0 {
		t.Errorf("it did not wait: %q", s.out())
	}
	free.Store(true)
	s.until("it pushes", func() bool { return s.hasOK(segA) })
	if s.log.count(line) != 1 {
		t.Errorf("log:\n%s", s.log.String())
	}
}

// Two workers on one spool: one leaves. Two that are there all the same do no harm.
func TestPushWorkerTwo(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	s.worker.Lock = func(context.Context) (func() error, error) { return func() error { return nil }, nil }
	hangs := make(chan struct{})
	s.repos[0].hangs = hangs
	var names []string
	for n := range 20 {
		names = append(names, segmentName(1, 16+n))
	}
	s.ready(names...)
	stop := s.start()
	s.until("the first works", func() bool { return s.log.count("push 20 WAL file(s)") == 1 })
	s.run() // at once

	// Each with a claim on a directory of its own, at the same place.
	if err := os.Rename(s.spool.Path, s.spool.Path+".old"); err != nil {
		t.Fatal(err)
	}
	other := s.start()
	s.until("the second works", func() bool { return s.log.count("push 20 WAL file(s)") == 2 })
	close(hangs)
	s.until("all is acknowledged", func() bool { return s.hasOK(names...) })
	if !s.repos[0].has(s, names...) {
		t.Error("files are missing")
	}
	s.until("one of them leaves", func() bool { return s.log.count("INFO leaving: another worker serves the spool") == 1 })
	other()
	stop()
}

// Killed at any moment, a worker has acknowledged nothing that is not in the repositories.
func TestPushWorkerKilled(t *testing.T) {
	s := newPushSite(t, 2)
	var names []string
	for n := range 12 {
		names = append(names, segmentName(1, 16+n))
	}
	s.ready(names...)
	seen := map[string]bool{}
	for round := 0; !s.hasOK(names...); round++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(10+3*round)*time.Millisecond)
		err := s.worker.Run(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		for name := range s.out() {
			file, ok := strings.CutSuffix(name, ".ok")
			if !ok || seen[file] {
				continue
			}
			seen[file] = true
			for _, r := range s.repos {
				if !r.has(s, file) {
					t.Fatalf("%s does not have %s", r.Name(), file)
				}
			}
		}
	}
}

// Other clusters' work counts for nothing: a data directory made anew has the names of the old.
func TestPushWorkerOtherCluster(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	defer s.start()()
	s.ready(segA)
	s.until("the first is acknowledged", func() bool { return s.hasOK(segA) })
	s.write(filepath.Join(s.pg, "global", "pg_control"), s.read(samples+"control/13-1.bin"))
	s.ready(segB)
	s.until("an error", func() bool { return s.out()["global.error"] != "" })
	if got := s.out()["global.error"]; !strings.Contains(got, "repo1: [ArchiveMismatchError] PostgreSQL version 13, system-id ") {
		t.Error(got)
	}
}
