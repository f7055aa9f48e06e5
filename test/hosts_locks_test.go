package test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestLocksOfOtherHost: what is locked or stopped on the repository host is so for commands that
// change the repository from the PostgreSQL host. What only reads goes on; there a standby is
// checked without its primary.
func TestLocksOfOtherHost(t *testing.T) {
	n := newNetwork(t)
	repo, db := n.host("repo", "pgbackrest"), n.host("db1", "postgres")
	join(repo, db)
	const section, data = "\n[main]\npg1-path=/var/lib/postgresql/15/main\n", "/var/lib/postgresql/15/main"
	repo.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo1-path=/var/lib/pgbackrest\nrepo1-retention-full=9\n"+section+"pg1-host=db1\n", 0o644)
	db.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo1-host=repo\nrepo1-retention-full=9\nstart-fast=y\n"+section, 0o644)
	c := db.cluster(pgtest.Options{Major: 15, Config: map[string]string{"archive_mode": "on", "archive_command": "pgx archive-push %p"}})
	c.Start()

	held := func(typ string) (release func()) {
		t.Helper()
		const dir = "/tmp/pgbackrest/"
		repo.must("sh", "-c", "mkdir -p "+dir+" && touch "+dir+"main-"+typ+"-1.lock")
		f, err := os.OpenFile(repo.path(dir+"main-"+typ+"-1.lock"), os.O_RDWR, 0)
		if err == nil {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() { _ = f.Close() }
	}
	const busy = "on 'pgbackrest@repo:22': unable to acquire lock on file '/tmp/pgbackrest/main-"
	release := held("archive")
	db.fails(50, busy+"archive-1.lock'", "pgx", "stanza-create")
	release()
	db.must("pgx", "stanza-create")
	release = held("backup")
	db.fails(50, busy+"backup-1.lock'", "pgx", "backup", "--type=full", "--process-max=2")
	release()
	db.must("pgx", "backup", "--type=full", "--process-max=2")
	if left := repo.must("ls", "/tmp/pgbackrest") + db.must("ls", "/tmp/pgbackrest"); left != "" {
		t.Errorf("locks are left: %s", left)
	}

	repo.must("pgx", "stop")
	const stopped = "on 'pgbackrest@repo:22': stop file exists for all stanzas"
	db.fails(62, stopped, "pgx", "backup", "--type=full")
	db.fails(62, stopped, "pgx", "stanza-create")
	db.must("pgx", "info")
	segment := strings.Split(strings.TrimSpace(repo.must("sh", "-c", "ls /var/lib/pgbackrest/archive/main/15-1/*/ | grep -v :")), "-")[0]
	db.must("sh", "-c", "cd "+data+" && pgx archive-get "+segment+" pg_wal/RECOVERYXLOG && rm pg_wal/RECOVERYXLOG")
	repo.must("pgx", "start")

	c.Stop(pgtest.Fast)
	db.write(data+"/standby.signal", "", 0o600)
	c.Start()
	if said := db.must("pgx", "check", "--log-level-console=info"); !strings.Contains(said, "check repo1 (standby)") {
		t.Errorf("check of a standby says\n%s", said)
	}
	repo.fails(27, "primary database not found", "pgx", "check")
}
