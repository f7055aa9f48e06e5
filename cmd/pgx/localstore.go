package main

import (
	"context"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// localStore is an archive on this host, for commands that stay. It is open only while
// something is done in it, so that its file system can be unmounted in between; and what
// is done, is done in the directory that has the name now.
type localStore struct {
	a *app
	n int // of the repository

	mu  sync.Mutex
	now *openStore // what is opened last; nil when that is not used
}

// openStore is a repository for all who use it at the same time. They share what it knows of
// directories that are not durable yet.
type openStore struct {
	repo  *repo.Repo
	files io.Closer
	dir   fs.FileInfo // of its path, from before it was opened
	users int
}

// use gives the repository, and what gives it back.
func (l *localStore) use(ctx context.Context) (*repo.Repo, func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir, err := os.Stat(l.a.cfg.String(config.OptRepoPath, l.n))
	if s := l.now; s == nil || err != nil || !os.SameFile(s.dir, dir) {
		st, err := l.a.storage(ctx, l.n, "", posix.Refuse)
		if err != nil {
			return nil, nil, err
		}
		l.now = &openStore{repo: l.a.repo(st, l.n), files: st.(io.Closer), dir: dir}
	}
	s := l.now
	s.users++
	return s.repo, func() { l.giveBack(s) }, nil
}

func (l *localStore) giveBack(s *openStore) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	_ = s.files.Close() // a directory
	if l.now == s {
		l.now = nil
	}
}

func (l *localStore) ArchiveID(ctx context.Context) (format.ArchiveID, repo.Cluster, error) {
	r, done, err := l.use(ctx)
	if err != nil {
		return format.ArchiveID{}, repo.Cluster{}, err
	}
	defer done()
	return r.ArchiveID(ctx)
}

func (l *localStore) ArchiveIDs(ctx context.Context, c repo.Cluster) ([]format.ArchiveID, error) {
	r, done, err := l.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return r.ArchiveIDs(ctx, c)
}

func (l *localStore) FindWAL(ctx context.Context, ids []format.ArchiveID, name string) ([]repo.WALFile, error) {
	r, done, err := l.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return r.FindWAL(ctx, ids, name)
}

func (l *localStore) PutWAL(ctx context.Context, id format.ArchiveID, src repo.WALSource) (repo.Outcome, error) {
	r, done, err := l.use(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	return r.PutWAL(ctx, id, src)
}

func (l *localStore) OpenWAL(ctx context.Context, f repo.WALFile, size int64) (io.ReadCloser, error) {
	r, done, err := l.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return r.OpenWAL(ctx, f, size) // an open file needs no directory
}
