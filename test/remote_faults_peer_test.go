package test

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// frame makes a frame of the protocol between hosts: length, kind, payload.
func frame(kind byte, payload string) string {
	return string(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), kind)) + payload
}

// Kinds of frames, see docs/protocol.md.
const (
	kindHello   = 1
	kindWelcome = 2
)

// peer replaces what a login runs on a host, whatever the client asks for, until mended: a script
// whose first line may say the file "said".
func peer(said, script string) (cause, mend func(from, to *host)) {
	const authorized = ".ssh/authorized_keys"
	return func(from, to *host) {
			root := to.as("root")
			root.write("/usr/local/bin/said", said, 0o644)
			root.write("/usr/local/bin/peer", "#!/bin/sh\n"+script+"\n", 0o755)
			to.must("mv", authorized, authorized+".saved")
			to.authorize(`restrict,command="/usr/local/bin/peer" ` + from.key())
		}, func(_, to *host) {
			to.must("mv", authorized+".saved", authorized)
		}
}

// TestRemoteFaultPeer: what runs on the other host is not what it should be.
func TestRemoteFaultPeer(t *testing.T) {
	t.Parallel()
	s := newFaultHosts(t, false)
	const (
		say  = "cat /usr/local/bin/said; "
		wait = "exec cat >/dev/null" // until the client leaves
		good = `{"protocol":1,"program":"pgx 9.9","silence":3000000000}`
	)
	faults := []fault{
		{
			name: "no binary",
			args: []string{"--SIDE-host-cmd=/nowhere/pgx"},
			want: []string{"'USER@HOST:22': start the command: there is no '/nowhere/pgx' on 'HOST'", "install pgx there, or name its path by option SIDE-host-cmd"},
		}, {
			name: "no program",
			args: []string{"--SIDE-host-cmd=/etc/passwd"},
			want: []string{"'USER@HOST:22': start the command: '/etc/passwd' cannot be run on 'HOST'", "option SIDE-host-cmd names its path"},
		}, {
			name: "no configuration",
			args: []string{"--SIDE-host-config=/nowhere.conf"},
			want: []string{"'USER@HOST:22': ", "/nowhere.conf"},
		}, {
			name:  "configuration without the cluster",
			only:  "pg1",
			cause: func(_, to *host) { to.must("sh", "-c", "echo [global] >/tmp/empty.conf") },
			args:  []string{"--SIDE-host-config=/tmp/empty.conf"},
			want:  []string{"'USER@HOST:22': ", "agent command requires option: pg1-path", "'main' is not configured in '/tmp/empty.conf'"},
		}, {
			name:  "configuration with another repository",
			only:  "repo1",
			cause: func(_, to *host) { to.must("sh", "-c", "printf '[global]\nrepo1-path=/nowhere\n' >/tmp/other.conf") },
			args:  []string{"--SIDE-host-config=/tmp/other.conf"},
			want:  []string{"on 'USER@HOST:22': ", "/nowhere", "is repo1-path right there?"},
		}, {
			name:  "login shell that prints",
			cause: func(_, to *host) { to.must("sh", "-c", "echo echo Welcome to '$(hostname)' >.bashrc") },
			mend:  func(_, to *host) { to.must("rm", ".bashrc") },
			want:  []string{"'USER@HOST:22' sent \"Welcome to HOST\", which is not pgx's protocol", "it must not print anything when the shell is not interactive"},
		}, {
			name: "real pgbackrest",
			args: []string{"--SIDE-host-cmd=pgbackrest"},
			want: []string{"'USER@HOST:22'", "pgbackrest", "both ends must be pgx"},
		},
	}
	for _, p := range []struct {
		name, only, said, script string
		args, want               []string
	}{
		{
			name:   "forced real pgbackrest",
			script: "exec pgbackrest --stanza=main --process=0 --log-level-console=off --log-level-stderr=error --remote-type=repo archive-get:remote",
			want:   []string{"'USER@HOST:22'", `it said '{"name":"pgBackRest"`, "both ends must be pgx", "authorized_keys"},
		}, {
			name: "other version", said: frame(kindWelcome, `{"protocol":2,"program":"pgx 9.9","silence":3000000000}`), script: say + wait,
			want: []string{"'USER@HOST:22' speaks protocol 2, 'pgx ", "speaks 1", "install the same release of pgx on both hosts"},
		}, {
			name: "garbage", said: strings.Repeat("\x00\xff\x1b[31m", 500), script: say + wait,
			want: []string{`'USER@HOST:22' sent "\x00\xff\x1b[31m`, "which is not pgx's protocol"},
		}, {
			name: "endless garbage", only: "pg1", script: "exec yes nonsense",
			want: []string{`'USER@HOST:22' sent "nonsense", which is not pgx's protocol`},
		}, {
			name: "garbage in the middle", only: "repo1", said: frame(kindWelcome, good) + "nonsense\n", script: say + wait,
			want: []string{`'USER@HOST:22' sent "nonsense", which is not pgx's protocol`},
		}, {
			name: "oversized frame", said: "\xff\xff\xff\xff\x02" + good, script: say + wait,
			want: []string{`'USER@HOST:22' sent "\xff\xff\xff\xff\x02`, "which is not pgx's protocol"},
		}, {
			name: "oversized data", only: "pg1", said: frame(kindWelcome, good) + "\x00\x04\x00\x01\x04" + strings.Repeat("x", 300_000), script: say + wait,
			want: []string{`'USER@HOST:22' sent "\x00\x04\x00\x01\x04xxx`, "which is not pgx's protocol"},
		}, {
			name: "silence", script: wait,
			want: []string{"no sign of life from 'USER@HOST:22' for 3s", "io-timeout says how long to wait"},
		}, {
			name: "silence in the middle", only: "repo1", said: frame(kindWelcome, good), script: say + wait,
			want: []string{"archive-id: no sign of life from 'USER@HOST:22' for 3s", "io-timeout says how long to wait"},
		}, {
			name: "alive and idle", only: "pg1", said: frame(kindWelcome, good), script: say + `while printf '\0\0\0\0\11'; do sleep 0.2; done`,
			args: []string{"--protocol-timeout=4"},
			want: []string{"no answer from 'USER@HOST:22' to 'connect' for 4s", "protocol-timeout says how long to wait"},
		}, {
			name: "early end", only: "repo1", script: "exit 0",
			want: []string{"'USER@HOST:22': '/usr/local/bin/pgx --stanza=main ", "ended there with exit status 0"},
		}, {
			name: "failure", only: "pg1", script: "echo cannot do that >&2; exit 3",
			want: []string{"'USER@HOST:22': '/usr/local/bin/pgx --stanza=main ", "ended there with exit status 3: it said 'cannot do that'"},
		}, {
			name: "crash", only: "repo1", said: frame(kindWelcome, good), script: say + "kill -SEGV $$",
			want: []string{"'USER@HOST:22': '/usr/local/bin/pgx --stanza=main ", "was killed there by signal SEGV"},
		},
	} {
		cause, mend := peer(p.said, p.script)
		faults = append(faults, fault{name: p.name, only: p.only, cause: cause, mend: mend, args: p.args, want: p.want})
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { s.in(t).meet(f) })
	}
	t.Run("other version of the client", func(t *testing.T) { s.in(t).newerClient() })
	t.Run("pgbackrest as the client", func(t *testing.T) { s.in(t).theirClient() })
	s.verified()
}

// newerClient: what a client of another version is told.
func (s *faultHosts) newerClient() {
	s.kept(func() {
		k := newTalk(s.db, "ssh", "pgbackrest@repo", "pgx --stanza=main --role=archive server --stdio")
		_, err := io.WriteString(k.in, frame(kindHello, `{"protocol":2,"program":"pgx 9.9","role":"archive","stanza":"main","silence":3000000000}`))
		if err == nil {
			err = k.out.SetReadDeadline(time.Now().Add(faultBound))
		}
		if err != nil {
			s.Fatal(err)
		}
		said, err := io.ReadAll(k.answers)
		if err != nil {
			s.Error(err)
		}
		for _, want := range []string{"'pgx 9.9' speaks protocol 2, 'pgx ", "install the same release of pgx on both hosts"} {
			if !strings.Contains(string(said), want) {
				s.Errorf("the answer to a client of another version is %q", said)
			}
		}
		if err := errors.Join(k.in.Close(), k.out.Close()); err != nil {
			s.Error(err)
		}
	})
}

// theirClient: pgbackrest that finds our program on the other host, under either name, shows what we
// tell it.
func (s *faultHosts) theirClient() {
	for _, program := range []string{"pgx", dropIn()} {
		s.kept(func() {
			o := s.db.begin("pgbackrest", "--stanza=main", "--repo1-host-cmd="+program, "archive-push", s.wal()).end(faultBound)
			s.says(o, 103, "remote-0 process on 'repo' terminated", "this is pgx, which does not speak its protocol", "both ends of a connection must be pgx")
			o = s.repo.begin("pgbackrest", "--stanza=main", "--pg1-host-cmd="+program, "--type=full", "backup").end(faultBound)
			s.says(o, 56, "remote-0 process on 'db' terminated", "this is pgx, which does not speak its protocol", "both ends of a connection must be pgx")
		})
	}
}
