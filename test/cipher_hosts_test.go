package test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCipherRemote: with a repository host encryption is set there and nowhere else. All
// that PostgreSQL hosts do works, is encrypted by them, and leaves no passphrase on them.
func TestCipherRemote(t *testing.T) {
	r := newRemote(t, "pgx")
	conf := r.repo.read("/etc/pgbackrest/pgbackrest.conf")
	r.repo.write("/etc/pgbackrest/pgbackrest.conf",
		strings.Replace(conf, "[global]\n", "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass="+repoPass+"\n", 1), 0o640)
	c := r.pg[0]
	c.there("stanza-create")
	c.there("check")
	c.here("check")
	c.Exec(`create database needle_database`)
	c.Exec(`create table t as select g as id, 'plaintext-needle ' || g as what from generate_series(1, 20000) g`)
	c.archived()
	seen := watch(t, r.repo, c.host)
	c.there("backup", "--type=full", "--process-max=2")
	c.segments()
	c.Exec(`update t set what = 'plaintext-needle' where id % 100 = 0`)
	c.there("backup", "--type=incr")
	c.sameInfo()
	processes := seen()
	if said := c.here("info"); !strings.Contains(said, "cipher: aes-256-cbc") {
		t.Errorf("info on the PostgreSQL host says\n%s", said)
	}
	c.disaster()

	repo := r.repo.path("/var/lib/pgbackrest")
	archive, backup, backups := passes(t, repo, c.stanza)
	all := []string{repoPass, archive, backup}
	for _, p := range backups {
		all = append(all, p)
	}
	unreadable(t, repo, all...)
	// The PostgreSQL host has none of them, whatever it has done; the repository host that of its
	// configuration, in it alone.
	if got := holding(t, c.path(""), []string{"plaintext-needle"}); len(got) == 0 {
		t.Error("the files of the PostgreSQL host were not searched")
	}
	if got := holding(t, c.path(""), all); len(got) > 0 {
		t.Errorf("on the PostgreSQL host there is a passphrase in %q", got)
	}
	if got := holding(t, r.repo.path(""), all); !slices.Equal(got, []string{"etc/pgbackrest/pgbackrest.conf"}) {
		t.Errorf("on the repository host there is a passphrase in %q", got)
	}

	for _, want := range []string{"role=backup agent --stdio", "role=archive server --stdio"} {
		if !strings.Contains(processes, want) {
			t.Errorf("%q was not seen among the processes\n%s", want, processes)
		}
	}
	for _, p := range all {
		if strings.Contains(processes, p) {
			t.Error("a passphrase is in a command line or an environment")
		}
	}

	// What is taken over works on: pgbackrest on the repository host reads and restores it.
	c.theirsEncrypted()

	// A PostgreSQL host that wants encryption is not content with less, and does not use its own.
	mine := c.read("/etc/pgbackrest/pgbackrest.conf")
	set := func(lines string) {
		c.write("/etc/pgbackrest/pgbackrest.conf", strings.Replace(mine, "[global]\n", "[global]\n"+lines, 1), 0o644)
	}
	set("repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=another-passphrase\n")
	c.here("check")
	c.here("info")
	r.repo.write("/etc/pgbackrest/pgbackrest.conf", conf, 0o644)
	const less = "option 'repo1-cipher-type' is 'aes-256-cbc', but repo1 is not encrypted on host 'repo'"
	c.fails(95, less, c.line([]string{"check"})...)
	c.must("mkdir", "-m", "700", "/var/lib/postgresql/nothing")
	c.fails(95, less, c.line([]string{"restore", "--pg1-path=/var/lib/postgresql/nothing"})...)
	segment := c.full()
	c.fails(103, "is encrypted, but repo1-cipher-type is not set", c.line([]string{"archive-push", c.data + "/pg_wal/" + segment})...)
	set("")
	c.fails(95, "is encrypted, but repo1-cipher-type is not set", c.line([]string{"check"})...)
	r.repo.write("/etc/pgbackrest/pgbackrest.conf",
		strings.Replace(conf, "[global]\n", "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=another-passphrase\n", 1), 0o640)
	c.fails(95, "the passphrase of repo1 is wrong, or the file is damaged", c.line([]string{"check"})...)
	r.repo.write("/etc/pgbackrest/pgbackrest.conf",
		strings.Replace(conf, "[global]\n", "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass="+repoPass+"\n", 1), 0o640)
	c.here("check")
	c.archived()
	c.idle()
	r.repo.idle()
}

// theirsEncrypted is theirs for an encrypted repository.
func (c *remoteCluster) theirsEncrypted() {
	c.Helper()
	call := func(args ...string) string {
		c.Helper()
		return c.repo.must(append([]string{"pgbackrest", "--stanza=" + c.stanza}, args...)...)
	}
	if info := call("info"); !strings.Contains(info, "status: ok") || !strings.Contains(info, "cipher: aes-256-cbc") {
		c.Errorf("pgbackrest info says\n%s", info)
	}
	if said := call("verify", "--output=text"); strings.TrimSpace(said) != "" {
		c.Errorf("pgbackrest verify says\n%s", said)
	}
	// As if the cluster were on the repository host.
	dir := "/home/pgbackrest/" + c.stanza
	c.repo.write(dir+".conf", "[global]\nrepo1-path=/var/lib/pgbackrest\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass="+repoPass+
		"\n["+c.stanza+"]\npg1-path="+dir+"\n", 0o640)
	c.repo.must("mkdir", "-m", "700", dir)
	call("--config="+dir+".conf", "restore")
	if got := c.repo.must("ls", dir); !slices.Contains(strings.Fields(got), "PG_VERSION") {
		c.Errorf("in the restored directory is %s", got)
	}
}

// holding gives the files below the root of a host that have one of the passphrases.
func holding(t *testing.T, root string, passes []string) (names []string) {
	t.Helper()
	for _, dir := range []string{"etc/pgbackrest", "etc/pgx", "var/lib", "var/log", "var/spool", "var/tmp", "run", "root", "tmp", "home"} {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			continue
		}
		for _, f := range regular(t, filepath.Join(root, dir)) {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // gone
			}
			if slices.ContainsFunc(passes, func(p string) bool { return bytes.Contains(b, []byte(p)) }) {
				name, err := filepath.Rel(root, f)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, name)
			}
		}
	}
	return names
}
