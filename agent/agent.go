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
//	read-files              x                     read many of them, one after the other
//	connect, disconnect     x                     one connection to PostgreSQL
//	facts                   x                     what the server says of itself
//	databases               x                     their names
//	tablespaces             x                     their names
//	now, alive              x                     its clock, a sign of life
//	replayed                x                     how far a standby is in the WAL
//	checkpoint              x                     write a checkpoint, on a standby a restart point
//	start-backup            x                     begin a backup
//	stop-backup             x                     end it
//	create-restore-point    x                     write a named point into the WAL
//	switch-wal              x                     end the current WAL segment
//	summaries               x                     how far WAL is summarized
//	changed                 x                     what has changed in a range of WAL
//	check                             x           may a restore begin
//	inspect                           x           may it begin with this layout
//	begin                             x           remove pg_control, clean, make directories and links
//	match-files                       x           which files are there as the backup has them
//	patch-file                        x           compare a file with a block map: which blocks differ
//	patch-next                        x           write those, whose checksums are verified, and go on
//	put-file                          x           write a file, whose size and SHA-1 are verified
//	put-files                         x           the same with one after the other
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

	// Open opens a file for a backup. One that is not there any more is fs.ErrNotExist, one that
	// holds what the caller expected pgdata.ErrUnchanged.
	Open(ctx context.Context, r pgdata.Read) (Source, error)

	// OpenBundle opens files, not more than MaxBundle, for one object of a repository. Where those in blocks
	// are in it is told to them.
	OpenBundle(ctx context.Context, files []pgdata.Read) (Bundle, error)
}

// MaxBundle is how many files a Bundle can have.
const MaxBundle = 4096

// Bundle is many files on their way into one object of a repository: reading it gives what is to
// be stored of each, one after the other. A file is opened when its turn comes. What goes wrong with one ends all
// of them, with an error that names it. It must be closed.
type Bundle interface {
	io.ReadCloser
	io.WriterTo

	// Results tells of the files that are done, in the order they were asked for: of all of them once
	// the Bundle has come to its end. The list only grows.
	Results() []FileResult
}

// FileResult is what became of a file of a Bundle.
type FileResult struct {
	Fate   Fate
	Offset int64 // of its bytes in the Bundle
	pipeline.Result
}

// Fate is whether a file of a Bundle was stored.
type Fate int

// What can become of a file. The bytes of a file that is empty are none, however it is
// compressed.
const (
	Stored    Fate = iota // its bytes are in the Bundle
	Unchanged             // it holds what was expected, see pgdata.ErrUnchanged; the rest of its FileResult is zero
	Vanished              // it was not there any more; the same
)

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

	// Replayed and Checkpoint are for a standby; see pgsql.Conn.
	Replayed(ctx context.Context) (postgres.LSN, error)
	Checkpoint(ctx context.Context) error

	// StartBackup begins a backup, which lives until StopBackup or Close. Only one can
	// be under way in a session.
	StartBackup(ctx context.Context, how pgsql.BackupStart) (*pgsql.Backup, error)
	StopBackup(ctx context.Context) (pgsql.BackupStop, error)

	// CreateRestorePoint and SwitchWAL write into the WAL; see pgsql.Conn.
	CreateRestorePoint(ctx context.Context, name string) (postgres.LSN, error)
	SwitchWAL(ctx context.Context) (segment string, err error)

	// Summaries and Changed tell what WAL summaries say; see pgsql.Conn.
	Summaries(ctx context.Context) (pgsql.SummaryState, error)
	Changed(ctx context.Context, r pgsql.SummaryRange) ([]pgsql.Changed, error)

	// Close ends the session, within seconds and also when ctx is cancelled. A backup
	// that was not stopped is over when it returns nil.
	Close(ctx context.Context) error
}
