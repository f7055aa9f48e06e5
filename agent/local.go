package agent

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Local is the Host of this machine.
type Local struct {
	path   string
	files  *pgdata.Source
	server pgsql.Params
}

// NewLocal makes a Local of the data directory path and the server that runs in it.
// Nothing is opened yet.
func NewLocal(path string, server pgsql.Params) *Local {
	return &Local{path: filepath.Clean(path), files: pgdata.NewSource(path), server: server}
}

// Control reads pg_control.
func (l *Local) Control(ctx context.Context) (postgres.Control, error) { return l.files.Control(ctx) }

// Running says whether the data directory has a postmaster.pid.
func (l *Local) Running(context.Context) (bool, error) {
	pid := filepath.Join(l.path, "postmaster.pid")
	_, err := os.Lstat(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, errs.WrapAs(errs.FileInfo, err, "look for '%s'", pid)
}

// Connect opens a session with the server.
func (l *Local) Connect(ctx context.Context) (Session, error) {
	c, err := pgsql.Connect(ctx, l.server)
	if err != nil {
		return nil, err
	}
	return &localSession{Conn: c}, nil
}

// List gives what a backup holds.
func (l *Local) List(ctx context.Context, what pgdata.Listing) iter.Seq2[pgdata.Entry, error] {
	return l.files.List(ctx, what)
}

// Open opens a file for a backup.
func (l *Local) Open(ctx context.Context, r pgdata.Read) (Source, error) {
	in, err := l.files.Open(ctx, r)
	if err != nil {
		return nil, err // not in, which would be a Source that is not nil
	}
	return in, nil
}

// localSession remembers the backup of its connection, which is stopped through it.
type localSession struct {
	*pgsql.Conn
	backup *pgsql.Backup
}

func (s *localSession) StartBackup(ctx context.Context, how pgsql.BackupStart) (*pgsql.Backup, error) {
	b, err := s.Conn.StartBackup(ctx, how)
	s.backup = b
	return b, err
}

func (s *localSession) StopBackup(ctx context.Context) (pgsql.BackupStop, error) {
	if s.backup == nil {
		return pgsql.BackupStop{}, errs.New(errs.Assert, "no backup is under way in this session")
	}
	stop, err := s.backup.Stop(ctx)
	s.backup = nil
	return stop, err
}
