package pgsql

import (
	"context"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// replayedFunction tells how far a standby is.
const replayedFunction = "pg_catalog.pg_last_wal_replay_lsn()"

// Replayed gives how far the server, a standby, has replayed the WAL. One that has been
// promoted since Connect is errs.DbMismatch.
func (c *Conn) Replayed(ctx context.Context) (postgres.LSN, error) {
	r, err := c.queryRow(ctx, "select pg_catalog.pg_is_in_recovery(), "+replayedFunction+" is not null,"+
		" coalesce("+replayedFunction+", '0/0')")
	if err != nil {
		return 0, err
	}
	inRecovery, known := r.bool(), r.bool()
	lsn := r.lsn()
	if r.err != nil {
		return 0, r.err
	}
	if err := c.sameRole(inRecovery); err != nil {
		return 0, err
	}
	if !known { // it never was in recovery
		return 0, errs.WithHint(errs.New(errs.ArchiveTimeout, "unable to query replay lsn on the standby using '%s'", replayedFunction),
			"Is this a standby?")
	}
	return lsn, nil
}

// Checkpoint writes a checkpoint at once. On a standby it is a restart point: everything up
// to the last checkpoint of the primary that was replayed is in the files then.
func (c *Conn) Checkpoint(ctx context.Context) error {
	// The server's own error does not say what to grant.
	may := "select rolsuper from pg_catalog.pg_roles where rolname = current_user"
	if c.version >= 150000 {
		may = "select pg_catalog.pg_has_role('pg_checkpoint', 'usage')"
	}
	r, err := c.queryRow(ctx, may)
	if err != nil {
		return err
	}
	allowed := r.bool()
	switch {
	case r.err != nil:
		return r.err
	case !allowed && c.version >= 150000:
		return errs.WithHint(errs.New(errs.DbQuery, "user '%s' may not execute CHECKPOINT", c.user),
			"run as a superuser: GRANT pg_checkpoint TO %s;", quoteIdent(c.user))
	case !allowed:
		return errs.WithHint(errs.New(errs.DbQuery, "user '%s' may not execute CHECKPOINT", c.user),
			"before PostgreSQL 15 only superusers may: set pg-user to one for a backup from a standby")
	}
	_, err = c.query(ctx, "checkpoint")
	return err
}

// sameRole is an error when the server, which says that it is in recovery or not, has
// become another one since Connect.
func (c *Conn) sameRole(inRecovery bool) error {
	switch {
	case c.inRecovery && !inRecovery:
		return errs.WithHint(errs.New(errs.DbMismatch, "standby is no longer in recovery"),
			"was the standby promoted during the backup?")
	case !c.inRecovery && inRecovery:
		return errs.New(errs.DbMismatch, "primary has switched to recovery")
	}
	return nil
}
