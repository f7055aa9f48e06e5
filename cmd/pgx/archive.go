package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage/posix"
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
	_ walStore = (*repo.Repo)(nil)
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
	how, err := r.PutWAL(ctx, *l.id, repo.WALSource{Name: f.Name, Open: f.Open, SHA1: f.SHA1, Fixed: f.Fixed, Compress: l.codec, Level: l.level})
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

// archives gives the archives of the command's repositories.
func (a *app) archives() ([]wal.Archive, error) {
	var all []wal.Archive
	codec, level := compress.None, 0
	if a.cfg.IsSet(config.OptCompressType) {
		var err error
		if codec, err = compress.ParseType(a.cfg.String(config.OptCompressType)); err != nil {
			return nil, err
		}
		level = a.cfg.Int(config.OptCompressLevel)
	}
	for _, n := range a.cfg.Repos() {
		all = append(all, &archive{name: fmt.Sprintf("repo%d", n), codec: codec, level: level,
			open: func(ctx context.Context) (walStore, error) { return a.walStore(ctx, n) }})
	}
	return all, nil
}

func (a *app) walStore(ctx context.Context, n int) (walStore, error) {
	if a.cfg.RepoIsLocal(n) {
		st, err := a.storage(ctx, n, "", posix.Refuse)
		if err != nil {
			return nil, err
		}
		return a.repo(st, n), nil
	}
	pool, err := a.sessions(repoSide, n, remote.RoleArchive, 1, serverArgs{Repo: n})
	if err != nil {
		return nil, err
	}
	return remote.NewArchive(pool, a.stanza()), nil
}

func (a *app) pgPath() string { return a.cfg.String(config.OptPgPath) }

func (a *app) pgPathOption() string { return fmt.Sprintf("pg%d-path", a.cfg.Pg()) }

func archivePush(ctx context.Context, a *app) error {
	if len(a.cfg.Params) != 1 {
		return errs.New(errs.ParamRequired, "WAL segment to push required")
	}
	if err := a.locks().Stopped(a.stanza()); err != nil {
		return err
	}
	path, err := wal.Path(a.cfg.Params[0], a.pgPath(), a.pgPathOption(), "archive-push")
	if err != nil {
		return err
	}
	archives, err := a.archives()
	if err != nil {
		return err
	}
	p := wal.Push{
		Archives: archives, PGPath: a.pgPath(), Log: a.log, SizeText: logging.Size,
		HeaderCheck: a.cfg.Bool(config.OptArchiveHeaderCheck), ModeCheck: a.cfg.Bool(config.OptArchiveModeCheck),
	}
	if a.cfg.IsSet(config.OptArchivePushQueueMax) {
		limit := a.cfg.Size(config.OptArchivePushQueueMax)
		p.QueueMax = &limit
	}
	return wal.PushFile(ctx, p, path)
}

// Pauses between tries of a strict archive-get.
const (
	firstPause = 500 * time.Millisecond
	longPause  = 10 * time.Second
)

func archiveGet(ctx context.Context, a *app) error {
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
	limit := a.now().Add(a.cfg.Duration(config.OptArchiveTimeout))
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err = wal.GetFile(ctx, g, filepath.Base(params[0]), target)
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
