package test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// standbySlot keeps the WAL that the standby has not got, also while it is stopped.
const standbySlot = "standby"

// standbyStep makes a standby, stops it, starts it or takes it away.
func (w *walk) standbyStep() {
	w.Helper()
	switch {
	case w.standby == nil:
		delay := pick(w, "0", "0", "700ms") // which leaves commits for later, not all else
		w.note("make a standby, with recovery_min_apply_delay = %s", delay)
		w.pg.Exec(`select pg_create_physical_replication_slot('` + standbySlot + `', true)`)
		w.standby = w.pg.Standby(nil, "")
		w.standby.Configure(map[string]string{
			"primary_slot_name": standbySlot, "wal_retrieve_retry_interval": "100ms", "recovery_min_apply_delay": delay,
		})
		w.standby.Start()
	case !w.standby.Running():
		w.noStandby()
		w.note("start the standby")
		w.standby.Start()
	default:
		switch how := pick(w, "stop", "stop", "restart", "crash", "take away"); how {
		case "take away":
			w.takeStandby()
		case "stop":
			w.note("stop the standby")
			w.standby.Stop(pick(w, pgtest.Fast, pgtest.Immediate))
			w.noStandby()
		case "restart":
			w.note("restart the standby")
			w.standby.Stop(pick(w, pgtest.Fast, pgtest.Immediate))
			w.standby.Start()
		case "crash":
			w.note("restart the standby after a crash")
			w.standby.Kill()
			w.standby.Start()
		}
	}
}

// noStandby makes sure that a backup is refused that needs the standby, which is stopped.
func (w *walk) noStandby() {
	w.Helper()
	tool, args := w.anyTool(), append([]string{"backup", "--type=incr"}, w.standbyArgs("y")...)
	w.note("%s", w.tell(tool, args))
	w.fails(int(errs.DbConnect), "unable to find standby cluster - cannot proceed", tool, args...)
}

// takeStandby stops the standby, if there is one, and takes it away.
func (w *walk) takeStandby() {
	w.Helper()
	if w.standby == nil {
		return
	}
	w.note("take the standby away")
	if w.standby.Running() {
		w.standby.Stop(pgtest.Immediate)
	}
	if err := os.RemoveAll(w.standby.PGDATA); err != nil {
		w.Fatal(err)
	}
	pgtest.Eventually(w.T, "the end of replication", func() bool {
		return w.pg.QueryValue(`select active from pg_replication_slots where slot_name = '`+standbySlot+`'`) == "f"
	})
	w.pg.Exec(`select pg_drop_replication_slot('` + standbySlot + `')`)
	w.standby = nil
}

// fromStandby draws whether a backup by a tool is one from the standby.
//
// What pgbackrest cannot do: a file that was written between the start of the backup and the listing of
// files has in its manifest the time which that gave it, and from the standby perhaps the content
// from before. The next backup without delta, a full one that goes on with this one too, takes the
// file for unchanged, and loses what it was not to replay. So pgbackrest makes such backups in some
// legs only, and from the first of them on all backups there have delta.
func (w *walk) fromStandby(tool string) []string {
	if w.standby == nil || tool == w.theirs && !w.theirStandby || w.oneIn(4) {
		return nil
	}
	if tool == w.theirs {
		w.doubtful = true
	}
	if !w.standby.Running() {
		return w.standbyArgs("prefer")
	}
	return w.standbyArgs(pick(w, "y", "prefer"))
}

func (w *walk) standbyArgs(mode string) []string {
	s := w.standby
	return []string{
		"--backup-standby=" + mode, "--pg2-path=" + s.PGDATA, "--pg2-port=" + strconv.Itoa(s.Port),
		"--pg2-socket-path=" + s.SocketDir, "--pg2-user=postgres", "--archive-timeout=25",
	}
}

// late has the standby, at times, stop replaying for some part of a backup from it. What it gives
// waits until it goes on.
func (w *walk) late(args []string) (wait func()) {
	w.Helper()
	if !slices.Contains(args, "--backup-standby=y") && !slices.Contains(args, "--backup-standby=prefer") || !w.standby.Running() || w.oneIn(2) {
		return func() {}
	}
	after := strconv.FormatFloat(3*w.rng.Float64(), 'f', 2, 64)
	w.note("the standby goes on after %ss", after)
	w.count["standbys late"]++
	w.standby.Exec(`select pg_wal_replay_pause()`)
	p := w.begin(w.standby.Command("psql", "-Xqc", "select pg_sleep("+after+")", "-c", "select pg_wal_replay_resume()"))
	return func() {
		w.Helper()
		if o := p.end(time.Minute); o.code != 0 {
			w.Errorf("psql: exit %d\n%s", o.code, o.all())
		}
	}
}

// missedRestartPoint says whether pgbackrest has failed where it does at times: it asks the standby for a
// restart point once, when that has replayed the start of the backup and perhaps not yet the
// checkpoint which it began with, and there is none until the next checkpoint.
func (w *walk) missedRestartPoint(tool string, o outcome) bool {
	return tool == w.theirs && o.code == int(errs.ArchiveTimeout) && strings.Contains(o.all(), "timeout before standby checkpoint lsn reached")
}
