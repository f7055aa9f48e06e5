// Package agent is what runs beside PostgreSQL. A Host describes the cluster, begins and
// ends a backup in it, lists its files and reads them; Local is the Host of this machine.
package agent

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Host is the machine a cluster runs on, as a backup and the commands of a stanza see it.
// Its methods may be called from several goroutines at once. Names of files are those of
// a manifest: pg_data/… and pg_tblspc/OID/….
type Host interface {
	// Control reads pg_control.
	Control(ctx context.Context) (postgres.Control, error)

	// Running says whether the data directory has a postmaster.pid, the sign of a server
	// that runs or has crashed.
	Running(ctx context.Context) (bool, error)

	// Connect opens a session with the server. It must be closed.
	Connect(ctx context.Context) (Session, error)

	// List gives what a backup holds; see pgdata.Source.List.
	List(ctx context.Context, l pgdata.Listing) iter.Seq2[pgdata.Entry, error]

	// Open opens a file for a backup. One that is not there any more is fs.ErrNotExist.
	Open(ctx context.Context, r pgdata.Read) (Source, error)
}

// Source is a file on its way into a repository: reading it gives the bytes to be
// stored, already checked, hashed and compressed. It must be closed.
type Source interface {
	io.ReadCloser
	io.WriterTo

	// Result tells of the file, once all of it was read.
	Result() pipeline.Result
}

// Session is a conversation with the server on one connection. It is for one goroutine
// at a time.
type Session interface {
	Facts(ctx context.Context) (pgsql.Facts, error)
	Databases(ctx context.Context) ([]pgsql.Database, error)
	Tablespaces(ctx context.Context) ([]pgsql.Tablespace, error)

	// Now gives the server's clock.
	Now(ctx context.Context) (time.Time, error)

	// Alive is an error when the connection is lost or the role of the server has changed.
	Alive(ctx context.Context) error

	// StartBackup begins a backup, which lives until StopBackup or Close. Only one can
	// be under way in a session.
	StartBackup(ctx context.Context, how pgsql.BackupStart) (*pgsql.Backup, error)
	StopBackup(ctx context.Context) (pgsql.BackupStop, error)

	// CreateRestorePoint and SwitchWAL write into the WAL; see pgsql.Conn.
	CreateRestorePoint(ctx context.Context, name string) (postgres.LSN, error)
	SwitchWAL(ctx context.Context) (segment string, err error)

	// Close ends the session, within seconds and also when ctx is cancelled. A backup
	// that was not stopped is over when it returns nil.
	Close(ctx context.Context) error
}
