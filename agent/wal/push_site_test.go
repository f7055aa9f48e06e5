package wal_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// The cluster that pushes is that of these samples, with segments of 1 MiB.
const (
	samples    = "../../internal/postgres/testdata/"
	walSegment = 1 << 20
)

// segmentName gives the name of the nth segment of a timeline.
func segmentName(timeline postgres.Timeline, n int) string {
	return postgres.SegmentName(timeline, postgres.LSN(n)*walSegment, walSegment)
}

// pushSite is a host that archives, with its repositories.
type pushSite struct {
	t     *testing.T
	pg    string
	spool wal.Spool
	repos []*pushRepo
	log   pushLog

	worker wal.PushWorker // as run starts it
	held   sync.Mutex     // stands for the lock of the stanza
}

func newPushSite(t *testing.T, repositories int) *pushSite {
	t.Helper()
	dir := t.TempDir()
	s := &pushSite{t: t, pg: filepath.Join(dir, "pg"), spool: wal.Spool{Path: filepath.Join(dir, "spool", "archive", "demo")}}
	content := s.read(samples + "control/18-1.bin")
	s.write(filepath.Join(s.pg, "global", "pg_control"), content)
	if err := os.MkdirAll(filepath.Join(s.walDir(), "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	control, err := postgres.ParseControl(content)
	if err != nil {
		t.Fatal(err)
	}
	s.worker = wal.PushWorker{
		Spool: s.spool, WALDir: s.walDir(), Processes: 2, BatchSize: 1 << 30,
		Push: wal.Push{
			PGPath: s.pg, HeaderCheck: true, ModeCheck: true, SizeText: logging.Size, Now: time.Now,
			Ledger: wal.Ledger{Path: s.spool.Path + ".dropped"}, Log: slog.New(&s.log),
		},
		Lock: func(context.Context) (func() error, error) {
			s.held.Lock()
			return func() error { s.held.Unlock(); return nil }, nil
		},
	}
	for n := range repositories {
		path := filepath.Join(dir, fmt.Sprintf("repo%d", n+1))
		store, err := posix.New(path, posix.Create)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		r := &pushRepo{path: path, Repo: repo.New(store, repo.Config{Key: n + 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond})}
		if err := r.Init(t.Context(), control); err != nil {
			t.Fatal(err)
		}
		s.repos = append(s.repos, r)
		s.worker.Repos = append(s.worker.Repos, wal.Repository{Open: func() wal.Archive { return &pushArchive{pushRepo: r} }})
	}
	return s
}

func (s *pushSite) walDir() string { return filepath.Join(s.pg, "pg_wal") }

func (s *pushSite) path(name string) string { return filepath.Join(s.walDir(), name) }

func (s *pushSite) write(path string, content []byte) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *pushSite) read(path string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// content is a WAL file of the cluster.
func (s *pushSite) content(name string) []byte {
	s.t.Helper()
	w, err := postgres.ParseWALName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	if w.Kind != postgres.Segment && w.Kind != postgres.Partial {
		return []byte("this is " + name + "\n")
	}
	b := make([]byte, walSegment)
	copy(b, s.read(samples + "wal/18-1-000000010000000000000008")[:postgres.WALHeaderSize])
	binary.LittleEndian.PutUint32(b[4:], uint32(w.Timeline))
	binary.LittleEndian.PutUint64(b[8:], uint64(w.Start(walSegment)))
	random := rand.New(rand.NewPCG(uint64(w.Timeline), uint64(w.Number)))
	for i := postgres.WALHeaderSize; i < 4<<10; i++ {
		b[i] = byte(random.Uint32())
	}
	return b
}

// ready makes WAL files that PostgreSQL wants archived.
func (s *pushSite) ready(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.write(s.path(name), s.content(name))
		s.write(s.path("archive_status/"+name+".ready"), nil)
	}
}

// taken is what PostgreSQL does when it was told that files are archived.
func (s *pushSite) taken(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if err := os.Rename(s.path("archive_status/"+name+".ready"), s.path("archive_status/"+name+".done")); err != nil {
			s.t.Fatal(err)
		}
	}
}

// out gives the files for PostgreSQL's side in the spool.
func (s *pushSite) out() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	entries, _ := os.ReadDir(s.spool.Out()) // not there is empty
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(s.spool.Out(), e.Name())); err == nil {
			all[e.Name()] = string(b)
		}
	}
	return all
}

func (s *pushSite) hasOK(names ...string) bool {
	out := s.out()
	for _, name := range names {
		if _, ok := out[name+".ok"]; !ok {
			return false
		}
	}
	return true
}

// run runs the worker to its end.
func (s *pushSite) run() {
	s.t.Helper()
	if err := s.worker.Run(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// start runs the worker until the function it gives is called.
func (s *pushSite) start() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.worker.Run(ctx); err != nil && ctx.Err() == nil {
			s.t.Error(err)
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// foreground is archive-push with workers as s.worker.
func (s *pushSite) foreground() (push wal.AsyncPush, stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	push = wal.AsyncPush{
		Spool: s.spool, Timeout: time.Minute, LogFile: "/log/demo-archive-push-async.log", Log: slog.New(&s.log),
		Start: func(context.Context) error {
			running.Go(func() { _ = s.worker.Run(ctx) })
			return nil
		},
	}
	return push, func() {
		cancel()
		running.Wait()
	}
}

// until waits for something to become true.
func (s *pushSite) until(what string, is func() bool) {
	s.t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			s.t.Fatalf("not in time: %s\nspool: %q\nlog:\n%s", what, s.out(), s.log.String())
		}
	}
}

// pushRepo is a real repository with trouble on the way there.
type pushRepo struct {
	*repo.Repo
	path string

	mu      sync.Mutex
	gone    error            // of all calls
	refuses map[string]error // by file
	hangs   chan struct{}    // puts wait until it is closed
	puts    map[string]int
}

func (r *pushRepo) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// tried says how often a file was to be put.
func (r *pushRepo) tried(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.puts[name]
}

// has says whether the repository has each of the files exactly once, and whole.
func (r *pushRepo) has(s *pushSite, names ...string) bool {
	ids, err := r.ArchiveIDs(s.t.Context(), repo.Cluster(s.cluster()))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		files, err := r.FindWAL(s.t.Context(), ids, name)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(files) != 1 {
			return false
		}
		in, err := r.OpenWAL(s.t.Context(), files[0], -1)
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		_ = in.Close()
		if err != nil || string(b) != string(s.content(name)) {
			s.t.Errorf("%s has other content of %s (%v)", r.Name(), name, err)
		}
	}
	return true
}

func (s *pushSite) cluster() wal.Cluster {
	c, err := postgres.ParseControl(s.read(filepath.Join(s.pg, "global", "pg_control")))
	if err != nil {
		s.t.Fatal(err)
	}
	return wal.Cluster{Version: c.Version, SystemID: c.SystemID}
}

// pushArchive is a pushRepo as package wal asks for one.
type pushArchive struct {
	*pushRepo
	id format.ArchiveID
}

func (a *pushArchive) Cluster(ctx context.Context) (wal.Cluster, error) {
	a.mu.Lock()
	gone := a.gone
	a.mu.Unlock()
	if gone != nil {
		return wal.Cluster{}, gone
	}
	id, c, err := a.ArchiveID(ctx)
	a.id = id
	return wal.Cluster(c), err
}

func (a *pushArchive) Put(ctx context.Context, f wal.File) (wal.Stored, error) {
	a.mu.Lock()
	err, hangs := a.refuses[f.Name], a.hangs
	if a.gone != nil {
		err = a.gone
	}
	if a.puts == nil {
		a.puts = map[string]int{}
	}
	a.puts[f.Name]++
	a.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err != nil {
		return 0, err
	}
	how, err := a.PutWAL(ctx, a.id, repo.WALSource{Name: f.Name, Open: f.Open, SHA1: f.SHA1, Sum: f.Sum, Fixed: f.Fixed, Compress: compress.LZ4, Level: 1})
	return map[repo.Outcome]wal.Stored{repo.Stored: wal.New, repo.Present: wal.Present, repo.Repaired: wal.Repaired}[how], err
}

func (a *pushArchive) Find(context.Context, wal.Cluster, string) ([]wal.Copy, error) {
	return nil, errs.New(errs.Assert, "a push looks for nothing")
}

// pushLog is a log, one "LEVEL message" after another.
type pushLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *pushLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *pushLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *pushLog) WithGroup(string) slog.Handler            { return l }

func (l *pushLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, r.Level.String()+" "+r.Message)
	return nil
}

func (l *pushLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func (l *pushLog) count(text string) int { return strings.Count(l.String(), text) }

// clear gives what was logged, and forgets it.
func (l *pushLog) clear() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
