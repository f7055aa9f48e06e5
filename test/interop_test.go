package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

var compressTypes = []string{"none", "gz", "bz2", "lz4", "zst"}

// oldDiffers are the files that pgbackrest 2.45 restores otherwise than later releases and
// pgx: they make pg_control unusable without backup_label, and write no recovery.signal for
// --type=none.
func oldDiffers(name string) bool { return name == "global/pg_control" || name == "recovery.signal" }

// TestOursRestoredByTheirs: a full backup of pgx, restored by both releases of
// pgbackrest and by pgx, is the same file by file; and it is a cluster.
func TestOursRestoredByTheirs(t *testing.T) {
	for _, codec := range compressTypes {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Options{Checksums: true}, map[string]string{"compress-type": codec})
			s.fill()
			space := s.empty("space")
			s.pg.Exec(fmt.Sprintf(`create tablespace space location '%s'`, space))
			s.pg.Exec(`create table far tablespace space as select g, md5(g::text) from generate_series(1, 2000) g`)
			s.must(pgxPath(), "backup", "--type=full", "--annotation=who=test")
			s.pg.Exec(`select pg_switch_wal()`)

			spaces := map[string]string{}
			restore := func(name, tool string) map[string]node {
				spaces[name] = s.empty(name + "-space")
				dir := s.restore(name, tool, "--type=none", "--tablespace-map=space="+spaces[name])
				return tree(t, dir)
			}
			ours, theirs, old := restore("ours", pgxPath()), restore("theirs", pgtest.Reference(t)), restore("old", pgtest.Old(t))
			// Only the link of the tablespace leads elsewhere in each.
			link := func(name string) bool { return strings.HasPrefix(name, "pg_tblspc/") }
			same(t, ours, theirs, link)
			same(t, ours, old, func(name string) bool { return link(name) || oldDiffers(name) })
			same(t, tree(t, spaces["ours"]), tree(t, spaces["theirs"]), nil)
			same(t, tree(t, spaces["ours"]), tree(t, spaces["old"]), nil)

			verify := s.must(pgtest.Reference(t), "verify", "--output=text")
			if strings.TrimSpace(verify) != "" {
				t.Errorf("pgbackrest verify says:\n%s", verify)
			}
			s.isCluster("recovered", pgtest.Reference(t), 15, space)
		})
	}
}

// isCluster restores with recovery, starts the cluster, reads it all and checks its pages.
func (s *site) isCluster(name, tool string, major int, space string) {
	s.Helper()
	moved := s.empty(name + "-space")
	args := []string{}
	if space != "" {
		args = append(args, "--tablespace-map=space="+moved)
	}
	dir := s.restore(name, tool, append(args, "--archive-mode=off")...)
	c := pgtest.Attach(s.T, major, dir)
	c.Start()
	pgtest.Eventually(s.T, "the end of recovery", func() bool { return c.QueryValue(`select pg_is_in_recovery()`) == "f" })
	if got := c.QueryValue(`select count(*) || ' ' || sum(length(big)) from t`); got != "5000 16000000" {
		s.Errorf("table t holds %s", got)
	}
	if space != "" {
		if got := c.QueryValue(`select count(*) from far`); got != "2000" {
			s.Errorf("table far holds %s rows", got)
		}
	}
	if got := c.QueryValue(`select count(*) from u`); got != "0" {
		s.Errorf("the unlogged table holds %s rows", got)
	}
	whole := slices.Contains(pgtest.Tested(), major) // of others only the server is to be had
	if whole && major >= 14 {
		if out, err := c.Command("pg_amcheck", "--all", "--install-missing").CombinedOutput(); err != nil {
			s.Errorf("pg_amcheck: %v\n%s", err, out)
		}
	}
	c.Stop(pgtest.Fast)
	if !whole {
		return
	}
	if out, err := pgtest.Command(s.T, filepath.Join(pgtest.BinDir(s.T, major), "pg_checksums"), "--check", "-D", dir).CombinedOutput(); err != nil {
		s.Errorf("pg_checksums: %v\n%s", err, out)
	}
}

// TestTheirsRestoredByOurs: full, diff and incr backups of pgbackrest, bundled and not,
// restored by pgx are what pgbackrest itself restores.
func TestTheirsRestoredByOurs(t *testing.T) {
	for i, codec := range compressTypes {
		for _, bundle := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s bundle %t", codec, bundle), func(t *testing.T) {
				t.Parallel()
				theirs := pgtest.Reference(t)
				global := map[string]string{"compress-type": codec}
				if bundle {
					global["repo1-bundle"] = "y"
				} else if i%2 == 0 {
					global["repo1-hardlink"] = "y"
				}
				s := newSite(t, pgtest.Options{Checksums: true}, global)
				s.fill()
				var labels []string
				for n, kind := range []string{"full", "diff", "incr", "incr"} {
					s.must(theirs, "backup", "--type="+kind, "--no-expire-auto")
					labels = append(labels, s.label())
					s.pg.Exec(fmt.Sprintf(`update t set what = 'changed' where id %% 7 = %d`, n))
					s.pg.Exec(fmt.Sprintf(`create table t%d as select g from generate_series(1, 1000) g`, n))
					s.pg.Exec(`checkpoint`)
				}
				for n, label := range labels {
					got := tree(t, s.restore("ours"+strconv.Itoa(n), pgxPath(), "--set="+label, "--type=none"))
					want := tree(t, s.restore("theirs"+strconv.Itoa(n), theirs, "--set="+label, "--type=none"))
					same(t, got, want, nil)
				}
				s.isCluster("recovered", pgxPath(), 15, "")
			})
		}
	}
}

// TestInfo: what info says of a repository is what pgbackrest says, to the letter.
func TestInfo(t *testing.T) {
	theirs := pgtest.Reference(t)
	s := newSite(t, pgtest.Options{Checksums: true}, nil)
	// Without a backup, then with ones of both tools.
	compare := func(args ...string) {
		t.Helper()
		for _, output := range []string{"text", "json"} {
			args := append([]string{"info", "--output=" + output}, args...)
			want := s.must(theirs, args...)
			for _, tool := range []string{pgxPath(), dropIn()} {
				if got := s.must(tool, args...); got != want {
					t.Errorf("%s %s:\n%s\nwant:\n%s", filepath.Base(tool), strings.Join(args, " "), got, want)
				}
			}
		}
	}
	compare()
	s.fill()
	space := s.empty("space")
	s.pg.Exec(fmt.Sprintf(`create tablespace space location '%s'`, space))
	linked := s.empty("linked")
	if err := os.Symlink(linked, filepath.Join(s.pg.PGDATA, "linked")); err != nil {
		t.Fatal(err)
	}
	s.own(filepath.Join(s.pg.PGDATA, "linked"))
	s.must(pgxPath(), "backup", "--type=full", "--annotation=who=me", "--annotation=why=a \"test\"")
	first := s.label()
	compare()
	compare("--set=" + first)
	s.must(theirs, "backup", "--type=incr", "--no-expire-auto")
	second := s.label()
	s.must(theirs, "backup", "--type=diff", "--no-expire-auto", "--annotation=note=<b>&")
	s.must(pgxPath(), "backup", "--type=full")
	compare()
	compare("--set=" + second)
	compare("--type=full")
	compare("--detail-level=progress")
	compare("--set=20200101-000000F")
	compare("--stanza=other")
	if got, want := s.exec(pgtest.Command(t, pgxPath(), "--config="+s.conf, "info", "--output=json")).out,
		s.exec(pgtest.Command(t, theirs, "--config="+s.conf, "info", "--output=json")).out; got != want {
		t.Errorf("info of all stanzas:\n%s\nwant:\n%s", got, want)
	}
	// Damage is told alike, too.
	for _, name := range []string{"backup.info", "backup.info.copy"} {
		s.write(filepath.Join(s.repo, "backup", "demo", name), "[damaged]\n")
	}
	o := s.run(pgxPath(), "info", "--output=json")
	if o.code != 0 || !strings.Contains(o.out, `"code":99`) {
		t.Errorf("info of a damaged stanza: exit %d\n%s", o.code, o.all())
	}
}

// TestDropIn: under the name pgbackrest the program serves a configuration, an
// archive_command and a restore_command that know nothing of pgx.
func TestDropIn(t *testing.T) {
	s := bareSite(t, pgtest.Options{}, map[string]string{"compress-type": "zst"})
	s.pg.Configure(map[string]string{"archive_command": fmt.Sprintf("%s --config=%s --stanza=demo archive-push %%p", dropIn(), s.conf)})
	s.pg.Start()
	s.must(dropIn(), "stanza-create")
	s.must(dropIn(), "check")
	s.fill()
	s.must(dropIn(), "backup", "--type=full")
	s.pg.Exec(`insert into t select g, 'after', '' from generate_series(5001, 6000) g`)
	s.pg.Exec(`select pg_switch_wal()`)
	pgtest.Eventually(t, "archiving", func() bool {
		return s.pg.QueryValue(`select count(*) from pg_ls_archive_statusdir() where name like '%.ready'`) == "0"
	})
	s.pg.Stop(pgtest.Fast)
	dir := s.restore("restored", dropIn(), "--archive-mode=off")
	auto, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
	if err != nil || !strings.Contains(string(auto), dropIn()) {
		t.Errorf("postgresql.auto.conf (%v):\n%s", err, auto)
	}
	c := pgtest.Attach(t, 15, dir)
	c.Start()
	pgtest.Eventually(t, "the end of recovery", func() bool { return c.QueryValue(`select pg_is_in_recovery()`) == "f" })
	if got := c.QueryValue(`select count(*) from t`); got != "6000" {
		t.Errorf("%s rows after recovery", got)
	}
	if got := s.exec(pgtest.Command(t, dropIn(), "version")).out; got != "pgBackRest 2.60.0\n" {
		t.Errorf("version says %q", got)
	}
}
