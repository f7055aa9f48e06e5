package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// standbySite is a repository host with a primary and a standby on hosts of their own.
type standbySite struct {
	*testing.T
	repo             *host
	primary, standby *standbyNode
	conf             string // of the repository host, without what tests add to it
}

type standbyNode struct {
	*host
	*pgtest.Cluster
	data string
}

// newStandbySite makes the hosts, and the stanza with the tool. pgbackrest archives: it makes no backup of a cluster
// that another tool archives. The standby is pg1: which is which is found out.
func newStandbySite(t *testing.T, tool string) *standbySite {
	t.Helper()
	n := newNetwork(t)
	s := &standbySite{T: t, repo: n.host("repo", "pgbackrest")}
	const data = "/var/lib/postgresql/17/main"
	s.conf = "[global]\nrepo1-path=/var/lib/pgbackrest\nrepo1-retention-full=9\nrepo1-bundle=y\nrepo1-block=y\nstart-fast=y\ncompress-type=lz4\nprocess-max=2\narchive-timeout=60\n" +
		"\n[demo]\npg1-path=" + data + "\npg1-host=db2\npg2-path=" + data + "\npg2-host=db1\n"
	s.repo.write("/etc/pgbackrest/pgbackrest.conf", s.conf, 0o644)
	node := func(name string) *standbyNode {
		h := n.host(name, "postgres")
		join(s.repo, h)
		h.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo1-host=repo\n\n[demo]\npg1-path="+data+"\n", 0o644)
		return &standbyNode{host: h, data: data}
	}
	s.primary, s.standby = node("db1"), node("db2")
	p := s.primary
	p.Cluster = p.cluster(pgtest.Options{Major: 17, Checksums: true, Config: map[string]string{
		"archive_mode": "on", "archive_command": "pgbackrest --stanza=demo archive-push %p", "listen_addresses": "*", "wal_keep_size": "256MB",
	}})
	hba := p.data + "/pg_hba.conf"
	p.write(hba, p.read(hba)+"host replication postgres 10.77.0.0/24 trust\n", 0o600)
	p.Start()
	p.Exec(`create table t as select g as id, md5(g::text) as what from generate_series(1, 20000) g`)
	s.standby.Cluster = p.Cluster.Standby(postgresOn{s.standby.as("postgres")}, "host=db1 port=5432 user=postgres")
	s.standby.Start()
	s.repo.must(tool, "--stanza=demo", "stanza-create")
	s.standby.Follows(p.Cluster)
	return s
}

func (s *standbySite) backup(tool string, args ...string) []string {
	return append([]string{tool, "--stanza=demo", "backup", "--log-level-console=detail", "--no-expire-auto"}, args...)
}

// restored restores the newest backup on a host, and gives what the table has when all WAL was replayed.
func (s *standbySite) restored(on *standbyNode, tool, name string) string {
	s.Helper()
	p := s.primary
	p.Exec(`select pg_create_restore_point('x')`)
	segment := p.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
	pgtest.Eventually(s.T, "archiving of "+segment, func() bool {
		return strings.Contains(s.repo.must("find", "/var/lib/pgbackrest/archive/demo", "-name", segment+"-*", "!", "-name", "*.tmp"), segment)
	})
	dir := "/var/lib/postgresql/" + name
	on.must("mkdir", "-m", "700", dir)
	on.must(tool, "--stanza=demo", "restore", "--pg1-path="+dir, "--archive-mode=off")
	// A server of its own there: nobody may connect from elsewhere.
	on.must("sh", "-c", on.BinDir+"/pg_ctl -w -D "+dir+" -l "+dir+"/log -o '-p 5433 -c listen_addresses= -k /run/postgresql' start")
	defer on.must(on.BinDir+"/pg_ctl", "-w", "-D", dir, "stop")
	psql := []string{pgtest.Tool(s.T, 17, "psql"), "-XAtq", "-h", "/run/postgresql", "-p", "5433", "-U", "postgres", "-c"}
	pgtest.Eventually(s.T, "end of recovery", func() bool {
		return on.must(append(psql, "select pg_is_in_recovery()")...) == "f\n"
	})
	return strings.TrimSpace(on.must(append(psql, "select count(*) || ' ' || sum(id) from t")...))
}

// TestStandby: a repository host copies from a standby, pgx as pgbackrest, in turn.
func TestStandby(t *testing.T) {
	for _, tool := range []string{"pgx", "pgbackrest"} {
		if tool != "pgx" && !everyStep {
			continue
		}
		t.Run("begun by "+tool, func(t *testing.T) {
			s := newStandbySite(t, tool)
			s.repo.must(tool, "--stanza=demo", "check", "--backup-standby")
			others := map[string]string{"pgx": "pgbackrest", "pgbackrest": "pgx"}
			by := tool
			for n, kind := range []string{"full", "incr", "diff", "incr"} {
				s.primary.Exec(fmt.Sprintf(`update t set what = 'changed' where id %% 7 = %d; insert into t select g from generate_series(%d, %d) g`, n, 20001+n*100, 20100+n*100))
				said := s.repo.must(s.backup(by, "--backup-standby", "--type="+kind)...)
				for _, want := range []string{
					"wait for replay on the standby to reach ", "replay on the standby reached ",
					"P01 DETAIL: backup file db1:" + s.primary.data + "/global/pg_control (", "backup file db2:" + s.primary.data + "/base/",
				} {
					if !strings.Contains(said, want) {
						t.Errorf("%s: there is no '%s' in\n%s", by, want, said)
					}
				}
				for _, wrong := range []string{"file db1:" + s.primary.data + "/base/", "file db2:" + s.primary.data + "/postgresql", "P01 DETAIL: backup file db2", "WARN"} {
					if strings.Contains(said, wrong) {
						t.Errorf("%s: there is '%s' in\n%s", by, wrong, said)
					}
				}
				rows := 20100 + n*100
				want := fmt.Sprintf("%d %d", rows, rows*(rows+1)/2)
				for _, reader := range []string{"pgx", "pgbackrest"} {
					if n < 3 && reader == by && !everyStep {
						continue
					}
					if got := s.restored(s.primary, reader, reader+fmt.Sprint(n)); got != want {
						t.Errorf("%s of %s, restored by %s: %s, not %s", kind, by, reader, got, want)
					}
				}
				by = others[by]
			}
			if said := s.repo.must("pgbackrest", "--stanza=demo", "verify", "--output=text"); strings.TrimSpace(said) != "" {
				t.Errorf("pgbackrest verify says\n%s", said)
			}
		})
	}
}

// TestStandbyFaults: a standby that is away, late, cut off or promoted.
func TestStandbyFaults(t *testing.T) {
	for _, tool := range []string{"pgx", "pgbackrest"} {
		if tool != "pgx" && !everyStep {
			continue
		}
		t.Run(tool, func(t *testing.T) {
			s := newStandbySite(t, tool)
			backup := func(args ...string) []string { return s.backup(tool, append([]string{"--type=full"}, args...)...) }
			quick := []string{"--archive-timeout=1", "--io-timeout=5"}

			s.standby.Exec(`select pg_wal_replay_pause()`)
			s.repo.fails(82, "ERROR: [082]: timeout before standby replayed to ", backup(append(quick, "--backup-standby")...)...)
			late := s.repo.begin(backup("--backup-standby")...)
			pgtest.Eventually(t, "the backup to wait", func() bool {
				return s.primary.QueryValue(`select count(*) from pg_stat_activity where application_name like 'pgBackRest%'`) == "1"
			})
			s.standby.Exec(`select pg_wal_replay_resume()`)
			if o := late.end(time.Minute); o.code != 0 {
				t.Errorf("exit %d\n%s", o.code, o.all())
			}

			s.standby.Stop(pgtest.Fast)
			s.repo.fails(56, "unable to find standby cluster - cannot proceed", backup(append(quick, "--backup-standby")...)...)
			said := s.repo.must(backup("--backup-standby=prefer")...)
			for _, want := range []string{"unable to check pg1: [DbConnectError]", "unable to find a standby to perform the backup, using primary instead",
				"backup file db1:" + s.primary.data + "/base/"} {
				if !strings.Contains(said, want) {
					t.Errorf("there is no '%s' in\n%s", want, said)
				}
			}
			if said := s.repo.must(tool, "--stanza=demo", "check", "--backup-standby=prefer"); !strings.Contains(said,
				"option 'backup-standby' is enabled but standby is not properly configured") {
				t.Errorf("check says\n%s", said)
			}
			s.standby.Start()
			s.standby.Follows(s.primary.Cluster)

			// While files are copied, slowly.
			during := func(code int, message string, do func(), args ...string) {
				s.primary.Exec(`drop table if exists big; create table big as select g, repeat(md5(g::text), 50) from generate_series(1, 20000) g; checkpoint`)
				s.standby.Follows(s.primary.Cluster)
				s.repo.must("touch", "/tmp/before")
				s.standby.slow("8mbit")
				b := s.repo.begin(backup(append(args, "--backup-standby", "--compress-type=none")...)...)
				pgtest.Eventually(t, "the copying", func() bool {
					if !b.running() {
						t.Fatal(b.end(0).all())
					}
					return s.repo.must("find", "/var/lib/pgbackrest/backup/demo", "-type", "f", "-path", "*/base/*", "-newer", "/tmp/before") != ""
				})
				do()
				if o := b.end(2 * time.Minute); o.code != code || !strings.Contains(o.all(), message) {
					t.Errorf("exit %d, want %d and %q\n%s", o.code, code, message, o.all())
				}
				s.standby.mend()
				if n := s.primary.QueryValue(`select count(*) from pg_stat_activity where application_name like 'pgBackRest%'`); n != "0" {
					t.Errorf("%s sessions are left on the primary", n)
				}
			}
			if tool == "pgx" { // pgbackrest waits for half an hour
				during(49, "postgres@db2", s.standby.cut, "--io-timeout=4")
				s.standby.Follows(s.primary.Cluster)
			}
			during(58, "standby is no longer in recovery", func() {
				s.standby.Exec(`select pg_promote()`)
				s.standby.mend()
			})
			s.repo.fails(56, "more than one primary cluster found", backup("--backup-standby")...)
		})
	}
}
