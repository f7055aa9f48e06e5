package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestAsyncRecovery: a recovery that fetches ahead gets to the same end as one that does not,
// whatever happens to its worker and its spool, and none but that.
func TestAsyncRecovery(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	const segments = 40
	fetching := map[string]string{
		"archive-async": "y", "archive-get-queue-max": "8MB", "log-level-console": "info", "log-level-file": "detail",
		"compress-type": "none", "archive-timeout": "2",
	}
	s := newStory(t, 15, map[string]string{"compress-type": "none", "archive-async": "y"})
	t.Cleanup((&async{site: s.site}).noWorkers)
	s.backup()
	var names []string
	for range segments {
		names = append(names, s.grow(1))
	}
	s.pg.Stop(pgtest.Fast)
	middle, last := names[segments/2], names[segments-1]

	// fork is the story for one subtest.
	fork := func(t *testing.T, global map[string]string) *async {
		t.Helper()
		a := &async{site: s.fork(t, strings.ReplaceAll(filepath.Base(t.Name()), "_", "-"), merged(fetching, global)), tool: pgxPath()}
		t.Cleanup(a.noWorkers)
		return a
	}
	restored := func(a *async, args ...string) *pgtest.Cluster {
		a.Helper()
		return a.attach(a.restore("data", pgxPath(), append([]string{"--archive-mode=off"}, args...)...))
	}
	const found, ahead = "in the archive asynchronously", "INFO: found "

	t.Run("to the end", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		pg := restored(a)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, segments)
		got := 0
		for line := range strings.Lines(pg.Log()) {
			if strings.Contains(line, ahead) && strings.Contains(line, found) {
				got++
			}
		}
		if t.Logf("of %d segments %d were there before they were asked for", segments, got); got < segments/4 {
			t.Error("that is not ahead")
		}
		if !strings.Contains(pg.Log(), "unable to find 00000002.history in the archive") {
			t.Error("PostgreSQL was not told that there is no other timeline")
		}
	})
	t.Run("the archive ends", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		a.away(a.only(last))
		pg := restored(a)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, segments-1)
		if !strings.Contains(pg.Log(), "unable to find "+last+" "+found) {
			t.Error("the log does not say what is missing")
		}
	})
	t.Run("the archive ends later than it did", func(t *testing.T) {
		t.Parallel()
		a := fork(t, map[string]string{"archive-get-queue-max": "128MB"})
		back := a.away(a.only(last))
		pg := restored(a, "--type=standby")
		pg.Start()
		pgtest.Eventually(t, "all rows that there are", func() bool { return pg.QueryValue(rowsSQL) == rowsTo(segments-1) })
		back() // what was missing before is not held missing
		pgtest.Eventually(t, "the last row", func() bool { return pg.QueryValue(rowsSQL) == rowsTo(segments) })
	})
	t.Run("damaged segment", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		repair := a.damage(middle)
		pg := restored(a)
		a.refusesToPromote(pg)
		a.refusesToPromote(pg)
		repair()
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, segments)
	})
	t.Run("repository gone", func(t *testing.T) {
		t.Parallel()
		a := fork(t, map[string]string{"archive-get-queue-max": "2MB"})
		gone, wrapper := filepath.Join(a.dir, "gone"), filepath.Join(a.dir, "wrapper")
		a.write(wrapper, "#!/bin/sh\n"+fmt.Sprintf("case \"$*\" in *%s*) if ! test -e %s; then >%[2]s; mv %[3]s %[3]s.away; fi;; esac\nexec %[4]s \"$@\"\n",
			middle, gone, a.repo, pgxPath()))
		a.chmod(wrapper, 0o755)
		pg := restored(a, "--cmd="+wrapper)
		a.refusesToPromote(pg)
		a.refusesToPromote(pg)
		if o := a.exec(pgtest.Command(t, "mv", a.repo+".away", a.repo)); o.code != 0 {
			t.Fatal(o.all())
		}
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, segments)
	})
	t.Run("worker killed", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		pg := restored(a)
		started, killed := make(chan error, 1), 0
		go func() { started <- pg.TryStart() }()
		for running := true; running; {
			select {
			case err := <-started:
				if running = false; err != nil {
					t.Fatal(err)
				}
			default:
			}
			for _, pid := range a.processes("archive-get:async") {
				kill(t, pid, syscall.SIGKILL)
				killed++
			}
		}
		promoted(t, pg)
		hasRows(t, pg, segments)
		if t.Logf("%d workers were killed", killed); killed == 0 {
			t.Error("there was none")
		}
	})
	t.Run("read-only spool", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		a.chmod(a.empty("spool"), 0o500)
		pg := restored(a)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, segments)
		if !strings.Contains(pg.Log(), "WAL is fetched when PostgreSQL asks for it") {
			t.Error("PostgreSQL's log does not say what is wrong with the spool")
		}
	})
	t.Run("full spool", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		a.small("spool", 3) // less than is to be fetched ahead
		pg := restored(a)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, segments)
	})
	t.Run("two share a spool", func(t *testing.T) {
		t.Parallel()
		a := fork(t, nil)
		// Of the same cluster, so nothing but the data directory tells them apart.
		var all []*pgtest.Cluster
		for _, name := range []string{"one", "two"} {
			all = append(all, a.attach(a.restore(name, pgxPath(), "--archive-mode=off")))
		}
		for _, pg := range all {
			pg.Start()
		}
		for _, pg := range all {
			promoted(t, pg)
			hasRows(t, pg, segments)
		}
	})
}
