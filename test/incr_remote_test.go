package test

import (
	"fmt"
	"strings"
	"testing"
)

// TestRemoteChain: from a repository host over SSH too, only what has changed is copied, and what
// was compared on the PostgreSQL host does not travel. pgbackrest continues the chain.
func TestRemoteChain(t *testing.T) {
	r := newRemote(t, "pgbackrest") // which makes no backup of a cluster that another tool archives
	c := r.pg[0]
	c.tool = "pgx"
	c.there("stanza-create")
	c.Exec(`create table t as select g as id, md5(g::text) as what from generate_series(1, 20000) g`)
	c.Exec(`create table still as select g as id, md5(g::text) as what from generate_series(1, 30000) g; checkpoint`)
	c.archived()
	c.there("backup", "--type=full", "--repo1-bundle")
	still := c.data + "/" + c.QueryValue(`select pg_relation_filepath('still')`)
	for n, args := range [][]string{{"--type=diff", "--repo1-bundle"}, {"--type=incr", "--delta", "--repo1-hardlink"}, {"--type=incr", "--delta", "--repo1-bundle"}} {
		c.Exec(fmt.Sprintf(`create table t%d as select g from generate_series(1, 1000) g; checkpoint`, n))
		c.must("touch", still)
		tool := "pgx"
		if n == 2 {
			tool = "pgbackrest"
		}
		said := c.repo.must(append([]string{tool, "--stanza=" + c.stanza, "backup", "--log-level-console=detail", "--no-expire-auto"}, args...)...)
		if want := "match file from prior backup "; n > 0 && (!strings.Contains(said, want) || !strings.Contains(said, still)) {
			t.Errorf("backup %v says\n%s", args, said)
		}
		c.sameInfo()
	}
	c.there("backup", "--type=incr", "--repo1-bundle", "--delta")
	c.sameInfo()
	c.disaster()
	c.theirs()
	for _, c := range r.pg {
		c.idle()
	}
	r.repo.idle()
}
