package wal_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// segmentBytes is the size of the segments of the cluster that pg_control in the tests is of.
const segmentBytes = 1 << 20

// source is an archive to get WAL from: a real repository, which may be out of reach.
type source struct {
	*repo.Repo
	path string
	gone *atomic.Bool
	slow chan struct{} // not nil: nothing is read before it is closed
}

func (s source) Cluster(context.Context) (wal.Cluster, error) {
	return wal.Cluster{}, errors.ErrUnsupported
}

func (s source) Put(context.Context, wal.File) (wal.Stored, error) { return 0, errors.ErrUnsupported }

func (s source) Find(ctx context.Context, c wal.Cluster, name string) ([]wal.Copy, error) {
	if s.gone.Load() {
		return nil, errs.New(errs.HostConnect, "the repository is out of reach")
	}
	ids, err := s.ArchiveIDs(ctx, repo.Cluster(c))
	if err != nil {
		return nil, err
	}
	files, err := s.FindWAL(ctx, ids, name)
	var copies []wal.Copy
	for _, f := range files {
		copies = append(copies, wal.Copy{
			ArchiveID: f.ID.String(), Path: f.Path(), SHA1: f.SHA1,
			Open: func(ctx context.Context, size int64) (io.ReadCloser, error) {
				if s.slow != nil {
					select {
					case <-s.slow:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				return s.OpenWAL(ctx, f, size)
			},
		})
	}
	return copies, err
}

// getSite is a host that recovers, with the repositories it gets WAL from.
type getSite struct {
	t       testing.TB
	pg      string
	spool   wal.Spool
	target  string
	sources []source // of archive-get
	ahead   []source // of workers; nil: the same
	control postgres.Control

	window    int64
	processes int
	idle      time.Duration
	leave     atomic.Pointer[string]

	starts    atomic.Int32
	noWorkers bool // none can be started
	strict    bool
	lock      func(context.Context) (func() error, error)
	ctx       context.Context
	kill      context.CancelFunc // ends the workers as if they were killed
	workers   sync.WaitGroup
	log       lines // of archive-get
	workerLog lines
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newGetSite(t testing.TB, repositories int) *getSite {
	t.Helper()
	dir := t.TempDir()
	s := &getSite{t: t, window: 8 * segmentBytes, processes: 3, idle: time.Minute}
	s.atHost(dir)
	for n := range repositories {
		path := filepath.Join(dir, fmt.Sprintf("repo%d", n+1))
		store, err := posix.New(path, posix.Create)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		r := repo.New(store, repo.Config{Key: n + 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond})
		if err := r.Init(t.Context(), s.control); err != nil {
			t.Fatal(err)
		}
		s.sources = append(s.sources, source{Repo: r, path: path, gone: new(atomic.Bool)})
	}
	return s
}

// atHost makes the data directory and the spool below dir.
func (s *getSite) atHost(dir string) {
	s.t.Helper()
	s.pg, s.target = filepath.Join(dir, "pg"), filepath.Join(dir, "pg", "pg_wal", "RECOVERYXLOG")
	s.spool = wal.Spool{Path: filepath.Join(dir, "spool", "archive", "demo")}
	control, err := os.ReadFile("../../internal/postgres/testdata/control/18-1.bin")
	if err != nil {
		s.t.Fatal(err)
	}
	if s.control, err = postgres.ParseControl(control); err != nil {
		s.t.Fatal(err)
	}
	if s.control.WALSegmentSize != segmentBytes {
		s.t.Fatalf("segments have %d bytes", s.control.WALSegmentSize)
	}
	for _, sub := range []string{"global", "pg_wal"} {
		if err := os.MkdirAll(filepath.Join(s.pg, sub), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write(filepath.Join(s.pg, "global", "pg_control"), control)
	s.revive()
	s.t.Cleanup(s.killWorkers)
}

// other is a second recovery from the same repositories with the same spool.
func (s *getSite) other() *getSite {
	o := &getSite{t: s.t, window: s.window, processes: s.processes, idle: s.idle, sources: s.sources}
	o.atHost(s.t.TempDir())
	o.spool = s.spool
	return o
}

// revive lets workers live again.
func (s *getSite) revive() { s.ctx, s.kill = context.WithCancel(context.WithoutCancel(s.t.Context())) }

func (s *getSite) killWorkers() {
	s.kill()
	s.workers.Wait()
}

func (s *getSite) write(name string, content []byte) {
	s.t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *getSite) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// mount puts the spool on a file system of its own, or changes that.
func (s *getSite) mount(options string) {
	s.t.Helper()
	dir := filepath.Dir(filepath.Dir(s.spool.Path))
	flags := uintptr(0)
	if options == "remount,ro" {
		flags, options = syscall.MS_REMOUNT|syscall.MS_RDONLY, ""
	} else {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() {
			s.killWorkers()
			if err := syscall.Unmount(dir, 0); err != nil {
				s.t.Error(err)
			}
		})
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		if os.Getuid() != 0 {
			s.t.Skip("only root may mount")
		}
		s.t.Fatal(err)
	}
}

// content is what a WAL file of that name is in the tests.
func content(name string) []byte {
	size := segmentBytes
	if strings.HasSuffix(name, ".history") {
		size = 100
	}
	b := make([]byte, size)
	sum := sha1.Sum([]byte(name))
	random := rand.NewChaCha8([32]byte(append(sum[:], make([]byte, 12)...)))
	_, _ = random.Read(b[:min(size, 8<<10)]) // never fails
	return b
}

// archive puts files into repositories, by number, or into all. Not through the repository, which
// would make each of them durable.
func (s *getSite) archive(names []string, into ...int) {
	s.t.Helper()
	for n, r := range s.sources {
		if len(into) > 0 && into[0] != n+1 {
			continue
		}
		for _, name := range names {
			stored := name
			if !strings.HasSuffix(name, ".history") {
				stored = format.SegmentFile(name, sha1.Sum(content(name)), "")
			}
			file := filepath.Join(r.path, format.ArchivePath("demo", format.ArchiveID{Version: "18", ID: 1}, stored))
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				s.t.Fatal(err)
			}
			s.write(file, content(name))
		}
	}
}

// damage changes a byte of a segment in a repository.
func (s *getSite) damage(name string, repository int) {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.sources[repository-1].path, "archive/demo/18-1", name[:16], name+"-*"))
	if err != nil || len(found) != 1 {
		s.t.Fatalf("%q, %v", found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		s.t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	s.write(found[0], b)
}

// damageAny is damage in one repository, or all for 0, if the segment is there.
func (s *getSite) damageAny(name string, repository int) {
	for n, r := range s.sources {
		found, _ := filepath.Glob(filepath.Join(r.path, "archive/demo/18-1", name[:16], name+"-*"))
		if len(found) == 1 && (repository == 0 || repository == n+1) {
			s.damage(name, n+1)
		}
	}
}

// segments gives n names from the one with that number on.
func segments(timeline, from, n int) []string {
	var names []string
	for i := range n {
		names = append(names, postgres.SegmentName(postgres.Timeline(timeline), postgres.LSN((from+i)*segmentBytes), segmentBytes))
	}
	return names
}

func archives(sources []source) []wal.Archive {
	var all []wal.Archive
	for _, r := range sources {
		all = append(all, r)
	}
	return all
}

func (s *getSite) get() wal.AsyncGet {
	return wal.AsyncGet{
		Get:     wal.Get{Archives: archives(s.sources), PGPath: s.pg, Strict: s.strict, Log: s.log.logger()},
		Spool:   s.spool,
		Timeout: time.Minute,
		Start: func(context.Context) error {
			s.starts.Add(1)
			if s.noWorkers {
				return errs.New(errs.Execute, "unable to execute")
			}
			s.work()
			return nil
		},
	}
}

// work starts a worker.
func (s *getSite) work() {
	ctx, sources := s.ctx, s.ahead
	if sources == nil {
		sources = s.sources
	}
	w := &wal.GetWorker{
		Spool: s.spool, PGPath: s.pg, Archives: func() []wal.Archive { return archives(sources) }, Processes: s.processes, QueueMax: s.window,
		Idle: s.idle, Poll: 20 * time.Millisecond,
		Leave: func() string {
			if reason := s.leave.Load(); reason != nil {
				return *reason
			}
			return ""
		},
		Lock: s.lock, Log: s.workerLog.logger(),
	}
	s.workers.Go(func() {
		if err := w.Run(ctx); err != nil && ctx.Err() == nil {
			s.t.Errorf("worker: %v", err)
		}
	})
}

// fetch gets a file, which must be there.
func (s *getSite) fetch(name string) {
	s.t.Helper()
	if err := s.try(name); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, &s.log)
	}
}

// try gets a file. What appears must be right, and nothing else may.
func (s *getSite) try(name string) error {
	s.t.Helper()
	return s.tried(name, s.get().GetFile(s.t.Context(), name, s.target))
}

// trySync is try without a queue.
func (s *getSite) trySync(name string) error {
	s.t.Helper()
	return s.tried(name, wal.GetFile(s.t.Context(), s.get().Get, name, s.target))
}

func (s *getSite) tried(name string, err error) error {
	s.t.Helper()
	got, rerr := os.ReadFile(s.target)
	switch {
	case err == nil && rerr != nil:
		s.t.Fatalf("%s was given and is not there: %v", name, rerr)
	case err == nil && !bytes.Equal(got, content(name)):
		s.t.Fatalf("what was given as %s is not its content", name)
	case err != nil && rerr == nil:
		s.t.Fatalf("%s was given although %v", name, err)
	}
	if err == nil {
		_ = os.Remove(s.target)
	}
	left, gerr := os.ReadDir(filepath.Dir(s.target))
	if gerr != nil || len(left) > 0 {
		s.t.Fatalf("%s leaves %v, %v", name, left, gerr)
	}
	return err
}

func (s *getSite) missing(name string) {
	s.t.Helper()
	if err := s.try(name); !errors.Is(err, wal.ErrMissing) {
		s.t.Fatalf("%s: %v", name, err)
	}
}

// queued waits until the queue is these segments and nothing else.
func (s *getSite) queued(names ...string) {
	s.t.Helper()
	want := strings.Join(names, " ")
	var got string
	s.until(func() bool {
		entries, err := os.ReadDir(s.spool.In())
		if err != nil {
			return false
		}
		var list []string
		for _, e := range entries {
			if e.Name() != "owner" && e.Name() != "request" {
				list = append(list, e.Name())
			}
		}
		got = strings.Join(list, " ")
		return got == want
	}, func() string { return "queue is " + got + "\nand not  " + want + "\n" + s.workerLog.String() })
}

// until waits for a condition.
func (s *getSite) until(ok func() bool, why func() string) {
	s.t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for limit := time.After(20 * time.Second); !ok(); {
		select {
		case <-look.C:
		case <-limit:
			s.t.Fatal(why())
		}
	}
}

// asynchronous gives how many segments came from the queue.
func (s *getSite) asynchronous() int {
	n := 0
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "found ") && strings.Contains(line, " asynchronously") && !strings.Contains(line, "unable") {
			n++
		}
	}
	return n
}
