package test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// breakdown is what happens to the other host while it is at work.
type breakdown struct {
	name   string
	cause  func(h *host)
	mend   func(h *host)
	quiet  bool     // nobody is told: io-timeout has to pass
	killed bool     // what was at work could not clean up
	want   []string // in the message, where PEER stands for user, host and port
}

// breakdowns are those that any command can meet.
func breakdowns() []breakdown {
	// One of several sessions is the first to notice, perhaps while it is opened.
	const lost = "'PEER': connection lost: |connection to 'PEER' was lost|'PEER': start the command: |'PEER': log in: |'PEER': connect: "
	each := func(do func(h *host, pid int)) func(*host) {
		return func(h *host) {
			h.Helper()
			for _, pid := range serving(h) {
				do(h, pid)
			}
		}
	}
	return []breakdown{
		{
			name: "sshd killed",
			cause: func(h *host) {
				if h.killSessions() == 0 {
					h.Error("no sshd was killed")
				}
			},
			want: []string{lost, "is the host up?|sshd's log there says why"},
		}, {
			name: "pgx killed", killed: true, cause: each(func(h *host, pid int) { h.signal(pid, unix.SIGKILL) }),
			want: []string{"'PEER': '/usr/local/bin/pgx --stanza=main ", "was killed there by signal KILL", "is the host up?"},
		}, {
			name: "pgx stopped", quiet: true, cause: each((*host).freeze), mend: each((*host).thaw),
			want: []string{"no sign of life from 'PEER' for 3s", "io-timeout says how long to wait"},
		}, {
			name: "link cut", quiet: true, cause: func(h *host) { h.cut() },
			want: []string{"no sign of life from 'PEER' for 3s|'PEER': connection lost: ", "the host or the network is down|is the host up"},
		}, {
			name: "link reset", cause: func(h *host) { h.reject(22) },
			want: []string{lost, "is the host up?|sshd's log there says why|is sshd running there"},
		},
	}
}

// work is a command that takes its time on a slow link.
type work struct {
	on, other *host
	dir       string // where files appear
	size      int64  // of one that has got so far that the command is in the middle
	sessions  int    // of the other host beside those of process-max
	args      []string
}

// backing, pushing and restoring are the works of the tests.
func (s *faultHosts) backing() work {
	return work{s.repo, s.db, s.repo.path("/var/lib/pgbackrest/backup"), 1_500_000, 1, []string{"backup", "--type=full"}}
}

func (s *faultHosts) pushing(file string) work {
	return work{s.db, s.repo, s.repo.path("/var/lib/pgbackrest/archive"), 200_000, 0, []string{"archive-push", file}}
}

func (s *faultHosts) restoring() work {
	return work{s.db, s.repo, s.db.path(s.data), 1_500_000, 0, []string{"restore", "--delta"}}
}

// underway begins a work and waits until it is in the middle, with all of its sessions. What is to
// notice silence has one worker: to open the session of another takes longer than io-timeout
// on a link that is full.
func (s *faultHosts) underway(w work, notice bool) *begun {
	s.Helper()
	args, sessions := append(line(w.args...), "--process-max=1"), 1+w.sessions
	if !notice {
		args = append(line(w.args...), "--process-max=2", "--io-timeout=20")
		if w.args[0] != "archive-push" {
			sessions++
		}
	}
	s.db.slow("8mbit")
	before := tree(s.T, w.dir)
	b := w.on.begin(args...)
	pgtest.Eventually(s.T, "the middle of "+w.args[0], func() bool {
		if !b.running() {
			o := b.end(0)
			s.Fatalf("%s ended early: exit %d\n%s", w.args[0], o.code, o.all())
		}
		found := false
		_ = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || found || d.IsDir() { // gone already
				return nil
			}
			rel, _ := filepath.Rel(w.dir, path)
			_, old := before[rel]
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() && info.Size() > w.size && !old {
				found = true
			}
			return nil
		})
		return found && len(serving(w.other)) >= sessions
	})
	return b
}

// serving gives the processes of pgx on a host.
func serving(h *host) []int {
	h.Helper()
	var pids []int
	for _, p := range h.processes() {
		if p.comm == "pgx" {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// breaks has a work meet a breakdown of the other host.
func (s *faultHosts) breaks(b breakdown, w work, code int) {
	s.Helper()
	s.quiet()
	before := s.temporary()
	s.kept(func() {
		command := s.underway(w, b.quiet)
		b.cause(w.other)
		var want []string
		for _, text := range b.want {
			want = append(want, strings.ReplaceAll(text, "PEER", w.other.user+"@"+w.other.name+":22"))
		}
		s.says(command.end(faultBound), code, want...)
		if b.mend != nil {
			b.mend(w.other)
		}
		// Before the network is mended: the other side sees by itself that nobody is there.
		pgtest.Eventually(s.T, "the end of pgx on host '"+w.other.name+"'", func() bool { return len(serving(w.other)) == 0 })
		s.left()
		w.other.mend()
		s.db.mend()
	})
	if after := s.temporary(); len(after) != len(before) && !b.killed {
		s.Errorf("left in the archive are %q", after)
	}
}

// left: PostgreSQL is in no backup any more.
func (s *faultHosts) left() {
	s.Helper()
	pgtest.Eventually(s.T, "the end of the backup in PostgreSQL", func() bool {
		return !s.pg.Running() || s.pg.QueryValue(`select count(*) from pg_stat_activity where application_name like 'pgBackRest%'`) == "0"
	})
}

// TestRemoteFaultBackup: the PostgreSQL host, or the way to it, breaks down in the middle of a backup.
func TestRemoteFaultBackup(t *testing.T) {
	t.Parallel()
	s := newFaultHosts(t, true)
	for _, b := range breakdowns() {
		t.Run(b.name, func(t *testing.T) {
			s := s.in(t)
			s.breaks(b, s.backing(), 49)
			s.backup()
		})
	}
	t.Run("command killed", func(t *testing.T) {
		s := s.in(t)
		s.kept(func() {
			command := s.underway(s.backing(), false)
			s.repo.signal(command.Process.Pid, unix.SIGKILL)
			command.end(faultBound)
			s.left()
			s.db.mend()
		})
		s.backup()
	})
	t.Run("PostgreSQL restarted", func(t *testing.T) {
		s := s.in(t)
		s.kept(func() {
			command := s.underway(s.backing(), false)
			s.pg.Stop(pgtest.Fast)
			s.pg.Start()
			s.db.mend()
			s.says(command.end(faultBound), 57, "on 'postgres@db:22': ")
			s.left()
		})
		s.backup()
	})
	s.verified()
}

// TestRemoteFaultPush: the repository host, or the way to it, breaks down in the middle of an
// archive-push.
func TestRemoteFaultPush(t *testing.T) {
	t.Parallel()
	s := newFaultHosts(t, false)
	for _, b := range breakdowns() {
		t.Run(b.name, func(t *testing.T) {
			s := s.in(t)
			file := s.wal()
			s.breaks(b, s.pushing(file), 104)
			if s.archived(file) {
				s.Error("what was not pushed is in the archive")
			}
			s.push(file)
		})
	}
	s.verified()
}

// TestRemoteFaultRestore: the repository host, or the way to it, breaks down in the middle of a
// restore. What is there cannot be started, and the next restore makes it whole.
func TestRemoteFaultRestore(t *testing.T) {
	t.Parallel()
	s := newFaultHosts(t, true)
	s.backup()
	s.pg.Stop(pgtest.Fast)
	s.quiet()
	for _, b := range breakdowns() {
		t.Run(b.name, func(t *testing.T) {
			s := s.in(t)
			s.db.must("find", s.data, "-mindepth", "1", "-delete")
			s.breaks(b, s.restoring(), 49)
			if s.db.exists(s.data + "/global/pg_control") {
				s.Error("what is half restored has a pg_control")
			}
			s.db.must(line("restore", "--delta", "--type=immediate", "--target-action=promote", "--archive-mode=off")...)
		})
	}
	s.pg.Start()
	promoted(t, s.pg)
	if got := s.pg.QueryValue(`select count(*) || ' ' || sum(length(what)) from noise`); got != "4000 6400000" {
		s.Errorf("table noise holds %s", got)
	}
	s.verified()
}

// TestRemoteFaultNetwork: on a link that is slow and loses packets everything works, if slowly.
func TestRemoteFaultNetwork(t *testing.T) {
	t.Parallel()
	s := newFaultHosts(t, true)
	for _, h := range []*host{s.repo, s.db} { // a packet and those that repeat it may all be lost
		h.as("root").must("sed", "-i", "s/^io-timeout=.*/io-timeout=30/", "/etc/pgbackrest/pgbackrest.conf")
	}
	s.db.slow("16mbit")
	s.db.lossy(3)
	s.push(s.wal())
	s.db.must(line("check")...)
	s.repo.must(line("check")...)
	s.backup()
	s.pg.Exec(`insert into noise values ('after')`)
	s.pg.Exec(`select pg_switch_wal()`)
	s.quiet()
	s.pg.Stop(pgtest.Fast)
	s.db.must("find", s.data, "-mindepth", "1", "-delete")
	s.db.must(line("restore")...)
	s.pg.Start()
	promoted(t, s.pg)
	if got := s.pg.QueryValue(`select count(*) from noise`); got != "4001" {
		t.Errorf("table noise holds %s rows", got)
	}
	s.db.mend()
	s.verified()
}
