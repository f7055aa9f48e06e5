package backup

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/parallel"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza"
)

// Standby says whether the files that hold the data are copied from a standby. The backup is
// that of the primary all the same: it begins and ends there, and there its files are listed.
type Standby string

// The values of option backup-standby.
const (
	NoStandby     Standby = "n"
	PreferStandby Standby = "prefer" // from the primary where no standby can be reached
	NeedStandby   Standby = "y"
)

// wanted says whether a standby is to be looked for.
func (s Standby) wanted() bool { return s != "" && s != NoStandby }

// replayPoll is how often a standby is asked how far it is.
const replayPoll = 100 * time.Millisecond

// connect finds the primary and, if one is wanted, a standby.
func (r *run) connect(ctx context.Context) error {
	primary, standby, err := stanza.Connect(ctx, r.Nodes, true, r.Log)
	if err != nil {
		return err
	}
	r.live, r.node, r.control = primary, primary.Node, primary.Control
	switch {
	case !r.Standby.wanted():
		stanza.CloseAll(ctx, standby)
	case standby != nil:
		r.standby = standby
	case r.Standby == NeedStandby:
		return errs.WithHint(errs.New(errs.DbConnect, "unable to find standby cluster - cannot proceed"),
			"--backup-standby=prefer copies from the primary where no standby can be reached")
	default:
		r.Log.Warn("unable to find a standby to perform the backup, using primary instead")
	}
	return nil
}

// checkStandby makes sure that the standby is one of the primary's cluster, and that the files
// seen are its own.
func (r *run) checkStandby() error {
	s := r.standby
	if s == nil {
		return nil
	}
	if s.Control.SystemID != r.control.SystemID || s.Control.Version != r.control.Version {
		return errs.WithHint(errs.New(errs.DbMismatch, "standby version %s, system-id %d do not match primary version %s, system-id %d",
			s.Control.Version, s.Control.SystemID, r.control.Version, r.control.SystemID),
			"does pg%d belong to the same cluster as pg%d?", s.Key, r.live.Key)
	}
	if s.Control.ChecksumVersion != r.control.ChecksumVersion {
		return errs.WithHint(errs.New(errs.DbMismatch, "standby and primary do not agree about data checksums: version %d on the standby, %d on the primary",
			s.Control.ChecksumVersion, r.control.ChecksumVersion), "was pg_checksums run on one of them only?")
	}
	if err := s.Agree(stanza.Archiving{}); err != nil {
		return err
	}
	return checkControl(s)
}

// awaitStandby waits until the files of the standby hold everything that was before the start of
// the backup, which recovery does not replay. That they hold more does no harm: it does replay
// that, and the standby cannot be ahead of the end of the backup.
func (r *run) awaitStandby(ctx context.Context) error {
	s := r.standby
	if s == nil {
		return nil
	}
	target := r.start.LSN
	r.Log.Info(fmt.Sprintf("wait for replay on the standby to reach %s", target))
	if s.Control.Checkpoint > target {
		return errs.New(errs.DbMismatch, "standby checkpoint '%s' is ahead of target '%s'", s.Control.Checkpoint, target)
	}
	if err := r.awaitReplay(ctx, target); err != nil {
		return err
	}
	if err := r.awaitRestartPoint(ctx, target); err != nil {
		return err
	}
	r.Log.Info(fmt.Sprintf("replay on the standby reached %s", target))
	return nil
}

// awaitReplay waits for as long as the standby makes progress.
func (r *run) awaitReplay(ctx context.Context, target postgres.LSN) error {
	last, since := postgres.LSN(0), r.Now()
	for {
		lsn, err := r.standby.Replayed(ctx)
		switch {
		case err != nil:
			return r.ofStandby(err)
		case lsn > target:
			return nil
		case lsn != last:
			last, since = lsn, r.Now()
		case r.Now().Sub(since) >= r.ArchiveTimeout:
			err := errs.New(errs.ArchiveTimeout, "timeout before standby replayed to %s - only reached %s", target, lsn)
			return errs.WithHint(errs.WithHint(errs.WithHint(err, "is replication running and current on the standby?"),
				"disable the 'backup-standby' option to backup directly from the primary."),
				"the standby is pg%d: is its replay paused (select pg_is_wal_replay_paused())?", r.standby.Key)
		}
		if err := sleep(ctx, replayPoll); err != nil {
			return err
		}
	}
}

// awaitRestartPoint has the standby write what it has replayed. The checkpoint of the primary
// with which the backup began may come some time after the WAL that was replayed last, so
// it is asked until its restart point is that one.
func (r *run) awaitRestartPoint(ctx context.Context, target postgres.LSN) error {
	for since := r.Now(); ; {
		if err := r.standby.Session.Checkpoint(ctx); err != nil {
			return err
		}
		// As the files have it: those are copied, and not what the server says.
		control, err := r.standby.Host.Control(ctx)
		if err != nil {
			return err
		}
		switch {
		case control.Redo >= target && control.Timeline != r.control.Timeline:
			return r.offTimeline(control.Timeline)
		case control.Redo >= target:
			return nil
		case r.Now().Sub(since) >= r.ArchiveTimeout:
			return r.ofStandby(errs.New(errs.ArchiveTimeout, "timeout before standby checkpoint lsn reached %s - only reached %s", target, control.Checkpoint))
		}
		if err := sleep(ctx, replayPoll); err != nil {
			return err
		}
	}
}

func (r *run) offTimeline(t postgres.Timeline) error {
	return r.ofStandby(errs.New(errs.DbMismatch, "standby is on timeline %d but expected %d", t, r.control.Timeline))
}

// ofStandby says in a hint which standby an error is about that has pgBackRest's words, or names the standby otherwise.
func (r *run) ofStandby(err error) error {
	switch errs.CodeOf(err) {
	case errs.DbMismatch, errs.ArchiveTimeout:
		return errs.WithHint(err, "the standby is pg%d.", r.standby.Key)
	}
	return errs.Wrap(err, "standby pg%d", r.standby.Key)
}

// alive is an error when the session with the primary or the standby is lost, or one of them is
// not any more what it was.
func (r *run) alive(ctx context.Context) error {
	if err := r.live.Alive(ctx); err != nil || r.standby == nil {
		return err
	}
	if err := r.standby.Alive(ctx); err != nil {
		return r.ofStandby(err)
	}
	return nil
}

// leaveStandby makes sure, when everything is copied, that the standby has followed the primary
// to the end, and ends the session with it.
func (r *run) leaveStandby(ctx context.Context) error {
	if r.standby == nil {
		return nil
	}
	defer stanza.CloseAll(ctx, r.standby)
	control, err := r.standby.Host.Control(ctx)
	if err != nil {
		return err
	}
	// Before a standby that follows another primary writes what it has from there, it records this.
	if t := control.MinRecoveryTimeline; t != 0 && t != r.control.Timeline {
		return r.offTimeline(t)
	}
	return nil
}

// nodeOf says which node a file is copied from. A standby has what is replayed from the WAL; all else,
// such as its configuration, is its own.
func (r *run) nodeOf(name string) stanza.Node {
	if r.standby != nil && fromStandby(name) {
		return r.standby.Node
	}
	return r.node
}

func fromStandby(name string) bool { return postgres.GrowthReplayed(name) }

// part puts what a standby does not have into a queue of its own.
func (q *queues) part() {
	for i, all := range q.all {
		there := all[:0]
		for _, f := range all {
			if fromStandby(f.name) {
				there = append(there, f)
			} else {
				q.primary = append(q.primary, f)
			}
		}
		clear(all[len(there):])
		q.all[i] = there
	}
}

// lanes gives the queues with the workers that work them off. With a standby process-max of
// them copy from there, and one more from the primary.
func (r *run) lanes(q queues) []parallel.Lane[int, job] {
	workers := r.workers()
	if r.standby == nil {
		return []parallel.Lane[int, job]{{Sessions: workers, Jobs: q.jobs()}}
	}
	for i := range workers {
		workers[i]++
	}
	bundles := new(atomic.Uint32) // of both
	return []parallel.Lane[int, job]{
		{Sessions: []int{1}, Jobs: q.bundles.jobs([][]file{q.primary}, bundles)},
		{Sessions: workers, Jobs: q.bundles.jobs(q.all, bundles)},
	}
}

// dated gives f, a file that was copied or compared, with the time that the manifest is to have.
//
// By that time the next backup decides whether the file has changed. It was seen on the primary; what
// is copied from a standby may be older than what the primary had written by then, though not older
// than the start of the backup. So a file that was written since then gets a time before it,
// which it has in no later listing.
func (r *run) dated(f manifest.File) manifest.File {
	if r.standby != nil && fromStandby(f.Name) && f.Timestamp >= r.began {
		f.Timestamp = r.began - 1
	}
	return f
}
