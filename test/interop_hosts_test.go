package test

import (
	"fmt"
	"strings"
	"testing"
)

// TestInteropHosts: a repository host makes chains with hard links of clusters on other hosts, with
// both tools in turn. On the PostgreSQL hosts both restore the same.
func TestInteropHosts(t *testing.T) {
	if !everyStep {
		t.Skip("TestRemoteChain is the sample of it")
	}
	for _, pass := range []string{"", repoPass} {
		t.Run(fmt.Sprintf("encrypted %t", pass != ""), func(t *testing.T) {
			r := newRemote(t, "pgbackrest") // which makes no backup of a cluster that another tool archives
			options := "repo1-hardlink=y\n"
			if pass != "" {
				options += "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=" + pass + "\n"
			}
			const name = "/etc/pgbackrest/pgbackrest.conf"
			r.repo.write(name, strings.Replace(r.repo.read(name), "[global]\n", "[global]\n"+options, 1), 0o640)
			for n, c := range r.pg {
				c.chain(n == 1, pass)
			}
			r.repo.idle()
		})
	}
}

// chain makes a chain, of which pgbackrest makes the first backup or the second.
func (c *remoteCluster) chain(theirs bool, pass string) {
	c.Helper()
	c.tool = "pgx"
	c.there("stanza-create")
	c.Exec(`create table t as select g as id, md5(g::text) as what from generate_series(1, 20000) g`)
	c.archived()
	var labels []string
	repo := c.repo.path("/var/lib/pgbackrest")
	for n, kind := range chainKinds {
		tool := "pgx"
		args := []string{"--stanza=" + c.stanza, "backup", "--no-expire-auto"}
		if kind != "" {
			args = append(args, kind)
		}
		if (n%2 == 1) != theirs {
			tool = "pgbackrest"
		}
		c.repo.must(append([]string{tool}, args...)...)
		latest := c.repo.must("readlink", "/var/lib/pgbackrest/backup/"+c.stanza+"/latest")
		labels = append(labels, strings.TrimSpace(latest))
		if tool == "pgx" {
			placed(c.T, repo, c.stanza, manifests(c.T, repo, c.stanza, labels, pass != ""), true)
		}
		c.sameInfo()
		c.Exec(fmt.Sprintf(`create table t%d as select g from generate_series(1, 1000) g; update t set what = 'changed' where id %% 7 = %d; checkpoint`, n, n))
	}
	for n, label := range labels {
		var dirs []string
		for _, tool := range []string{"pgx", "pgbackrest"} {
			dir := fmt.Sprintf("/var/lib/postgresql/%s%d", tool, n)
			c.must("mkdir", "-m", "700", dir)
			c.must(tool, "--stanza="+c.stanza, "restore", "--pg1-path="+dir, "--set="+label, "--type=none")
			dirs = append(dirs, c.path(dir))
		}
		alike(c.T, dirs[0], dirs[1])
	}
	c.disaster()
	c.idle()
}
