package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
)

// errMissing ends archive-get with exitMissing; the log has said what is missing.
var errMissing = wal.ErrMissing

// walStore is an archive where it is, or as another host sees it.
type walStore interface {
	ArchiveID(ctx context.Context) (format.ArchiveID, repo.Cluster, error)
	ArchiveIDs(ctx context.Context, c repo.Cluster) ([]format.ArchiveID, error)
	FindWAL(ctx context.Context, ids []format.ArchiveID, name string) ([]repo.WALFile, error)
	OpenWAL(ctx context.Context, f repo.WALFile, size int64) (io.ReadCloser, error)
	PutWAL(ctx context.Context, id format.ArchiveID, src repo.WALSource) (repo.Outcome, error)
}

var (
	_ walStore = (*localStore)(nil)
	_ walStore = (*remote.Archive)(nil)
)

// archive is the archive of a repository as package wal asks for one. A repository that
// cannot be opened is one that fails, beside others that do not.
type archive struct {
	name  string
	open  func(context.Context) (walStore, error)
	store walStore // nil until it is opened
	codec compress.Type
	level int
	id    *format.ArchiveID // of the cluster that Cluster gave
}

func (l *archive) Name() string { return l.name }

func (l *archive) opened(ctx context.Context) (walStore, error) {
	if l.store != nil {
		return l.store, nil
	}
	st, err := l.open(ctx)
	if err == nil {
		l.store = st
	}
	return st, err
}

func (l *archive) Cluster(ctx context.Context) (wal.Cluster, error) {
	r, err := l.opened(ctx)
	if err != nil {
		return wal.Cluster{}, err
	}
	id, c, err := r.ArchiveID(ctx)
	if err == nil {
		l.id = &id
	}
	return wal.Cluster(c), err
}

func (l *archive) Put(ctx context.Context, f wal.File) (wal.Stored, error) {
	r, err := l.opened(ctx)
	if err != nil {
		return 0, err
	}
	// What was checked is stored where that was said to be, though a stanza-upgrade may have
	// come in between.
	if l.id == nil {
		if _, err := l.Cluster(ctx); err != nil {
			return 0, err
		}
	}
	how, err := r.PutWAL(ctx, *l.id, repo.WALSource{Name: f.Name, Open: f.Open, SHA1: f.SHA1, Sum: f.Sum, Fixed: f.Fixed, Compress: l.codec, Level: l.level})
	return map[repo.Outcome]wal.Stored{repo.Stored: wal.New, repo.Present: wal.Present, repo.Repaired: wal.Repaired}[how], err
}

func (l *archive) Find(ctx context.Context, c wal.Cluster, name string) ([]wal.Copy, error) {
	r, err := l.opened(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := r.ArchiveIDs(ctx, repo.Cluster(c))
	if err != nil {
		return nil, err
	}
	files, err := r.FindWAL(ctx, ids, name)
	var copies []wal.Copy
	for _, f := range files {
		copies = append(copies, wal.Copy{
			ArchiveID: f.ID.String(), Path: f.Path(), SHA1: f.SHA1,
			Open: func(ctx context.Context, size int64) (io.ReadCloser, error) { return r.OpenWAL(ctx, f, size) },
		})
	}
	return copies, err
}

// codec is how the command stores WAL.
func (a *app) codec() (compress.Type, int, error) {
	if !a.cfg.IsSet(config.OptCompressType) {
		return compress.None, 0, nil
	}
	codec, err := compress.ParseType(a.cfg.String(config.OptCompressType))
	return codec, a.cfg.Int(config.OptCompressLevel), err
}

// archive gives the archive of repository n, which is opened when it is needed.
func (a *app) archive(n int, codec compress.Type, level int) wal.Archive {
	return a.opener(n, codec, level)()
}

// opener is archive for several that are used at the same time.
func (a *app) opener(n int, codec compress.Type, level int) func() wal.Archive {
	open := func(context.Context) (walStore, error) { return a.walStore(n) }
	if a.cfg.RepoIsLocal(n) {
		shared := &localStore{a: a, n: n}
		open = func(context.Context) (walStore, error) { return shared, nil }
	}
	return func() wal.Archive {
		return &archive{name: fmt.Sprintf("repo%d", n), codec: codec, level: level, open: open}
	}
}

// archives gives the archives of the command's repositories.
func (a *app) archives() ([]wal.Archive, error) {
	codec, level, err := a.codec()
	if err != nil {
		return nil, err
	}
	var all []wal.Archive
	for _, n := range a.cfg.Repos() {
		all = append(all, a.archive(n, codec, level))
	}
	return all, nil
}

// walStore gives the archive of repository n, which is on another host.
func (a *app) walStore(n int) (walStore, error) {
	pool, err := a.sessions(repoSide, n, remote.RoleArchive, 1, serverArgs{Repo: n})
	if err != nil {
		return nil, err
	}
	return remote.NewArchive(pool, a.stanza(), func(encrypted bool) error { return a.agree(n, encrypted) }), nil
}

func (a *app) pgPath() string { return a.cfg.String(config.OptPgPath) }

func (a *app) pgPathOption() string { return fmt.Sprintf("pg%d-path", a.cfg.Pg()) }

// push gives how WAL is pushed, without where to.
func (a *app) push() wal.Push {
	p := wal.Push{
		PGPath: a.pgPath(), Log: a.log, SizeText: logging.Size, Ledger: a.ledger(), Now: a.now,
		HeaderCheck: a.cfg.Bool(config.OptArchiveHeaderCheck), ModeCheck: a.cfg.Bool(config.OptArchiveModeCheck),
	}
	if a.cfg.IsSet(config.OptArchivePushQueueMax) {
		limit := a.cfg.Size(config.OptArchivePushQueueMax)
		p.QueueMax = &limit
	}
	return p
}

// errUnserved is that the worker which was there has gone.
var errUnserved = errors.New("no worker is alive")

func archivePush(ctx context.Context, a *app) error {
	if err := a.locks().Stopped(a.stanza()); err != nil {
		return err
	}
	if a.cfg.Async {
		return a.pushWorker(ctx, a.cfg.Duration(config.OptArchiveAsyncIdle))
	}
	if len(a.cfg.Params) != 1 {
		return errs.New(errs.ParamRequired, "WAL segment to push required")
	}
	path, err := wal.Path(a.cfg.Params[0], a.pgPath(), a.pgPathOption(), "archive-push")
	if err != nil {
		return err
	}
	async := wal.AsyncPush{
		Spool: a.spool(), Timeout: a.cfg.Duration(config.OptArchiveTimeout), Log: a.log,
		Start:   func(ctx context.Context) error { return a.startWorker(ctx, filepath.Dir(path)) },
		LogFile: a.logFile("archive-push-async"),
	}
	if a.cfg.Bool(config.OptArchiveAsync) {
		if a.pgPath() == "" {
			return errs.New(errs.OptionRequired, "'archive-push' command in async mode requires option '%s'", a.pgPathOption())
		}
		return async.Push(ctx, path)
	}
	if waits(path) && a.spooled() && async.Served(path) {
		// By a resident agent. What it keeps open need not be opened here.
		async.Start = func(context.Context) error { return errUnserved }
		if err := async.Push(ctx, path); !errors.Is(err, errUnserved) {
			return err
		}
	}
	p := a.push()
	p.SHA1 = slices.ContainsFunc(a.cfg.Repos(), a.cfg.RepoIsLocal)
	if p.Archives, err = a.archives(); err != nil {
		return err
	}
	return wal.PushFile(ctx, p, path)
}

// waits says whether PostgreSQL waits for the WAL file at path, and it is not an operator who
// has it pushed: what does not wait no worker looks for.
func waits(path string) bool {
	dir, name := filepath.Split(path)
	_, err := os.Stat(filepath.Join(dir, "archive_status", name+".ready"))
	return err == nil
}

// Pauses between tries of a strict archive-get.
const (
	firstPause = 500 * time.Millisecond
	longPause  = 10 * time.Second
)

func archiveGet(ctx context.Context, a *app) error {
	if a.cfg.Async {
		return a.getWorker(ctx)
	}
	params := a.cfg.Params
	switch {
	case len(params) == 0:
		return errs.New(errs.ParamRequired, "WAL segment to get required")
	case len(params) == 1:
		return errs.New(errs.ParamRequired, "path to copy WAL segment required")
	case len(params) > 2:
		return errs.New(errs.ParamInvalid, "extra parameters found")
	}
	if a.pgPath() == "" {
		return errs.New(errs.OptionRequired, "archive-get command requires option: %s", a.pgPathOption())
	}
	target, err := wal.Path(params[1], a.pgPath(), a.pgPathOption(), "archive-get")
	if err != nil {
		return err
	}
	archives, err := a.archives()
	if err != nil {
		return err
	}
	g := wal.Get{Archives: archives, PGPath: a.pgPath(), Log: a.log, Strict: a.strict}
	get := func() error { return wal.GetFile(ctx, g, filepath.Base(params[0]), target) }
	if a.cfg.Bool(config.OptArchiveAsync) {
		get = func() error {
			return wal.AsyncGet{Get: g, Spool: a.spool(), Timeout: a.cfg.Duration(config.OptArchiveTimeout),
				Start: func(ctx context.Context) error { return a.startWorker(ctx) },
			}.GetFile(ctx, filepath.Base(params[0]), target)
		}
	}
	limit := a.now().Add(a.cfg.Duration(config.OptArchiveTimeout))
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err = get()
		if err == nil || errors.Is(err, wal.ErrMissing) || !a.strict || ctx.Err() != nil || !worthRetry(err) || a.now().Add(pause).After(limit) {
			return err
		}
		a.log.Warn(fmt.Sprintf("unable to get %s, trying again in %s: [%s] %s", params[0], pause, errs.CodeOf(err), err))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// worthRetry says whether an error can go away by itself: a repository that is out of
// reach, not one that is wrong.
func worthRetry(err error) bool {
	switch errs.CodeOf(err) {
	case errs.ArchiveDuplicate, errs.ParamInvalid, errs.Format:
		return false
	}
	return true
}
