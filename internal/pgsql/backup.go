package pgsql

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// backupLock is the advisory lock that pgBackRest up to release 2.52 takes for a
// backup. It keeps two hosts from backing up one cluster at once, and, like every
// advisory lock, is seen only by sessions in the same database.
const backupLock = "12340078987004321"

// BackupStart says how a backup begins.
type BackupStart struct {
	Label string // text for the LABEL line of backup_label
	Fast  bool   // a checkpoint at once, not the next regular one

	// CheckArchive makes sure that a segment is handed to the archiver at the start,
	// so that a broken archive is found before anything is copied.
	CheckArchive bool
}

// Backup is a backup under way. It lives in the session of its Conn, and Close of that
// ends it if Stop did not.
type Backup struct {
	LSN     postgres.LSN // where recovery from the backup begins
	Segment string       // the WAL segment LSN is in, as the server names it
	Time    time.Time    // the server's clock before the start

	// CheckSegment is, with CheckArchive, the segment that must arrive in the archive
	// before it makes sense to copy: Segment itself or the one before.
	CheckSegment string

	conn *Conn
}

// BackupStop is what the server gives at the end of a backup.
type BackupStop struct {
	LSN     postgres.LSN // the backup is consistent from here on
	Segment string       // the last WAL segment it needs
	Time    time.Time    // the server's clock after the stop

	BackupLabel   string // the content of the file backup_label
	TablespaceMap string // the content of the file tablespace_map, empty when there is no tablespace
}

// functions are the names of the backup functions, which PostgreSQL 15 renamed.
func (c *Conn) functions() (start, stop string) {
	if c.version >= 150000 {
		return "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
	}
	return "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
}

// StartBackup begins a non-exclusive backup and waits for its checkpoint, which
// cancelling ctx ends at once. A second backup of the cluster through the same
// database is errs.LockAcquire. After an error the backup may have begun: Close
// ends it.
//
// That the stop is permitted too is looked at first: at the end of a long copy would
// be the wrong moment to learn that it is not.
func (c *Conn) StartBackup(ctx context.Context, how BackupStart) (*Backup, error) {
	start, stop := c.functions()
	needs := []string{start, stop}
	if how.CheckArchive {
		needs = append(needs, createRestorePoint, switchWAL)
	}
	if err := c.mayExecute(ctx, needs); err != nil {
		return nil, err
	}

	r, err := c.queryRow(ctx, "select pg_catalog.pg_try_advisory_lock("+backupLock+")")
	if err != nil {
		return nil, err
	}
	if got := r.bool(); r.err != nil {
		return nil, r.err
	} else if !got {
		return nil, errs.WithHint(errs.New(errs.LockAcquire, "unable to acquire pgBackRest advisory lock"),
			"is another pgBackRest backup already running on this cluster?")
	}

	b := &Backup{conn: c}
	if b.Time, err = c.Now(ctx); err != nil {
		return nil, err
	}
	if how.CheckArchive {
		r, err := c.queryRow(ctx, "select pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())")
		if err != nil {
			return nil, err
		}
		if b.CheckSegment = r.text(); r.err != nil {
			return nil, r.err
		}
	}

	arguments := quoteLiteral(how.Label) + ", " + strconv.FormatBool(how.Fast)
	if c.version < 150000 {
		arguments += ", false" // not exclusive
	}
	r, err = c.queryRow(ctx, "select lsn, pg_catalog.pg_walfile_name(lsn) from pg_catalog."+
		bareName(start)+"("+arguments+") as lsn", start)
	if err != nil {
		return nil, err
	}
	b.LSN = r.lsn()
	b.Segment = r.text()
	if r.err != nil {
		return nil, r.err
	}
	// The start switches segments, so the one before is on its way to the archive.
	// Not if it had just been switched: then the backup begins in the same segment.
	if how.CheckArchive && b.CheckSegment == b.Segment {
		if _, err := c.SwitchWAL(ctx); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Stop ends the backup. It does not wait until the last segment is archived.
func (b *Backup) Stop(ctx context.Context) (BackupStop, error) {
	c := b.conn
	_, stop := c.functions()
	arguments := "false" // do not wait for the archive
	if c.version < 150000 {
		arguments = "false, false"
	}
	r, err := c.queryRow(ctx, "select lsn, pg_catalog.pg_walfile_name(lsn),"+
		" (select setting from pg_catalog.pg_settings where name = 'wal_segment_size'), labelfile, spcmapfile, "+
		microseconds("pg_catalog.clock_timestamp()")+
		" from pg_catalog."+bareName(stop)+"("+arguments+")", stop)
	if err != nil {
		return BackupStop{}, err
	}
	s := BackupStop{LSN: r.lsn()}
	named := r.text()
	size := r.int()
	s.BackupLabel = r.text()
	s.TablespaceMap = r.text()
	s.Time = r.time()
	if r.err != nil {
		return BackupStop{}, r.err
	}
	if strings.TrimSpace(s.TablespaceMap) == "" {
		s.TablespaceMap = ""
	}
	// The stop LSN is the end of the last record. Should that be the end of a segment
	// too, PostgreSQL 17 and later name the next segment, which may not be archived
	// for hours; the one that is needed holds the byte before.
	timeline, err := strconv.ParseUint(named[:min(8, len(named))], 16, 32)
	if err != nil {
		return BackupStop{}, errs.New(errs.Format, "backup stopped in '%s', which is not the name of a WAL segment", named)
	}
	s.Segment = postgres.SegmentName(postgres.Timeline(timeline), s.LSN-1, size)
	return s, nil
}

// mayExecute makes sure that the user may execute the functions.
func (c *Conn) mayExecute(ctx context.Context, functions []string) error {
	var columns []string
	for _, f := range functions {
		columns = append(columns, "pg_catalog.has_function_privilege("+quoteLiteral("pg_catalog."+f)+", 'execute')")
	}
	r, err := c.queryRow(ctx, "select "+strings.Join(columns, ", "))
	if err != nil {
		return err
	}
	var denied []string
	for _, f := range functions {
		if !r.bool() {
			denied = append(denied, f)
		}
	}
	if r.err != nil || len(denied) == 0 {
		return r.err
	}
	return c.grantHints(errs.New(errs.DbQuery, "user '%s' may not execute %s", c.user, strings.Join(denied, ", ")), denied)
}

// bareName gives the name in front of the argument types.
func bareName(function string) string {
	name, _, _ := strings.Cut(function, "(")
	return name
}
