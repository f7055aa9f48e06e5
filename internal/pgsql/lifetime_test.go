package pgsql_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// aborted is what the server says when a session ends that is in a backup.
const aborted = "aborting backup due to backend exiting"

// slowCheckpoints makes a backup that does not ask for a fast start wait for long.
func slowCheckpoints(t *testing.T, major int) *pgtest.Cluster {
	t.Helper()
	c := pgtest.New(t, pgtest.Options{Major: major, Config: archiving(map[string]string{
		"checkpoint_timeout": "1h", "checkpoint_completion_target": "0.9",
	})})
	c.Start()
	c.Exec("create table t as select i, repeat('x', 500) from generate_series(1, 20000) i")
	return c
}

// sessionPID gives the process of the session of ours, 0 if there is none.
func sessionPID(c *pgtest.Cluster) int {
	pid, _ := strconv.Atoi(c.QueryValue("select pid from pg_stat_activity where application_name = 'pgx [test]'"))
	return pid
}

func TestCloseEndsBackup(t *testing.T) {
	each(t, func(t *testing.T, major int) {
		cluster := pgtest.New(t, pgtest.Options{Major: major, Config: archiving(nil)})
		cluster.Start()
		conn := connect(t, superuser(cluster))
		if _, err := conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "x", Fast: true}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := conn.Close(ctx); err != nil {
			t.Fatal(err)
		}
		// Not eventually: when Close returns, it has happened.
		if !strings.Contains(cluster.Log(), aborted) {
			t.Errorf("the server is still in backup mode:\n%s", cluster.Log())
		}
		if pid := sessionPID(cluster); pid != 0 {
			t.Errorf("session %d is still there", pid)
		}
	})
}

// The wait for the checkpoint ends at once when the command is told to end.
func TestCancelDuringStart(t *testing.T) {
	each(t, func(t *testing.T, major int) {
		cluster := slowCheckpoints(t, major)
		conn := connect(t, superuser(cluster))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		started := make(chan error, 1)
		go func() {
			_, err := conn.StartBackup(ctx, pgsql.BackupStart{Label: "x"})
			started <- err
		}()
		pgtest.Eventually(t, "wait for the checkpoint", func() bool {
			return cluster.QueryValue("select count(*) from pg_stat_activity where application_name = 'pgx [test]'"+
				" and wait_event like 'Checkpoint%'") == "1"
		})
		began := time.Now()
		cancel()
		if err := <-started; errs.CodeOf(err) != errs.Term || !strings.HasSuffix(err.Error(), ": context canceled") {
			t.Errorf("got [%d] %v", errs.CodeOf(err), err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("took %v", took)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
		if pid := sessionPID(cluster); pid != 0 {
			t.Errorf("session %d is still there", pid)
		}
	})
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	cluster := slowCheckpoints(t, 17)
	p := superuser(cluster)
	p.Timeout = time.Second
	conn := connect(t, p)
	_, err := conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "x"})
	wantError(t, err, errs.DbQuery,
		"query 'select lsn, pg_catalog.pg_walfile_name(lsn) from pg_catalog.pg_backup_start('x', false) as lsn'"+
			" timed out after 1000ms\nHINT: option db-timeout says how long a query may take")
	// The session has survived its statement.
	if err := conn.Alive(t.Context()); err != nil {
		t.Error(err)
	}
}

// A server that crashes, or a session that is ended by somebody else, is noticed.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	const hint = "\nHINT: look in the PostgreSQL log for a crash, a restart or a session that was terminated"
	for _, c := range []struct {
		name string
		lose func(*pgtest.Cluster)
	}{
		{"crash", (*pgtest.Cluster).Kill},
		{"restart", func(c *pgtest.Cluster) { c.Stop(pgtest.Fast); c.Start() }},
		{"terminated", func(c *pgtest.Cluster) {
			c.Exec(fmt.Sprintf("select pg_terminate_backend(%d)", sessionPID(c)))
			pgtest.Eventually(t, "end of the session", func() bool { return sessionPID(c) == 0 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.New(t, pgtest.Options{Config: archiving(nil)})
			cluster.Start()
			conn := connect(t, superuser(cluster))
			b, err := conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "x", Fast: true})
			if err != nil {
				t.Fatal(err)
			}
			c.lose(cluster)
			err = conn.Alive(t.Context())
			const start = "unable to complete query 'select pg_catalog.pg_is_in_recovery()', the connection to PostgreSQL was lost: "
			if errs.CodeOf(err) != errs.DbQuery || !strings.HasPrefix(err.Error(), start) || !strings.HasSuffix(err.Error(), hint) {
				t.Errorf("got [%d] %v", errs.CodeOf(err), err)
			}
			if _, err := b.Stop(t.Context()); errs.CodeOf(err) != errs.DbQuery {
				t.Errorf("stop gives %v", err)
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server process that does not react does not keep the command from ending.
func TestHangingServer(t *testing.T) {
	t.Parallel()
	stop := func(t *testing.T, pid int) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	}
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		cluster := pgtest.New(t, pgtest.Options{})
		cluster.Start()
		conn := connect(t, superuser(cluster))
		pid := sessionPID(cluster)
		stop(t, pid)
		began := time.Now()
		err := conn.Close(t.Context())
		if errs.CodeOf(err) != errs.DbQuery || !strings.HasPrefix(err.Error(), fmt.Sprintf("PostgreSQL process %d did not end its session within 5s: ", pid)) {
			t.Errorf("got [%d] %v", errs.CodeOf(err), err)
		}
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("in a query", func(t *testing.T) {
		t.Parallel()
		cluster := pgtest.New(t, pgtest.Options{})
		cluster.Start()
		conn := connect(t, superuser(cluster))
		stop(t, sessionPID(cluster))
		stop(t, cluster.Pid()) // nobody takes the cancel request either
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := conn.Alive(ctx); errs.CodeOf(err) != errs.DbQuery {
			t.Errorf("got [%d] %v", errs.CodeOf(err), err)
		}
		if err := conn.Close(ctx); errs.CodeOf(err) != errs.DbQuery {
			t.Errorf("got [%d] %v", errs.CodeOf(err), err)
		}
		if took := time.Since(began); took > 14*time.Second {
			t.Errorf("took %v", took)
		}
		_ = syscall.Kill(cluster.Pid(), syscall.SIGCONT)
	})
	t.Run("connecting", func(t *testing.T) {
		t.Parallel()
		cluster := pgtest.New(t, pgtest.Options{})
		cluster.Start()
		stop(t, cluster.Pid())
		p := superuser(cluster)
		p.Timeout = time.Second
		_, err := pgsql.Connect(t.Context(), p)
		wantError(t, err, errs.DbConnect, fmt.Sprintf(
			"unable to connect to 'dbname='postgres' port=%d user='postgres' host='%s'': no answer from '%[2]s/.s.PGSQL.%[1]d' within 1s"+
				"\nHINT: is PostgreSQL overloaded or stopped by a signal?", cluster.Port, cluster.SocketDir))
		_ = syscall.Kill(cluster.Pid(), syscall.SIGCONT)
	})
}

func TestPromotion(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgtest.Options{Major: 18})
	if err := os.WriteFile(filepath.Join(cluster.PGDATA, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cluster.Start()
	conn := connect(t, superuser(cluster))
	facts, err := conn.Facts(t.Context())
	if err != nil || !facts.InRecovery {
		t.Errorf("standby: %+v, %v", facts, err)
	}
	if err := conn.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	cluster.Exec("select pg_promote()")
	wantError(t, conn.Alive(t.Context()), errs.DbMismatch,
		"standby is no longer in recovery\nHINT: was the standby promoted during the backup?")
}

// The lock is taken and heeded as by the releases of pgBackRest that know it.
func TestAdvisoryLock(t *testing.T) {
	t.Parallel()
	old := pgtest.Old(t)
	dir := pgtest.Dir(t)
	conf := filepath.Join(dir, "pgbackrest.conf")
	command := "pgbackrest --config=" + conf + " --stanza=demo"
	cluster := pgtest.New(t, pgtest.Options{Config: archiving(map[string]string{
		"archive_command": strings.Replace(command, "pgbackrest", old, 1) + " archive-push %p",
	})})
	cluster.Start()
	text := fmt.Sprintf("[global]\nrepo1-path=%[1]s/repo\nlog-path=%[1]s\nlock-path=%[1]s/lock\nlog-level-console=info\n"+
		"repo1-retention-full=1\nstart-fast=y\n[demo]\npg1-path=%[2]s\npg1-port=%[3]d\npg1-socket-path=%[4]s\n",
		dir, cluster.PGDATA, cluster.Port, cluster.SocketDir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := strings.Fields(command)[1:]
	if out, err := pgtest.Command(t, old, append(args, "stanza-create")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	conn := connect(t, superuser(cluster))
	b, err := conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "x", Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	const words = "unable to acquire pgBackRest advisory lock\nHINT: is another pgBackRest backup already running on this cluster?"
	second := connect(t, superuser(cluster))
	_, err = second.StartBackup(t.Context(), pgsql.BackupStart{Label: "y", Fast: true})
	wantError(t, err, errs.LockAcquire, words)
	out, err := pgtest.Command(t, old, append(args, "backup")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ERROR: [050]: unable to acquire pgBackRest advisory lock") {
		t.Errorf("pgbackrest beside us: %v\n%s", err, out)
	}

	if _, err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := pgtest.Command(t, old, append(args, "backup")...).CombinedOutput(); err != nil {
		t.Errorf("pgbackrest after us: %v\n%s", err, out)
	}
}
