package test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestAsyncHostDown: the repository host is out of reach for longer than the queue allows, and
// comes back. What operators look at is the same with either tool.
func TestAsyncHostDown(t *testing.T) {
	for _, tool := range []string{"pgx", "pgbackrest"} {
		t.Run(tool, func(t *testing.T) {
			r := newRemote(t, tool)
			c := r.pg[0]
			const spool, log = "/var/lib/postgresql/spool", "/var/lib/postgresql/log"
			c.must("mkdir", "-p", spool, log)
			c.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo1-host=repo\narchive-async=y\nspool-path="+spool+"\nlog-path="+log+
				"\nlog-level-file=detail\narchive-push-queue-max=64MB\narchive-timeout=10\nprocess-max=2\n\n[one]\npg1-path="+c.data+"\n", 0o644)
			c.there("stanza-create")
			out := func(name string) string { return filepath.Join(spool, "archive/one/out", name) }
			archiver := func(column string) string { return c.QueryValue(`select ` + column + ` from pg_stat_archiver`) }
			last := c.full()
			pgtest.Eventually(t, "archiving of "+last, func() bool { return archiver("last_archived_wal") == last })

			r.repo.reject(22)
			first := c.full()
			pgtest.Eventually(t, "a failure", func() bool { return archiver("failed_count") != "0" })
			// It is away for a moment with each try.
			pgtest.Eventually(t, "global.error", func() bool { return c.exists(out("global.error")) })
			if text := c.must("sh", "-c", "until cat "+out("global.error")+"; do sleep 0.1; done"); !strings.HasPrefix(text, "103\nunable to find a valid repository:\nrepo1: [") {
				t.Errorf("global.error is %q", text)
			} else {
				t.Logf("global.error is %q", text)
			}
			if archiver("last_archived_wal") != last || c.exists(out(first+".ok")) {
				t.Errorf("%s was acknowledged", first)
			}
			var names []string
			for range 6 {
				names = append(names, c.full())
			}
			pgtest.Eventually(t, "PostgreSQL to go on", func() bool { return archiver("last_archived_wal") >= names[3] })
			said := c.read(log + "/one-archive-push-async.log")
			for _, name := range append([]string{first}, names[:4]...) {
				if !strings.Contains(said, "WARN: dropped WAL file '"+name+"' because archive queue exceeded 64MB") {
					t.Errorf("the log does not say that %s was dropped", name)
				}
			}
			r.repo.mend()
			tries := 0
			pgtest.Eventually(t, "the archive of all WAL", func() bool {
				if tries++; tries%100 == 1 { // PostgreSQL rests after errors until there is more
					c.full()
				}
				waiting, err := filepath.Glob(c.PGDATA + "/pg_wal/archive_status/*.ready")
				return err == nil && len(waiting) == 0 && archiver("last_archived_wal") > names[5]
			})
			stored, err := filepath.Glob(r.repo.path("/var/lib/pgbackrest/archive/one/*/*/*-*"))
			if err != nil || slices.ContainsFunc(stored, func(path string) bool { return strings.Contains(path, first) }) {
				t.Errorf("%s was dropped, and the repository has %v, %v", first, stored, err)
			}
			c.must(tool, "--stanza=one", "stop")
			c.idle()
			r.repo.idle()
		})
	}
}
