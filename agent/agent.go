// Package agent is what runs beside PostgreSQL. A Host describes the cluster, begins and
// ends a backup in it, lists its files and reads them; Local is the Host of this machine.
// A Target takes what a restore writes.
//
// Both can be on another machine: BackupService and TargetService offer them to a session of
// package protocol, Client and TargetClient are the same Host and Target seen from the
// other end. What a client may call is decided by its role, and nothing is in both:
//
//	call                  backup  restore-target
//	control                 x                     read pg_control
//	running                 x                     is there a postmaster.pid
//	list-files              x                     list what a backup holds
//	read-file               x                     read a file, checked, hashed and compressed
//	connect, disconnect     x                     one connection to PostgreSQL
//	facts                   x                     what the server says of itself
//	databases               x                     their names
//	tablespaces             x                     their names
//	now, alive              x                     its clock, a sign of life
//	start-backup            x                     begin a backup
//	stop-backup             x                     end it
//	create-restore-point    x                     write a named point into the WAL
//	switch-wal              x                     end the current WAL segment
//	check                             x           may a restore begin
//	inspect                           x           may it begin with this layout
//	begin                             x           remove pg_control, clean, make directories and links
//	match-file                        x           is a file there as the backup has it
//	put-file                          x           write a file, whose size and SHA-1 are verified
//	read-small                        x           read a small file of the data directory
//	write-small                       x           write one
//	finish                            x           make it durable, bring pg_control back
//
// The data directory and the server are those of the agent's own configuration; no call
// names them. All names of files are resolved inside: see pgdata.Source.Open and
// pgdata.Target.
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
