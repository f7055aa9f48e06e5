package wal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/errs"
)

const asyncPushed = "INFO pushed WAL file '" + segA + "' to the archive asynchronously"

// TestAsyncPushAnswers is what PostgreSQL's side makes of files in the spool, without a worker
// that does anything.
func TestAsyncPushAnswers(t *testing.T) {
	type files = map[string]string
	const timedOut = "unable to push WAL file '" + segA + "' to the archive asynchronously after 0.02 second(s)\nHINT: check '/log/demo-archive-push-async.log' for errors."
	for _, test := range []struct {
		name   string
		before files // the call
		during files // what the worker that it starts writes
		want   string
		code   errs.Code
		log    []string
	}{
		{"acknowledged", files{segA + ".ok": ""}, nil, "", 0, []string{asyncPushed}},
		{"with a warning", files{segA + ".ok": "0\nit was there\nHINT: look\n"}, nil, "", 0, []string{"WARN it was there\nHINT: look", asyncPushed}},
		{"skipped", files{segA + ".ok": "44\nnot ours"}, nil, "", 0,
			[]string{"WARN WAL segment '" + segA + "' was not pushed due to error [44] and was manually skipped: not ours", asyncPushed}},
		{"no second line", files{segA + ".ok": "0"}, nil, segA + ".ok content must have at least two lines", errs.Format, nil},
		{"no message", files{segA + ".ok": "0\n"}, nil, segA + ".ok message must be > 0", errs.Format, nil},
		{"no code", files{segA + ".ok": "x\ny"}, nil, segA + ".ok must begin with the code of an error, not 'x'", errs.Format, nil},
		{"old errors", files{segA + ".error": "44\nold", "global.error": "103\nold"}, nil, timedOut, errs.ArchiveTimeout, nil},
		{"old errors, then acknowledged", files{segA + ".error": "44\nold", "global.error": "103\nold"}, files{segA + ".ok": ""},
			"", 0, []string{asyncPushed}},
		{"error", nil, files{segA + ".error": "44\nnot ours\nHINT: whose?"}, "not ours\nHINT: whose?", errs.ArchiveMismatch, nil},
		{"global error", nil, files{"global.error": "103\nno repository"}, "no repository", errs.RepoInvalid, nil},
		{"both", nil, files{segA + ".error": "44\nnot ours", "global.error": "103\nno repository"}, "not ours", errs.ArchiveMismatch, nil},
		{"acknowledged all the same", nil, files{segA + ".ok": "", segA + ".error": "44\nnot ours"}, "", 0, []string{asyncPushed}},
		{"error without content", nil, files{segA + ".error": ""}, "status file '" + segA + ".error' has no content", errs.Assert, nil},
		{"code of no error", nil, files{segA + ".error": "7\nodd"}, "odd", errs.Unknown, nil},
		{"another's", nil, files{segB + ".error": "44\nx", segB + ".ok": ""}, timedOut, errs.ArchiveTimeout, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newPushSite(t, 0)
			put := func(all files) {
				// In an order that no reader takes for less than the whole.
				for _, name := range []string{segA + ".ok", segA + ".error", "global.error", segB + ".ok", segB + ".error"} {
					if content, ok := all[name]; ok {
						s.write(filepath.Join(s.spool.Path, "new"), []byte(content))
						if err := os.Rename(filepath.Join(s.spool.Path, "new"), filepath.Join(s.spool.Out(), name)); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if test.before != nil {
				if err := os.MkdirAll(s.spool.Out(), 0o700); err != nil {
					t.Fatal(err)
				}
				put(test.before)
			}
			starts := 0
			push, stop := s.foreground()
			defer stop()
			push.Start = func(context.Context) error {
				starts++
				put(test.during)
				return nil
			}
			if test.code == errs.ArchiveTimeout {
				push.Timeout = 20 * time.Millisecond
			}
			err := push.Push(t.Context(), s.path(segA))
			if got := text(err); got != test.want || errs.CodeOf(err) != test.code {
				t.Errorf("[%d] %s, want [%d] %s", errs.CodeOf(err), got, test.code, test.want)
			}
			if log := s.log.clear(); !slices.Equal(log, test.log) {
				t.Errorf("log is %q", log)
			}
			if starts > 1 || starts == 0 && test.during != nil {
				t.Errorf("%d workers were started", starts)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A file that failed is tried again when PostgreSQL asks again, and only then; an operator
// may skip it.
func TestAsyncPushTriesAgain(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	r := s.repos[0]
	r.refuses = map[string]error{segA: errs.New(errs.FileWrite, "no space")}
	s.ready(segA, segB)
	push, stop := s.foreground()
	defer stop()
	const want = "archive-push command encountered error(s):\nrepo1: [FileWriteError] no space"
	for n := 1; n <= 2; n++ {
		if err := push.Push(t.Context(), s.path(segA)); text(err) != want || errs.CodeOf(err) != errs.Command {
			t.Fatalf("[%d] %v", errs.CodeOf(err), err)
		}
		if puts := r.tried(segA); puts != n {
			t.Errorf("%d tries after %d calls", puts, n)
		}
	}
	if err := push.Push(t.Context(), s.path(segB)); err != nil {
		t.Fatal(err)
	}
	r.set(func() { clear(r.refuses) })
	if err := push.Push(t.Context(), s.path(segA)); err != nil {
		t.Fatal(err)
	}
	if !r.has(s, segA, segB) {
		t.Error("not in the repository")
	}

	r.set(func() { r.refuses[segC] = errs.New(errs.FileWrite, "no space") })
	s.taken(segA, segB)
	s.ready(segC)
	if err := push.Push(t.Context(), s.path(segC)); text(err) != want {
		t.Fatal(err)
	}
	name := filepath.Join(s.spool.Out(), segC)
	if err := os.Rename(name+".error", name+".ok"); err != nil {
		t.Fatal(err)
	}
	s.log.clear()
	if err := push.Push(t.Context(), s.path(segC)); err != nil {
		t.Fatal(err)
	}
	const skipped = "WARN WAL segment '" + segC + "' was not pushed due to error [104] and was manually skipped: " + want
	if s.log.count(skipped) != 1 {
		t.Errorf("log:\n%s", s.log.String())
	}
	tries := r.tried(segC)
	s.ready("000000010000000000000008")
	if err := push.Push(t.Context(), s.path("000000010000000000000008")); err != nil {
		t.Fatal(err)
	}
	if r.tried(segC) != tries {
		t.Error("what was skipped is tried again")
	}
}

// While every repository is out of reach each call gets the error of its own try.
func TestAsyncPushAllGone(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	r := s.repos[0]
	r.gone = errHost
	s.ready(segA, segB, segC)
	push, stop := s.foreground()
	defer stop()
	for range 3 {
		err := push.Push(t.Context(), s.path(segA))
		if want := "unable to find a valid repository:\nrepo1: [HostConnectError] unable to connect to 'backup'"; text(err) != want {
			t.Fatal(err)
		}
	}
	r.set(func() { r.gone = errs.New(errs.HostConnect, "connection refused") })
	if err := push.Push(t.Context(), s.path(segA)); !strings.HasSuffix(text(err), "connection refused") {
		t.Fatalf("an older error: %v", err)
	}
	r.set(func() { r.gone = nil })
	if err := push.Push(t.Context(), s.path(segA)); err != nil {
		t.Fatal(err)
	}
	s.until("the rest is pushed without being asked for", func() bool { return s.hasOK(segB, segC) && len(s.out()) == 3 })
}

// A worker that died while the foreground waits is replaced.
func TestAsyncPushReplacesWorker(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	hangs := make(chan struct{})
	s.repos[0].hangs = hangs
	s.ready(segA)
	killed := s.start()
	s.until("it works", func() bool { return s.log.count("push 1 WAL") == 1 })
	push, stop := s.foreground()
	defer stop()
	pushed := make(chan error)
	go func() { pushed <- push.Push(t.Context(), s.path(segA)) }()
	killed()
	close(hangs)
	if err := <-pushed; err != nil {
		t.Fatal(err)
	}
}

// The spool is removed under the worker: it makes it anew, and so its acknowledgements.
func TestAsyncPushSpoolRemoved(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	s.ready(segA)
	push, stop := s.foreground()
	defer stop()
	if err := push.Push(t.Context(), s.path(segA)); err != nil {
		t.Fatal(err)
	}
	start := push.Start
	for range 3 {
		if err := os.RemoveAll(s.spool.Path); err != nil {
			t.Fatal(err)
		}
		s.until("it is there again", func() bool { return s.hasOK(segA) })
	}
	s.taken(segA)
	s.ready(segB)
	push.Start = func(context.Context) error { return errors.New("another worker is started") }
	if err := push.Push(t.Context(), s.path(segB)); err != nil {
		t.Fatal(err)
	}
	push.Start = start
}

// mount puts a small file system under the spool's answers.
func mount(s *pushSite, options string) (remount func(options string)) {
	s.t.Helper()
	if os.Getuid() != 0 {
		s.t.Skip("only root can mount")
	}
	if err := os.MkdirAll(s.spool.Out(), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", s.spool.Out(), "tmpfs", 0, options); err != nil {
		s.t.Skip(err)
	}
	s.t.Cleanup(func() {
		if err := syscall.Unmount(s.spool.Out(), syscall.MNT_DETACH); err != nil {
			s.t.Error(err)
		}
	})
	return func(options string) {
		s.t.Helper()
		flags, options := uintptr(syscall.MS_REMOUNT), options
		if options == "ro" {
			flags, options = flags|syscall.MS_RDONLY, ""
		}
		if err := syscall.Mount("tmpfs", s.spool.Out(), "tmpfs", flags, options); err != nil {
			s.t.Fatal(err)
		}
	}
}

// While nothing can be written into the spool PostgreSQL is told why, or waits; what is
// stored is acknowledged as soon as it can be, without being stored again.
func TestAsyncPushSpoolReadOnly(t *testing.T) {
	s := newPushSite(t, 1)
	remount := mount(s, "size=1m")
	s.worker.Idle = time.Minute
	s.ready(segA)
	push, stop := s.foreground()
	defer stop()
	if err := push.Push(t.Context(), s.path(segA)); err != nil {
		t.Fatal(err)
	}
	remount("ro")
	s.ready(segB)
	err := push.Push(t.Context(), s.path(segB))
	if !strings.HasPrefix(text(err), "unable to remove '"+s.spool.Out()+"/"+segB+".error': read-only file system\nHINT: ") {
		t.Error(err)
	}
	s.until("it is stored", func() bool { return s.repos[0].has(s, segB) })
	s.until("the log says why", func() bool { return strings.Contains(s.log.String(), segB+".ok' for write: read-only file system") })
	remount("size=1m")
	if err := push.Push(t.Context(), s.path(segB)); err != nil {
		t.Fatal(err)
	}
	if n := s.repos[0].tried(segB); n != 1 {
		t.Errorf("stored %d times", n)
	}
}

func TestAsyncPushSpoolFull(t *testing.T) {
	s := newPushSite(t, 1)
	remount := mount(s, "nr_inodes=2,mode=700") // itself, and one .ok
	s.worker.Idle = time.Minute
	s.ready(segA)
	push, stop := s.foreground()
	defer stop()
	if err := push.Push(t.Context(), s.path(segA)); err != nil {
		t.Fatal(err)
	}
	s.ready(segB)
	push.Timeout = 100 * time.Millisecond
	if err := push.Push(t.Context(), s.path(segB)); errs.CodeOf(err) != errs.ArchiveTimeout {
		t.Fatal(err)
	}
	s.until("the log says why", func() bool {
		return strings.Contains(s.log.String(), segB+".ok' for write: no space left on device\nHINT: the file system is full")
	})
	remount("nr_inodes=100")
	push.Timeout = time.Minute
	if err := push.Push(t.Context(), s.path(segB)); err != nil {
		t.Fatal(err)
	}
	if n := s.repos[0].tried(segB); n != 1 {
		t.Errorf("stored %d times", n)
	}
}

// Of two clusters with one spool the second is told so.
func TestAsyncPushOtherCluster(t *testing.T) {
	s := newPushSite(t, 1)
	s.worker.Idle = time.Minute
	s.ready(segA)
	defer s.start()()
	s.until("it works", func() bool { return s.hasOK(segA) })
	push, stop := s.foreground()
	defer stop()
	other := filepath.Join(t.TempDir(), "pg_wal")
	err := push.Push(t.Context(), filepath.Join(other, segB))
	want := "unable to push WAL from '" + other + "': the worker on '" + s.spool.Path + "' pushes WAL from '" + s.walDir() +
		"'\nHINT: two clusters on one host need a stanza or a spool-path each."
	if text(err) != want || errs.CodeOf(err) != errs.LockAcquire {
		t.Errorf("[%d] %v", errs.CodeOf(err), err)
	}
}

func TestAsyncPushRefuses(t *testing.T) {
	s := newPushSite(t, 1)
	push, stop := s.foreground()
	defer stop()
	err := push.Push(t.Context(), s.path("postgresql.conf"))
	if errs.CodeOf(err) != errs.Format || len(s.out()) > 0 {
		t.Error(err)
	}
	// A directory that no worker could serve is told at once, and none is started.
	push.Start = func(context.Context) error {
		t.Error("a worker was started")
		return nil
	}
	other := filepath.Join(t.TempDir(), "pg_wal")
	err = push.Push(t.Context(), filepath.Join(other, segA))
	want := "unable to list file info for missing path '" + other + "/archive_status'\nHINT: is '" + other + "' the WAL directory of a cluster?"
	if text(err) != want || errs.CodeOf(err) != errs.PathMissing {
		t.Errorf("[%d] %v", errs.CodeOf(err), err)
	}
	// So is a spool that cannot be made.
	if err := os.RemoveAll(s.spool.Path); err != nil {
		t.Fatal(err)
	}
	s.write(s.spool.Path, nil)
	if err := push.Push(t.Context(), s.path(segA)); errs.CodeOf(err) != errs.PathCreate && errs.CodeOf(err) != errs.FileOpen {
		t.Errorf("[%d] %v", errs.CodeOf(err), err)
	}
}

func FuzzStatus(f *testing.F) {
	for _, seed := range []string{"", "0\nwarning", "45\nother\nHINT: x\n", "0", "0\n", "x\ny", "-1\ny", "99999999999999999999\ny"} {
		f.Add(seed)
	}
	spool := wal.Spool{Path: f.TempDir()}
	if err := os.MkdirAll(spool.Out(), 0o700); err != nil {
		f.Fatal(err)
	}
	push := wal.AsyncPush{Spool: spool, Log: discard()}
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(filepath.Join(spool.Out(), segA+".ok"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := push.Push(t.Context(), "/pg/pg_wal/"+segA)
		if err != nil && errs.CodeOf(err) != errs.Format {
			t.Errorf("[%d] %v", errs.CodeOf(err), err)
		}
		if code, message, ok := strings.Cut(content, "\n"); ok && code == "0" && message != "" && err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkAsyncPush is the way to an acknowledgement that is there.
func BenchmarkAsyncPush(b *testing.B) {
	spool := wal.Spool{Path: b.TempDir()}
	if err := os.MkdirAll(spool.Out(), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(spool.Out(), segA+".ok"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	push := wal.AsyncPush{Spool: spool, Log: discard()}
	for b.Loop() {
		if err := push.Push(b.Context(), "/pg/pg_wal/"+segA); err != nil {
			b.Fatal(err)
		}
	}
}
