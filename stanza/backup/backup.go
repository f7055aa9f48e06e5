// Package backup copies a cluster into a repository.
//
// The order of what happens is what makes a backup one: PostgreSQL is asked to begin, then
// the files are listed, then copied, in any order and while they change, then PostgreSQL
// is asked to end, and the WAL written between is waited for. Only then is the backup
// listed; until then it does not exist, and the next one removes what is left of it, or goes
// on with it.
//
// A differential or incremental backup is based on a prior one. Of a file that has not
// changed since, it records which backup holds the bytes: always the one that does, never one in
// between that refers to it. How files are stored is the same in all backups of a set.
package backup

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza"
)

// Config says what is backed up, where to and how. Names in brackets are options.
type Config struct {
	Repo  *repo.Repo
	Nodes []stanza.Node // where the cluster may run; the primary is looked for
	// Standby is whether a standby is too [backup-standby].
	Standby Standby
	// Archive is where the WAL of the cluster arrives; nil: in Repo.
	Archive Archive

	Log *slog.Logger
	// Now is the clock of this host; its zone is that of the label.
	Now func() time.Time
	// Progress, if set, is called, never twice at once, as bytes are copied. Bytes are
	// those of the size that files had when they were listed.
	Progress func(progress.State)

	Type       format.BackupType
	Online     bool
	Force      bool // offline: even though the cluster seems to run
	StartFast  bool
	DBTimeout  time.Duration // db-timeout of the session, to warn of
	ProcessMax int

	Archiving      stanza.Archiving // [archive-check, archive-mode-check]
	ArchiveCopy    bool
	ArchiveTimeout time.Duration

	ChecksumPage    *bool // nil: if the cluster has checksums
	PageHeaderCheck bool

	Compress             compress.Type
	CompressLevel        int
	CompressLevelNetwork int // recorded only
	BufferSize           int64

	// Delta decides by content what has changed since the prior backup, else time and size
	// do, as far as they can be trusted.
	Delta    bool
	Hardlink bool // unchanged files become hard links, where the repository has them
	// Bundle stores files of at most BundleLimit bytes together, in bundles that are closed when
	// BundleSize bytes are in them, and empty ones only in the manifest. Not with Hardlink.
	Bundle                  bool
	BundleLimit, BundleSize int64
	Blocks                  *Blocks // only with Bundle; nil: files are stored whole
	Exclude                 []string
	Annotations             map[string]string

	// Summary takes relation files that WAL summaries do not name for unchanged, whatever their times
	// are. The summarizer is waited for unless it stands still for the time of SummaryPatience.
	Summary         bool // [backup-summary]
	SummaryPatience time.Duration

	// Resume keeps a manifest in an unfinished backup, and continues a full one that has it.
	// SaveThreshold is how many bytes are copied before it is saved again, or a hundredth of
	// the cluster if that is more.
	Resume        bool
	SaveThreshold int64

	// AliveEvery is how often the session with the server is tested while files are
	// copied. Without it the backup cannot be ended, and copying would be in vain.
	AliveEvery time.Duration
}

// Archive is what a backup needs to know of an archive.
type Archive interface {
	// AwaitWAL waits until a segment of the current cluster is there. When it is not
	// after timeout that is ArchiveTimeout.
	AwaitWAL(ctx context.Context, segment string, timeout time.Duration) (repo.WALFile, error)

	// OpenWAL gives the verified content of a segment of size bytes.
	OpenWAL(ctx context.Context, f repo.WALFile, size int64) (io.ReadCloser, error)
}

// Result is what a backup made.
type Result struct {
	Label      format.Label
	Type       format.BackupType
	Files      int
	Size       int64 // bytes of the cluster
	RepoSize   int64 // bytes in the repository
	PageErrors bool  // pages with invalid checksums were found
}

// run is one backup under way.
type run struct {
	Config
	node    stanza.Node
	live    *stanza.Live // nil offline, and once the backup is over for PostgreSQL
	standby *stanza.Live // nil: everything is copied from node
	control postgres.Control

	list         *info.Backup
	cluster      format.Cluster
	checksumPage bool
	began        int64 // seconds since 1970
	listed       int64 // when the files were, the same, by the clock they change by

	start *pgsql.Backup
	stop  pgsql.BackupStop

	prior   *manifest.Manifest // nil for a full backup, and once it has been compared with
	anomaly string             // what in the times of files contradicts prior, if it was looked for
	changes *changes           // since prior, where WAL summaries are gone by
	m       *manifest.Manifest
	writer  *repo.BackupWriter
	queues  queues
	meter   *progress.Meter
}

// Run makes a backup. After an error PostgreSQL is out of backup mode, or its session
// is lost, which ends the backup too; and there may be an unfinished directory in the
// repository, which the next backup removes or resumes.
func Run(ctx context.Context, cfg Config) (res Result, err error) {
	if cfg.Archive == nil {
		cfg.Archive = cfg.Repo
	}
	if !cfg.Online { // nothing is written that would have to be archived
		cfg.Archiving, cfg.ArchiveCopy = stanza.Archiving{}, false
	}
	r := &run{Config: cfg}
	defer func() { r.disconnect(ctx) }()
	if err := r.loadList(ctx); err != nil {
		return Result{}, err
	}
	if err := r.identify(ctx); err != nil {
		return Result{}, err
	}
	if err := r.choosePrior(ctx); err != nil {
		return Result{}, err
	}
	if err := r.startBackup(ctx); err != nil {
		return Result{}, err
	}
	if err := r.plan(ctx); err != nil {
		return Result{}, err
	}
	r.followPrior()
	if err := r.readSummaries(ctx); err != nil {
		return Result{}, err
	}
	if err := r.begin(ctx); err != nil {
		return Result{}, err
	}
	if err := r.queue(); err != nil {
		return Result{}, err
	}
	if err := r.savePartial(ctx); err != nil {
		return Result{}, err
	}
	if err := r.makeDirs(ctx); err != nil {
		return Result{}, err
	}
	if err := r.awaitSecond(ctx); err != nil {
		return Result{}, err
	}
	if err := r.copyFiles(ctx); err != nil {
		return Result{}, err
	}
	if err := r.linkFiles(ctx); err != nil {
		return Result{}, err
	}
	if err := r.stopBackup(ctx); err != nil {
		return Result{}, err
	}
	if err := r.collectWAL(ctx); err != nil {
		return Result{}, err
	}
	return r.finish(ctx)
}

// disconnect ends the session with the server, and with it a backup that was begun and
// not stopped.
func (r *run) disconnect(ctx context.Context) {
	if r.live == nil {
		return
	}
	stanza.CloseAll(ctx, r.standby) // it may be closed already
	if err := r.live.Session.Close(context.WithoutCancel(ctx)); err != nil {
		r.Log.Warn(fmt.Sprintf("unable to end the session with PostgreSQL: %s", err))
	}
	r.live = nil
}

// loadList loads backup.info as it should be. It is saved at the end only.
func (r *run) loadList(ctx context.Context) error {
	var err error
	if r.list, err = r.Repo.BackupInfo(ctx); err != nil {
		return err
	}
	dropped, added, err := r.Repo.Reconstruct(ctx, r.list)
	if err != nil {
		return err
	}
	for _, l := range dropped {
		r.Log.Warn(fmt.Sprintf("backup '%s' missing manifest removed from backup.info", l))
	}
	for _, l := range added {
		r.Log.Warn(fmt.Sprintf("backup '%s' found in repository added to backup.info", l))
	}
	r.cluster = r.list.Current()
	return nil
}

// savePartial saves the manifest as that of an unfinished backup.
func (r *run) savePartial(ctx context.Context) error {
	if !r.Resume {
		return nil
	}
	return r.writer.SavePartial(ctx, r.m)
}

// finish checks the manifest, lists the backup and tells of it.
func (r *run) finish(ctx context.Context) (Result, error) {
	r.Log.Info(fmt.Sprintf("new backup label = %s", r.m.Label))
	if err := r.m.Validate(); err != nil {
		return Result{}, err
	}
	if err := r.writer.Finish(ctx, r.m, r.list); err != nil {
		return Result{}, err
	}
	// Written again as it is, so that a rule of an object store that removes what is
	// old does not remove it.
	archive, err := r.Repo.ArchiveInfo(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := r.Repo.SaveArchiveInfo(ctx, archive); err != nil {
		return Result{}, err
	}
	e := r.list.Entry(r.m.Label)
	r.Log.Info(fmt.Sprintf("%s backup size = %s, file total = %d", r.m.Type, logging.Size(e.SizeDelta), r.m.Files.Len()))
	return Result{
		Label: r.m.Label, Type: r.m.Type, Files: r.m.Files.Len(), Size: e.Size, RepoSize: e.RepoSize,
		PageErrors: e.PageErrors != nil && *e.PageErrors,
	}, nil
}
