package test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// ioTimeout is that of faultHosts: how long one end may hear nothing from the other.
const ioTimeout = 3 * time.Second

// faultBound is within what a command has to end that meets a fault: io-timeout, a few seconds
// for asking the other side to stop, and a machine that is busy with other tests.
const faultBound = ioTimeout + 17*time.Second

// walSegSize is that of faultHosts, in MB: of a segment that does not compress a repository writes a
// piece before all of it has arrived.
const walSegSize = 2

// faultHosts is a repository host and a PostgreSQL host, with little data and little patience.
type faultHosts struct {
	*testing.T
	repo, db *host
	pg       *pgtest.Cluster
	data     string // PGDATA as the host knows it
	segment  string // content of a WAL segment that does not compress
	segments *int   // that were made of it
}

// newFaultHosts makes the hosts and the stanza, and starts the server. Tables of database
// postgres are not backed up unless all is true, so that a backup has few files.
func newFaultHosts(t *testing.T, all bool) *faultHosts {
	t.Helper()
	n := newNetwork(t)
	s := &faultHosts{T: t, repo: n.host("repo", "pgbackrest"), db: n.host("db", "postgres"), data: "/var/lib/postgresql/15/main", segments: new(int)}
	join(s.repo, s.db)
	conf := "[global]\nio-timeout=" + fmt.Sprint(ioTimeout.Seconds()) + "\ncompress-type=lz4\nprocess-max=2\nstart-fast=y\nlog-level-console=info\n"
	if !all {
		conf += "exclude=base/5/\n"
	}
	stanza := "\n[main]\npg1-path=" + s.data + "\n"
	s.repo.write("/etc/pgbackrest/pgbackrest.conf", conf+"repo1-path=/var/lib/pgbackrest\n"+stanza+"pg1-host=db\n", 0o644)
	s.db.write("/etc/pgbackrest/pgbackrest.conf", conf+"repo1-host=repo\n"+stanza, 0o644)
	s.pg = s.db.cluster(pgtest.Options{Major: 15, WALSegSize: walSegSize, Config: map[string]string{
		"archive_mode": "on", "wal_level": "replica", "archive_command": "pgx --stanza=main archive-push %p",
	}})
	s.pg.Start()
	for _, name := range []string{"template0", "template1"} {
		s.pg.Exec("alter database " + name + " is_template false; drop database " + name)
	}
	s.repo.must("pgx", "--stanza=main", "stanza-create")
	// What does not compress takes its time on a slow link.
	s.pg.Exec(`create table noise as select (select string_agg(uuid_send(gen_random_uuid()), '') from generate_series(1, 100) where g > 0) as what
		from generate_series(1, 4000) g`)
	name := s.pg.QueryValue(fmt.Sprintf(`select pg_walfile_name(pg_switch_wal() - %d)`, walSegSize<<20))
	s.segment = s.db.read(s.data + "/pg_wal/" + name)
	s.pg.Exec(`checkpoint`) // removes what is archived
	return s
}

// wal makes a segment that the server knows nothing of, and gives its path.
func (s *faultHosts) wal() string {
	s.Helper()
	*s.segments++
	content := []byte(s.segment)
	binary.LittleEndian.PutUint64(content[8:], 1<<32|uint64(*s.segments)*walSegSize<<20) // the address in its header
	file := fmt.Sprintf("/tmp/wal/0000000100000001%08X", *s.segments)
	s.db.write(file, string(content), 0o600)
	return file
}

// line is the command line of pgx for the stanza.
func line(args ...string) []string { return append([]string{"pgx", "--stanza=main"}, args...) }

// final gives the files that the repository has under final names: all but temporary ones and
// what backups have left that are not complete.
func (s *faultHosts) final() map[string]node {
	s.Helper()
	found := tree(s.T, s.repo.path("/var/lib/pgbackrest"))
	for name, n := range found {
		label := labels.FindString(name)
		_, complete := found["backup/main/"+label+"/backup.manifest"]
		if n.mode.IsDir() || strings.HasSuffix(name, ".tmp") || label != "" && !complete {
			delete(found, name)
		}
	}
	return found
}

// quiet waits until nothing runs any more on either host.
func (s *faultHosts) quiet() {
	s.Helper()
	pgtest.Eventually(s.T, "the archiver", func() bool {
		return s.pg == nil || !s.pg.Running() || s.pg.QueryValue(`select count(*) from pg_ls_archive_statusdir() where name like '%.ready'`) == "0"
	})
	s.repo.idle()
	s.db.idle()
}

// kept does something that must change nothing in the repository, and leave nothing on either
// host. What the server itself archives meanwhile does not count: verified looks at that.
func (s *faultHosts) kept(do func()) {
	s.Helper()
	s.quiet()
	before := s.final()
	do()
	s.quiet()
	same(s.T, s.final(), before, func(name string) bool { return strings.HasPrefix(name, "archive/main/15-1/0000000100000000/") })
	s.backups()
}

// temporary gives the temporary files in the archive.
func (s *faultHosts) temporary() []string {
	s.Helper()
	var found []string
	for name := range tree(s.T, s.repo.path("/var/lib/pgbackrest/archive")) {
		if strings.HasSuffix(name, ".tmp") {
			found = append(found, name)
		}
	}
	return found
}

// backups gives the number of backups, after checking that none is under way.
func (s *faultHosts) backups() int {
	s.Helper()
	var stanzas []struct {
		Backup []struct{ Label string }
		Status struct {
			Lock struct{ Backup struct{ Held bool } }
		}
	}
	if err := json.Unmarshal([]byte(s.repo.must(line("info", "--output=json")...)), &stanzas); err != nil {
		s.Fatal(err)
	}
	if len(stanzas) != 1 || stanzas[0].Status.Lock.Backup.Held {
		s.Fatalf("info: %+v", stanzas)
	}
	return len(stanzas[0].Backup)
}

// backup makes a full backup.
func (s *faultHosts) backup() {
	s.Helper()
	before := s.backups()
	s.repo.must(line("backup", "--type=full")...)
	if after := s.backups(); after != before+1 {
		s.Errorf("there were %d backups, there are %d", before, after)
	}
}

// push archives a segment, and looks whether it is in the archive then.
func (s *faultHosts) push(file string) {
	s.Helper()
	s.db.must(line("archive-push", file)...)
	if !s.archived(file) {
		s.Errorf("'%s' was pushed and is not in the archive", file)
	}
}

func (s *faultHosts) archived(file string) bool {
	s.Helper()
	name := path.Base(file)
	found, err := filepath.Glob(s.repo.path("/var/lib/pgbackrest/archive/main/15-1/" + name[:16] + "/" + name + "-*.lz4"))
	if err != nil {
		s.Fatal(err)
	}
	return len(found) == 1
}

// verified: pgbackrest finds nothing wrong in the repository.
func (s *faultHosts) verified() {
	s.Helper()
	s.quiet()
	if said := s.repo.must("pgbackrest", "--stanza=main", "--log-level-console=off", "--io-timeout=60", "verify", "--output=text"); strings.TrimSpace(said) != "" {
		s.Errorf("pgbackrest verify says\n%s", said)
	}
}

// says looks whether a command ended with a code and said all of what it should. One of several is
// enough where they are separated by "|".
func (s *faultHosts) says(o outcome, code int, want ...string) {
	s.Helper()
	if o.code != code {
		s.Errorf("exit code is %d, want %d\n%s", o.code, code, o.all())
	}
	text := strings.Join(strings.Fields(o.all()), " ")
	for _, w := range want {
		if !slices.ContainsFunc(strings.Split(w, "|"), func(one string) bool { return strings.Contains(text, one) }) {
			s.Errorf("%q is not in\n%s", w, o.all())
		}
	}
}

// in gives the hosts to a subtest.
func (s *faultHosts) in(t *testing.T) *faultHosts {
	c := *s
	c.T, c.repo, c.db = t, s.repo.in(t), s.db.in(t)
	return &c
}

// fault is something wrong with the way to another host or with what runs there.
type fault struct {
	name        string
	cause, mend func(from, to *host) // from is where the command runs
	args        []string             // of the command; SIDE stands for repo1 or pg1
	only        string               // repo1 or pg1, when only that side can have the fault
	want        []string             // in the message, where also USER and HOST stand for those of the other side
}

// meet has an archive-push on the PostgreSQL host and a backup on the repository host meet a fault.
// When it is mended, both succeed.
func (s *faultHosts) meet(f fault) {
	s.Helper()
	file := s.wal()
	for _, d := range []struct {
		from, to *host
		side     string
		code     int
		args     []string
		again    func()
	}{
		{s.db, s.repo, "repo1", 103, []string{"archive-push", file}, func() { s.push(file) }},
		{s.repo, s.db, "pg1", 56, []string{"backup", "--type=full"}, s.backup},
	} {
		if f.only != "" && f.only != d.side {
			continue
		}
		words := strings.NewReplacer("USER", d.to.user, "HOST", d.to.name, "SIDE", d.side)
		var args, want []string
		for _, a := range f.args {
			args = append(args, words.Replace(a))
		}
		for _, w := range f.want {
			want = append(want, words.Replace(w))
		}
		s.kept(func() {
			if f.cause != nil {
				f.cause(d.from, d.to)
			}
			s.says(d.from.begin(line(append(args, d.args...)...)...).end(faultBound), d.code, want...)
			if f.mend != nil {
				f.mend(d.from, d.to)
			}
		})
		if s.archived(file) != (d.side == "pg1" && f.only == "") {
			s.Errorf("'%s' is not archived when it should be, or the other way round", file)
		}
		d.again()
	}
}

// eachCommand: no command takes a host that cannot be reached for one that has nothing.
func (s *faultHosts) eachCommand() {
	file := s.wal()
	s.db.must("install", "-d", "-m", "700", "-o", "postgres", "/tmp/restored")
	for _, d := range []struct {
		from, to *host
		code     int
		args     []string
	}{
		{s.db, s.repo, 49, []string{"check"}},
		{s.db, s.repo, 103, []string{"archive-get", path.Base(file), "/tmp/got"}},
		{s.db, s.repo, 49, []string{"restore", "--pg1-path=/tmp/restored"}},
		{s.db, s.repo, 49, []string{"ssh-setup", "--check"}},
		{s.db, s.repo, 0, []string{"info"}},
		{s.repo, s.db, 27, []string{"check"}},
		{s.repo, s.db, 56, []string{"stanza-create"}},
		{s.repo, s.db, 49, []string{"ssh-setup", "--check"}},
	} {
		s.kept(func() {
			d.to.reject(22)
			s.says(d.from.begin(line(d.args...)...).end(faultBound), d.code, fmt.Sprintf("'%s@%s:22': connect: ", d.to.user, d.to.name), "is sshd running there")
			d.to.mend()
		})
	}
	if s.db.exists("/tmp/got") {
		s.Error("archive-get has left a file")
	}
}

// TestRemoteFaultConnect: what goes wrong until the other host runs pgx.
func TestRemoteFaultConnect(t *testing.T) {
	t.Parallel()
	s := newFaultHosts(t, false)
	const (
		known      = ".ssh/known_hosts"
		authorized = ".ssh/authorized_keys"
	)
	save := func(h *host, name string) { h.must("cp", "-p", name, name+".saved") }
	restore := func(h *host, name string) { h.must("mv", name+".saved", name) }
	for _, f := range []fault{
		{
			name:  "wrong key",
			cause: func(_, to *host) { save(to, authorized); to.must("sh", "-c", "sed -i 's/ AAAA/ AAAAB/' "+authorized) },
			mend:  func(_, to *host) { restore(to, authorized) },
			want:  []string{"'USER@HOST:22': log in: user 'USER' is not let in with any of the keys", ".ssh/id_ed25519", "authorized_keys of 'USER' on 'HOST'", "pgx ssh-setup"},
		}, {
			name:  "unknown host key",
			cause: func(from, _ *host) { save(from, known); from.must("sh", "-c", ": >"+known) },
			mend:  func(from, _ *host) { restore(from, known) },
			want:  []string{"'USER@HOST:22': host key: key ssh-ed25519 SHA256:", "is unknown", "ssh-keyscan -t ed25519 HOST >> '"},
		}, {
			name: "changed host key",
			cause: func(from, to *host) {
				save(from, known)
				from.must("sh", "-c", fmt.Sprintf("echo '%s %s' >%s", to.name, from.hostKey("ed25519"), known))
			},
			mend: func(from, _ *host) { restore(from, known) },
			want: []string{"'USER@HOST:22': host key: key of 'HOST:22' has changed: it is ssh-ed25519 SHA256:", "known_hosts' line 1", "ssh-keygen -f '", "-R 'HOST'"},
		}, {
			name: "revoked host key",
			cause: func(from, to *host) {
				save(from, known)
				from.appendLine(known, "@revoked * "+to.hostKey("ed25519"))
			},
			mend: func(from, _ *host) { restore(from, known) },
			want: []string{"'USER@HOST:22': host key: key ssh-ed25519 SHA256:", "is marked as revoked", "known_hosts' line 2", "do not trust this host"},
		}, {
			name:  "host down",
			cause: func(_, to *host) { to.cut() },
			mend:  func(_, to *host) { to.mend() },
			want:  []string{"'USER@HOST:22': connect: ", "is the host up", "SIDE-host"},
		}, {
			name:  "port closed",
			cause: func(_, to *host) { to.stopSSHD() },
			mend:  func(_, to *host) { to.startSSHD() },
			want:  []string{"'USER@HOST:22': connect: ", "connection refused", "is sshd running there, and on port 22?", "SIDE-host-port"},
		}, {
			name:  "port that rejects",
			cause: func(_, to *host) { to.reject(22) },
			mend:  func(_, to *host) { to.mend() },
			want:  []string{"'USER@HOST:22': connect: ", "connection refused", "is sshd running there, and on port 22?", "SIDE-host-port"},
		}, {
			name:  "port that drops",
			cause: func(_, to *host) { to.drop(22) },
			mend:  func(_, to *host) { to.mend() },
			want:  []string{"'USER@HOST:22': connect: no answer within 3s", "does a firewall let port 22 through?", "SIDE-host-port"},
		}, {
			name: "another port",
			args: []string{"--SIDE-host-port=2222"},
			want: []string{"'USER@HOST:2222': connect: ", "connection refused", "on port 2222?", "SIDE-host-port"},
		}, {
			name: "no such host",
			args: []string{"--SIDE-host=nowhere"},
			want: []string{"'USER@nowhere:22': resolve: ", "is the name right?", "SIDE-host"},
		}, {
			name: "wrong user",
			args: []string{"--SIDE-host-user=daemon"},
			want: []string{"'daemon@HOST:22': log in: user 'daemon' is not let in with any of the keys", "authorized_keys of 'daemon' on 'HOST'"},
		}, {
			name: "user without a shell",
			cause: func(_, to *host) {
				to.as("root").must("usermod", "-s", "/usr/sbin/nologin", to.user)
			},
			mend: func(_, to *host) { to.as("root").must("usermod", "-s", "/bin/bash", to.user) },
			want: []string{"'USER@HOST:22'", "This account is currently not available"},
		}, {
			name: "sshd stops answering",
			cause: func(_, to *host) {
				to.freeze(to.sshd.Process.Pid)
			},
			mend: func(_, to *host) { to.thaw(to.sshd.Process.Pid) },
			want: []string{"'USER@HOST:22': connect: no answer within 3s"},
		},
	} {
		t.Run(f.name, func(t *testing.T) { s.in(t).meet(f) })
	}
	t.Run("each command", func(t *testing.T) { s.in(t).eachCommand() })
	s.verified()
}
