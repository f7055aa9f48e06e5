package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestRemoteBlockDelta: a restore with delta that is started on the repository host mends the pages on the other that
// are damaged, one on the PostgreSQL host does the same, and both leave what pgbackrest restores.
func TestRemoteBlockDelta(t *testing.T) {
	r := newRemote(t, "pgx")
	c := r.pg[0]
	c.tool = "pgx"
	c.there("stanza-create")
	c.Exec(`create table t as select g as id, md5(g::text) as what from generate_series(1, 40000) g`)
	c.archived()
	c.there("backup", "--type=full", "--repo1-bundle", "--repo1-block")
	c.Exec(`update t set what = 'changed' where id % 1000 = 1; checkpoint`)
	c.there("backup", "--type=incr", "--repo1-bundle", "--repo1-block")
	want := "/var/lib/postgresql/want"
	c.must("mkdir", "-m", "700", want)
	c.must("pgbackrest", "--stanza="+c.stanza, "restore", "--pg1-path="+want, "--type=none")
	c.Stop(pgtest.Fast)
	for _, start := range []func(...string) string{c.there, c.here} {
		c.damagePages()
		said := start("restore", "--delta", "--type=none", "--log-level-console=detail")
		for _, part := range []string{", bi 8KB/", "exists and matches backup"} {
			if !strings.Contains(said, part) {
				t.Errorf("the restore does not tell '%s':\n%s", part, said)
			}
		}
		alike(t, c.path(c.data), c.path(want))
	}
}

// damagePages changes a page of each file of some size.
func (c *remoteCluster) damagePages() {
	c.Helper()
	err := filepath.WalkDir(c.path(c.data+"/base"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 64<<10 {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte("damaged"), 5*8192+100); err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		c.Fatal(err)
	}
}
