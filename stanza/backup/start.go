package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/stanza"
)

// identify finds the cluster and makes sure that it is the stanza's, that pg_control and
// server speak of one cluster, and that it archives.
func (r *run) identify(ctx context.Context) error {
	if r.Online {
		if err := r.connect(ctx); err != nil {
			return err
		}
	} else {
		if r.Standby.wanted() {
			r.Log.Warn("option backup-standby is enabled but backup is offline - backups will be performed from the primary")
		}
		if len(r.Nodes) == 0 {
			return errs.New(errs.OptionRequired, "backup command requires option: pg1-path")
		}
		r.node = r.Nodes[0]
		var err error
		if r.control, err = r.node.Host.Control(ctx); err != nil {
			return err
		}
	}
	if r.control.Version.String() != r.cluster.Version || r.control.SystemID != r.cluster.SystemID {
		return errs.WithHint(errs.New(errs.BackupMismatch,
			"PostgreSQL version %s, system-id %d do not match stanza version %s, system-id %d",
			r.control.Version, r.control.SystemID, r.cluster.Version, r.cluster.SystemID), "is this the correct stanza?")
	}
	r.resolveChecksumPage()
	if r.live == nil {
		return nil
	}
	if err := r.live.Agree(r.Archiving); err != nil {
		return err
	}
	if err := r.checkSummary(); err != nil {
		return err
	}
	if err := checkControl(r.live); err != nil {
		return err
	}
	return r.checkStandby()
}

// checkControl makes sure that the pg_control read is not an older one than the server's,
// as of a copy of the data directory: same identity, same path, another file.
func checkControl(l *stanza.Live) error {
	hint := func(err error) error {
		return errs.WithHint(err, "is '%s' the directory that the server on port %d runs in?", l.Path, l.Facts.Port)
	}
	if l.Control.Timeline != l.Facts.Timeline {
		return hint(errs.New(errs.DbMismatch, "timeline %d queried from cluster does not match pg_control timeline %d",
			l.Facts.Timeline, l.Control.Timeline))
	}
	if l.Control.Checkpoint < l.Facts.Checkpoint { // the server was asked first
		return hint(errs.New(errs.DbMismatch, "checkpoint '%s' in pg_control is older than '%s' queried from cluster",
			l.Control.Checkpoint, l.Facts.Checkpoint))
	}
	return nil
}

// resolveChecksumPage decides whether pages are checked. A cluster that is down may
// have been left in the middle of writing, so offline they are only when asked for.
func (r *run) resolveChecksumPage() {
	available := r.control.ChecksumVersion != 0
	switch {
	case r.ChecksumPage == nil:
		r.checksumPage = r.Online && available
	case *r.ChecksumPage && r.Online && !available:
		r.Log.Warn("checksum-page option set to true but checksums are not enabled on the cluster, resetting to false")
	default:
		r.checksumPage = *r.ChecksumPage
	}
}

// startBackup asks PostgreSQL to begin a backup, and makes sure that WAL arrives in the
// archive before hours are spent on copying.
func (r *run) startBackup(ctx context.Context) error {
	if r.live == nil {
		r.began = r.Now().Unix()
		return r.checkDown(ctx)
	}
	if timeout := r.live.Facts.CheckpointTimeout; !r.StartFast && r.DBTimeout > 0 && r.DBTimeout <= timeout {
		r.Log.Warn(fmt.Sprintf("start-fast is disabled and db-timeout (%ds) is smaller than the PostgreSQL"+
			" checkpoint_timeout (%ds) - timeout may occur before the backup starts",
			int64(r.DBTimeout.Seconds()), int64(timeout.Seconds())))
	}
	when := "next regular"
	if r.StartFast {
		when = "requested immediate"
	}
	r.Log.Info("execute backup start: backup begins after the " + when + " checkpoint completes")
	var err error
	r.start, err = r.live.StartBackup(ctx, pgsql.BackupStart{
		Label: "pgBackRest backup started at " + r.live.Facts.Now.In(r.Now().Location()).Format("2006-01-02 15:04:05.999999-07"),
		Fast:  r.StartFast, CheckArchive: r.Archiving.Check,
	})
	if err != nil {
		return err
	}
	r.began = r.start.Time.Unix()
	if err := r.checkStart(ctx); err != nil {
		return err
	}
	r.Log.Info(fmt.Sprintf("backup start archive = %s, lsn = %s", r.start.Segment, r.start.LSN))
	if err := r.awaitStandby(ctx); err != nil {
		return err
	}
	if r.start.CheckSegment == "" {
		return nil
	}
	prior := ""
	if r.start.CheckSegment != r.start.Segment {
		prior = "prior "
	}
	r.Log.Info(fmt.Sprintf("check archive for %ssegment %s", prior, r.start.CheckSegment))
	_, err = r.Archive.AwaitWAL(ctx, r.start.CheckSegment, r.ArchiveTimeout)
	return err
}

// checkStart makes sure that the checkpoint of the start is in the pg_control that will be
// copied: that the files seen here are the server's.
func (r *run) checkStart(ctx context.Context) error {
	control, err := r.node.Host.Control(ctx)
	if err != nil {
		return err
	}
	if control.Checkpoint < r.start.LSN {
		return errs.New(errs.DbMismatch, "current checkpoint '%s' is less than backup start '%s'", control.Checkpoint, r.start.LSN)
	}
	wal, err := postgres.ParseWALName(r.start.Segment)
	if err != nil {
		return err
	}
	if wal.Timeline != r.control.Timeline {
		return errs.New(errs.DbMismatch, "WAL timeline %d does not match pg_control timeline %d", wal.Timeline, r.control.Timeline)
	}
	return nil
}

// checkDown makes sure that a cluster to be backed up offline is not running.
func (r *run) checkDown(ctx context.Context) error {
	running, err := r.node.Host.Running(ctx)
	if err != nil || !running {
		return err
	}
	if !r.Force {
		return errs.New(errs.PgRunning, "--no-online passed but postmaster.pid exists - looks like PostgreSQL is running."+
			" Shut down PostgreSQL and try again, or use --force.")
	}
	r.Log.Warn("--no-online passed and postmaster.pid exists but --force was passed so backup will continue though it" +
		" looks like PostgreSQL is running and the backup will probably not be consistent")
	return nil
}

// now gives the clock by which the files change: the server's, offline this host's.
func (r *run) now(ctx context.Context) (time.Time, error) {
	if r.live == nil {
		return r.Now(), nil
	}
	return r.live.Now(ctx)
}

// awaitSecond returns, online, when the second in which the files were listed is over: a file that
// is changed while it is copied has a time by which the next backup sees that.
func (r *run) awaitSecond(ctx context.Context) error {
	if r.live == nil {
		return nil
	}
	const tries = 3
	for n := 0; ; n++ {
		now, err := r.now(ctx)
		if err != nil || now.Unix() > r.listed {
			return err
		}
		if n == tries {
			return errs.New(errs.Kernel, "PostgreSQL clock has not advanced to the next second after %d tries", tries)
		}
		// A clock that was set back is not waited for.
		if err := sleep(ctx, min(time.Second, time.Unix(r.listed+1, 0).Sub(now))); err != nil {
			return err
		}
	}
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
