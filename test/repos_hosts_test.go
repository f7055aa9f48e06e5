package test

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// homeAndAway is a PostgreSQL host with a repository of its own, repo1, and a second one, repo2, on another
// host.
type homeAndAway struct {
	*remoteCluster
}

const homeSpool, homeLog = "/var/lib/postgresql/spool", "/var/lib/postgresql/log"

// newHomeAndAway makes the hosts, and the stanza in both repositories. What is stored is not compressed: it can be
// compared as it is.
func newHomeAndAway(t *testing.T, tool, options string) *homeAndAway {
	t.Helper()
	n := newNetwork(t)
	repo := n.host("repo", "pgbackrest")
	p := &homeAndAway{&remoteCluster{host: n.host("db", "postgres"), repo: repo, tool: tool, stanza: "one", data: "/var/lib/postgresql/15/main"}}
	join(repo, p.host)
	section := "\n[one]\npg1-path=" + p.data + "\n"
	repo.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo2-path=/var/lib/pgbackrest\nrepo2-retention-full=2\nstart-fast=y\n"+section+"pg1-host=db\n", 0o644)
	p.must("mkdir", "-p", homeSpool, homeLog)
	p.write("/etc/pgbackrest/pgbackrest.conf", "[global]\nrepo1-path=/var/lib/pgbackrest\nrepo1-retention-full=2\nrepo2-host=repo\nrepo2-retention-full=2\n"+
		"start-fast=y\ncompress-type=none\nspool-path="+homeSpool+"\nlog-path="+homeLog+"\nlog-level-file=detail\n"+options+section, 0o644)
	p.Cluster = p.cluster(pgtest.Options{Major: 15, Checksums: true, WALSegSize: 1, Config: map[string]string{
		"archive_mode": "on", "wal_level": "replica", "archive_command": tool + " --stanza=one archive-push %p",
	}})
	p.Start()
	p.here("stanza-create")
	return p
}

// stored gives the segments in a repository: the SHA-1 of the content by name. What is in the name must be
// the same.
func (p *homeAndAway) stored(key int) map[string]string {
	p.Helper()
	dir := map[int]string{1: p.path("/var/lib/pgbackrest"), 2: p.repo.path("/var/lib/pgbackrest")}[key]
	found, err := filepath.Glob(filepath.Join(dir, "archive/one/15-1/*/*-*"))
	if err != nil {
		p.Fatal(err)
	}
	all := map[string]string{}
	for _, path := range found {
		if strings.HasSuffix(path, ".tmp") {
			continue
		}
		name, sum, _ := strings.Cut(filepath.Base(path), "-")
		b, err := os.ReadFile(path)
		if err != nil {
			p.Fatal(err)
		}
		got := sha1.Sum(b)
		if all[name] = hex.EncodeToString(got[:]); all[name] != sum || len(b) != 1<<20 {
			p.Errorf("repo%d has %d bytes with %s as %s", key, len(b), all[name], filepath.Base(path))
		}
	}
	return all
}

// segments ends so many segments, each with something, and gives their names.
func (p *homeAndAway) segments(n int) (names []string) {
	p.Helper()
	sql := `select pg_create_restore_point('test ' || g), pg_walfile_name(pg_switch_wal()) from generate_series(1, %d) g`
	for _, row := range p.Query(fmt.Sprintf(sql, n)) {
		names = append(names, row[1])
	}
	return names
}

// ready gives the WAL that PostgreSQL has not got rid of.
func (p *homeAndAway) ready() []string {
	p.Helper()
	found, err := filepath.Glob(p.PGDATA + "/pg_wal/archive_status/*.ready")
	if err != nil {
		p.Fatal(err)
	}
	for i, name := range found {
		found[i] = strings.TrimSuffix(filepath.Base(name), ".ready")
	}
	return found
}

// dropped gives the segments that are on record as dropped.
func (p *homeAndAway) dropped() (names []string) {
	p.Helper()
	const ledger = homeSpool + "/archive/one.dropped"
	if !p.exists(ledger) {
		return nil
	}
	for line := range strings.Lines(p.read(ledger)) {
		var d drop
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			p.Fatalf("%q: %v", line, err)
		}
		for n := segmentNumber(p.T, d.From); n <= segmentNumber(p.T, d.To); n++ {
			names = append(names, fmt.Sprintf("%s%08X%08X", d.From[:8], n>>12, n&0xfff))
		}
	}
	return names
}

// segmentNumber gives the place of a segment of a megabyte in the WAL of its timeline.
func segmentNumber(t *testing.T, name string) (n uint64) {
	t.Helper()
	var high, low uint64
	if _, err := fmt.Sscanf(name[8:], "%8X%8X", &high, &low); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return high<<12 | low
}

// archiver asks PostgreSQL how its archiver is.
func (p *homeAndAway) archiver(column string) string {
	p.Helper()
	return p.QueryValue(`select ` + column + ` from pg_stat_archiver`)
}

// TestReposNight: the host of the second repository is away for a night of archiving. PostgreSQL
// keeps its WAL, or drops it on record, the first repository gets what it can, check and info say
// what is wrong and where; and when the host is back all is caught up without help.
func TestReposNight(t *testing.T) {
	segments := 60
	if everyStep {
		segments = 600
	}
	stopped := func(p *homeAndAway) (back func()) {
		p.repo.stopSSHD()
		p.repo.killSessions()
		return p.repo.startSSHD
	}
	rejected := func(p *homeAndAway) (back func()) {
		p.repo.reject(22)
		return p.repo.mend
	}
	cut := func(p *homeAndAway) (back func()) {
		p.repo.cut()
		return p.repo.mend
	}
	for _, c := range []struct {
		name, options string
		async         bool
		limit         int // of segments that wait; 0: none
		away          func(p *homeAndAway) (back func())
		long          bool
	}{
		{"async", "archive-async=y\nprocess-max=2\n", true, 0, stopped, false},
		{"async, unreachable", "archive-async=y\nio-timeout=3\n", true, 0, cut, true},
		{"async, with a limit", "archive-async=y\narchive-push-queue-max=16MB\n", true, 16, rejected, false},
		{"sync", "", false, 0, rejected, false},
		{"sync, with a limit", "archive-push-queue-max=16MB\n", false, 16, stopped, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long && !everyStep {
				t.Skip("set PGX_TEST_LONG")
			}
			t.Parallel()
			n := segments
			if !c.async || c.limit > 0 {
				n = min(n, 120) // for each of them a program is started, with a connection of its own
			}
			night(t, newHomeAndAway(t, "pgx", "archive-timeout=15\n"+c.options), n, c.async, c.limit, c.away)
		})
	}
}

func night(t *testing.T, p *homeAndAway, n int, async bool, limit int, away func(*homeAndAway) func()) {
	p.here("check")
	p.Exec(`create table t as select g as id, md5(g::text) as what from generate_series(1, 1000) g`)
	p.here("backup", "--type=full", "--repo=1")
	p.here("backup", "--type=full", "--repo=2")
	evening := p.segments(2)
	pgtest.Eventually(t, "the archive of the evening", func() bool { return p.archiver("last_archived_wal") >= evening[1] })
	first := segmentNumber(t, evening[0])

	back := away(p)
	names := p.segments(n)
	pgtest.Eventually(t, "a failure", func() bool { return p.archiver("failed_count") != "0" })
	switch {
	case limit > 0:
		pgtest.Eventually(t, "PostgreSQL to go on", func() bool { return len(p.ready()) <= limit })
	case async:
		pgtest.Eventually(t, "all of it in repo1", func() bool { return len(p.stored(1)) >= len(p.stored(2))+n })
		fallthrough
	default:
		if got := p.archiver("last_archived_wal"); got != evening[1] {
			t.Errorf("%s is archived, and repo2 is away since %s", got, evening[1])
		}
		for _, name := range names {
			if !p.exists(p.data+"/pg_wal/"+name) || !slices.Contains(p.ready(), name) {
				t.Errorf("%s is not kept", name)
			}
		}
	}
	for _, name := range names {
		if _, there := p.stored(2)[name]; there {
			t.Errorf("%s is in repo2, whose host is away", name)
		}
	}
	p.nightTold(limit > 0, async)

	back()
	begin := time.Now()
	morning := p.segments(2) // without which PostgreSQL rests for a minute after errors
	pgtest.Eventually(t, "the archive of all WAL", func() bool { return p.archiver("last_archived_wal") >= morning[1] && len(p.ready()) == 0 })
	t.Logf("all was caught up after %s", time.Since(begin).Round(time.Second))

	// Each segment is in both repositories, or on record.
	one, two, dropped := p.stored(1), p.stored(2), p.dropped()
	both := 0
	for i := first; i <= segmentNumber(t, morning[1]); i++ {
		name := fmt.Sprintf("00000001%08X%08X", i>>12, i&0xfff)
		switch {
		case one[name] != "" && one[name] == two[name]:
			both++
		case slices.Contains(dropped, name) && two[name] == "" && limit > 0:
		default:
			t.Errorf("repo1 has %q of %s, repo2 has %q", one[name], name, two[name])
		}
	}
	if t.Logf("%d segments are in both repositories, %d were dropped", both, len(dropped)); (limit > 0) != (len(dropped) > 0) || both < 4 {
		t.Errorf("dropped were %v", dropped)
	}
	p.morningTold(dropped)
	p.must("pgx", "--stanza=one", "stop")
	p.idle()
	p.repo.idle()
}

// nightTold: what commands say and do while the host of repo2 is away.
func (p *homeAndAway) nightTold(limited, async bool) {
	p.Helper()
	const host = "repo2-host"
	o := p.run(p.line([]string{"check", "--log-level-console=info"})...)
	if o.code == 0 || !strings.Contains(o.all(), host) || !strings.Contains(o.all(), "ERROR: [049]: repo2: 'pgbackrest@repo:22': ") {
		p.Errorf("check: exit %d\n%s", o.code, o.all())
	}
	if !limited && !strings.Contains(o.all(), "of pg1 wait to be archived, the oldest, ") {
		p.Errorf("check does not say what waits\n%s", o.all())
	}
	out := p.here("info")
	for _, line := range []string{"status: mixed", "repo1: ok", "repo2: error (other)", "[HostConnectError] 'pgbackrest@repo:22': "} {
		if !strings.Contains(out, line) {
			p.Errorf("info does not say %q\n%s", line, out)
		}
	}
	if theirs := p.run("pgbackrest", "--stanza=one", "info"); theirs.code != 0 || !strings.Contains(theirs.out, "repo2: error (other)") {
		p.Errorf("pgbackrest info: exit %d\n%s", theirs.code, theirs.all())
	}
	// What needs repo1 only works, at once.
	begin := time.Now()
	p.restored("pgx", 0, "--type=none")
	if took := time.Since(begin); took > 20*time.Second {
		p.Errorf("the restore took %s", took)
	}
	// If the first were the one that is away: the next is taken, and what that means for recovery is told.
	swapped := []string{"--repo1-host=repo", "--reset-repo2-host", "--repo2-path=/var/lib/pgbackrest"}
	for _, line := range []string{"WARN: repo1: [HostConnectError] ", "and is aborted while one cannot be asked, as now repo1", "restore with --repo=2"} {
		if said := p.restored("pgx", 0, swapped...); !strings.Contains(said.all(), line) {
			p.Errorf("restore does not say %q\n%s", line, said.all())
		}
	}
	p.restored("pgbackrest", 125, swapped...)
	if async && !limited {
		p.here("backup", "--type=incr", "--repo=1")
	}
	p.fails(o.code, host, p.line([]string{"backup", "--repo=2"})...)
}

// morningTold: what they say when it is back.
func (p *homeAndAway) morningTold(dropped []string) {
	p.Helper()
	said := p.run(p.line([]string{"check"})...)
	if said.code != 0 || (len(dropped) > 0) != strings.Contains(said.all(), dropped0(dropped)) {
		p.Errorf("check: exit %d\n%s", said.code, said.all())
	}
	out := p.here("info")
	if strings.Contains(out, "error") || (len(dropped) > 0) != strings.Contains(out, "missing") {
		p.Errorf("info says\n%s", out)
	}
	if len(dropped) > 0 {
		p.here("backup", "--type=full", "--repo=1")
		p.here("backup", "--type=full", "--repo=2")
	}
	for _, key := range []string{"--repo=1", "--repo=2"} {
		p.restored("pgx", 0, "--type=none", key)
	}
}

// restored restores beside the cluster, with a spool of its own: a restore empties it.
func (p *homeAndAway) restored(tool string, code int, args ...string) outcome {
	p.Helper()
	const other = "/var/lib/postgresql/other"
	p.must("rm", "-rf", other)
	p.must("mkdir", "-m", "700", other)
	o := p.run(append([]string{tool, "--stanza=one", "restore", "--pg1-path=" + other, "--spool-path=" + other + "-spool"}, args...)...)
	if o.code != code {
		p.Errorf("%s restore %s: exit %d, expected %d\n%s", tool, strings.Join(args, " "), o.code, code, o.all())
	}
	return o
}

// dropped0 gives what check says of what was dropped first.
func dropped0(names []string) string {
	if len(names) == 0 {
		return "is missing"
	}
	return names[0]
}
