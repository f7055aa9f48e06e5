package pgsql_test

import (
	"os"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// A standby tells how far it is and writes what it has; only who may can ask for that.
func TestReplay(t *testing.T) {
	page, err := os.ReadFile("../../docs/grants.md")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, major int) {
		primary := pgtest.New(t, pgtest.Options{Major: major})
		primary.Start()
		standby := primary.Standby(nil, "")
		standby.Start()
		primary.Exec("create role pgx login; create table t as select 1; checkpoint")
		standby.Follows(primary)

		conn := connect(t, superuser(standby))
		lsn, err := conn.Replayed(t.Context())
		if want := standby.QueryValue("select pg_last_wal_replay_lsn()"); err != nil || lsn.String() != want {
			t.Errorf("replayed up to %v, not %s: %v", lsn, want, err)
		}
		checkpointed := func(conn *pgsql.Conn) {
			t.Helper()
			if err := conn.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			const last = "select redo_lsn from pg_control_checkpoint()"
			if ours, theirs := standby.QueryValue(last), primary.QueryValue(last); ours != theirs {
				t.Errorf("the restart point is %s, not %s", ours, theirs)
			}
		}
		checkpointed(conn)

		p := superuser(standby)
		p.User = "pgx"
		weak := connect(t, p)
		hint := "before PostgreSQL 15 only superusers may: set pg-user to one for a backup from a standby"
		if major >= 15 {
			hint = `run as a superuser: GRANT pg_checkpoint TO "pgx";`
		}
		wantError(t, weak.Checkpoint(t.Context()), errs.DbQuery, "user 'pgx' may not execute CHECKPOINT\nHINT: "+hint)
		if major >= 15 {
			_, statement, _ := strings.Cut(hint, ": ")
			statement = strings.ReplaceAll(statement, `"`, "")
			if !strings.Contains(string(page), "\n"+statement+"\n") {
				t.Errorf("'%s' is not on the page", statement)
			}
			primary.Exec(statement + " checkpoint")
			standby.Follows(primary)
			checkpointed(weak)
		}

		other := connect(t, superuser(primary))
		_, err = other.Replayed(t.Context())
		wantError(t, err, errs.ArchiveTimeout,
			"unable to query replay lsn on the standby using 'pg_catalog.pg_last_wal_replay_lsn()'\nHINT: Is this a standby?")
		standby.Exec("select pg_promote()")
		_, err = conn.Replayed(t.Context())
		wantError(t, err, errs.DbMismatch, "standby is no longer in recovery\nHINT: was the standby promoted during the backup?")
	})
}
