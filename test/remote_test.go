package test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// remoteSite is a repository host with the clusters of two PostgreSQL hosts.
type remoteSite struct {
	repo *host
	pg   []*remoteCluster
}

// remoteCluster is one of the clusters, on its host; tool archives it.
type remoteCluster struct {
	*host
	*pgtest.Cluster
	repo   *host
	tool   string
	stanza string
	data   string // PGDATA as the host knows it
}

// newRemote makes the hosts, each with the configuration that users would write, and starts
// the servers, whose archive_command calls the tool: "pgx" or "pgbackrest".
func newRemote(t *testing.T, tool string) *remoteSite {
	t.Helper()
	n := newNetwork(t)
	r := &remoteSite{repo: n.host("repo", "pgbackrest")}
	conf := "[global]\nrepo1-path=/var/lib/pgbackrest\nrepo1-retention-full=2\nstart-fast=y\ncompress-type=lz4\n"
	for i, major := range []int{15, 17} {
		c := &remoteCluster{
			host: n.host(fmt.Sprintf("db%d", i+1), "postgres"), repo: r.repo, tool: tool,
			stanza: []string{"one", "two"}[i], data: fmt.Sprintf("/var/lib/postgresql/%d/main", major),
		}
		join(r.repo, c.host)
		section := fmt.Sprintf("\n[%s]\npg1-path=%s\n", c.stanza, c.data)
		conf += section + fmt.Sprintf("pg1-host=%s\n", c.name)
		c.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo1-host=repo\n"+section, 0o644)
		c.Cluster = c.cluster(pgtest.Options{Major: major, Checksums: true, Config: map[string]string{
			"archive_mode": "on", "wal_level": "replica", "archive_command": fmt.Sprintf("%s --stanza=%s archive-push %%p", tool, c.stanza),
		}})
		c.Start()
		r.pg = append(r.pg, c)
	}
	r.repo.write("/etc/pgbackrest/pgbackrest.conf", conf, 0o644)
	return r
}

// here and there run the tool for the stanza on the PostgreSQL host and on the repository
// host.
func (c *remoteCluster) here(args ...string) string  { c.Helper(); return c.must(c.line(args)...) }
func (c *remoteCluster) there(args ...string) string { c.Helper(); return c.repo.must(c.line(args)...) }
func (c *remoteCluster) line(args []string) []string {
	return append([]string{c.tool, "--stanza=" + c.stanza}, args...)
}

// full ends the current segment, which has something, and gives its name.
func (c *remoteCluster) full() string {
	c.Helper()
	c.Exec(`select pg_create_restore_point('test')`)
	return c.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
}

// archived ends the current segment and waits until it is in the repository.
func (c *remoteCluster) archived() {
	c.Helper()
	name := c.full()
	pgtest.Eventually(c.T, "archiving of "+name, func() bool {
		found, err := filepath.Glob(c.repo.path(filepath.Join("/var/lib/pgbackrest/archive", c.stanza, "*", name[:16], name+"-*")))
		return err == nil && len(found) == 1 && !strings.HasSuffix(found[0], ".tmp")
	})
}

// TestRemote goes through the commands with a repository host and two PostgreSQL hosts.
// That pgbackrest passes too shows that the test asks for what users have.
func TestRemote(t *testing.T) {
	for _, tool := range []string{"pgx", "pgbackrest"} {
		t.Run(tool, func(t *testing.T) {
			r := newRemote(t, tool)
			for _, c := range r.pg {
				c.there("stanza-create")
			}
			for _, c := range r.pg {
				c.there("check")
				c.here("check")
				c.Exec(`create table t as select g as id, md5(g::text) as what from generate_series(1, 20000) g`)
				c.archived()
				c.there("backup", "--type=full", "--process-max=2")
				c.sameInfo()
			}
			for _, c := range r.pg {
				c.disaster()
				c.stopped()
			}
			for _, c := range r.pg {
				c.theirs()
				c.idle()
			}
			r.repo.idle()
		})
	}
}

// sameInfo: both hosts tell the same of the stanza.
func (c *remoteCluster) sameInfo() {
	c.Helper()
	for _, output := range []string{"text", "json"} {
		here, there := c.here("info", "--output="+output), c.there("info", "--output="+output)
		for again := ""; here != there && again != here; { // a server fills a segment now and then
			again = here
			here, there = c.here("info", "--output="+output), c.there("info", "--output="+output)
		}
		if here != there || !strings.Contains(here, "F") || !strings.Contains(here, c.stanza) {
			c.Errorf("info --output=%s on host '%s':\n%s\nand on the repository host:\n%s", output, c.name, here, there)
		}
	}
	if text := c.here("info"); !strings.Contains(text, "full backup: ") || !strings.Contains(text, "status: ok") {
		c.Errorf("info says\n%s", text)
	}
}

// disaster: PGDATA is lost and comes back, with what was archived after the backup.
func (c *remoteCluster) disaster() {
	c.Helper()
	c.Exec(`insert into t select g, 'after' from generate_series(20001, 20100) g`)
	c.archived()
	c.Kill()
	c.must("find", c.data, "-mindepth", "1", "-delete")
	c.here("restore", "--process-max=2")
	if auto := c.read(c.data + "/postgresql.auto.conf"); !strings.Contains(auto, "archive-get") {
		c.Errorf("postgresql.auto.conf has\n%s", auto)
	}
	c.Start()
	promoted(c.T, c.Cluster)
	if got := c.QueryValue(`select count(*) || ' ' || sum(id) from t`); got != "20100 202015050" {
		c.Errorf("after the restore, table t holds %s", got)
	}
	if !strings.Contains(c.Log(), "restored log file") {
		c.Error("recovery read nothing from the archive")
	}
	c.archived() // on the new timeline
	c.there("check")
}

// stopped: stop on the repository host is obeyed on the PostgreSQL host, until start.
func (c *remoteCluster) stopped() {
	c.Helper()
	c.there("stop")
	segment := c.full()
	// To both tools it is a repository that cannot be used.
	message := "stop file exists for stanza " + c.stanza
	c.fails(103, message, c.line([]string{"archive-push", c.data + "/pg_wal/" + segment})...)
	pgtest.Eventually(c.T, "a complaint of the archiver", func() bool { return strings.Contains(c.Log(), message) })
	if c.QueryValue(`select count(*) from pg_ls_archive_statusdir() where name like '%.ready'`) == "0" {
		c.Error("the server believes that all is archived")
	}
	c.there("start")
	c.archived()
}

// theirs: pgbackrest on the repository host reads, verifies and restores what is there.
func (c *remoteCluster) theirs() {
	c.Helper()
	call := func(args ...string) string {
		c.Helper()
		return c.repo.must(append([]string{"pgbackrest", "--stanza=" + c.stanza}, args...)...)
	}
	if info := call("info"); !strings.Contains(info, "status: ok") || !strings.Contains(info, "full backup: ") {
		c.Errorf("pgbackrest info says\n%s", info)
	}
	if said := call("verify", "--output=text"); strings.TrimSpace(said) != "" {
		c.Errorf("pgbackrest verify says\n%s", said)
	}
	// As if the cluster were on the repository host.
	dir := "/home/pgbackrest/" + c.stanza
	c.repo.write(dir+".conf", fmt.Sprintf("[global]\nrepo1-path=/var/lib/pgbackrest\n[%s]\npg1-path=%s\n", c.stanza, dir), 0o644)
	c.repo.must("mkdir", "-m", "700", dir)
	call("--config="+dir+".conf", "restore")
	got := c.repo.must("ls", dir)
	for _, name := range []string{"PG_VERSION", "backup_label", "base", "global", "recovery.signal"} {
		if !slices.Contains(strings.Fields(got), name) {
			c.Errorf("'%s' is not in the restored directory, which has %s", name, got)
		}
	}
}
