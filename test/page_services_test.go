package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// systemctl does what that of systemd does with a service of Type=notify: systemd can only be
// the first process of a system. What the service says to systemd comes through the pipe,
// since a shell has no socket. The service has to make do without the rules of its sandbox.
const systemctl = `#!/bin/bash
set -eu
unit=${*: -1}
pipe=/run/systemd/heard log=/var/log/$unit.log pid=/run/$unit.pid
get() { sed -n "s/^$1=//p" "/etc/systemd/system/$unit.service"; }
await() {
	while read -r what <$pipe; do
		echo "systemd: $what" >>"$log"
		case $what in
		$1) return ;;
		exit*) cat "$log" >&2; exit 1 ;;
		esac
	done
}
case $1 in
enable)
	user=$(get User) state=/var/lib/$(get StateDirectory)
	install -d "${state%/*}"
	install -d -o "$user" -g "$user" -m "$(get StateDirectoryMode)" "$state"
	install -d -o "$user" -g "$user" "/var/log/$(get LogsDirectory)"
	(
		umask "$(get UMask)"
		cd /
		env -i PATH="$PATH" USER="$user" LOGNAME="$user" HOME="$(getent passwd "$user" | cut -d: -f6)" \
			NOTIFY_SOCKET=/run/systemd/notify \
			setsid setpriv --reuid "$user" --regid "$user" --init-groups $(get ExecStart) &
		echo $! >"$pid"
		code=0
		wait $! || code=$?
		echo "exit $code" >$pipe
	) </dev/null >>"$log" 2>&1 &
	await READY=1
	;;
reload)
	kill -HUP "$(<"$pid")"
	await READY=1 # the real one does not wait, but tests must
	;;
stop)
	kill -TERM "$(<"$pid")"
	await 'exit 0'
	rm "$pid"
	;;
*) exit 1 ;;
esac
`

// newSystemd gives a host a systemctl.
func newSystemd(h *host) {
	h.Helper()
	root := h.as("root")
	root.write("/usr/local/bin/systemctl", systemctl, 0o755)
	var socket *net.UnixConn
	var pipe *os.File
	err := h.do(func() (err error) {
		const dir = "/run/systemd"
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"}); err != nil {
			return err
		}
		if err := os.Chmod(dir+"/notify", 0o777); err != nil {
			return err
		}
		if err := unix.Mkfifo(dir+"/heard", 0o600); err != nil {
			return err
		}
		pipe, err = os.OpenFile(dir+"/heard", os.O_RDWR, 0) // for reading too: it always has a reader
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		message := make([]byte, 4096)
		for {
			n, err := socket.Read(message)
			if err != nil {
				return
			}
			if _, err := pipe.Write(append(message[:n:n], '\n')); err != nil {
				return
			}
		}
	}()
	h.Cleanup(func() {
		_ = socket.Close()
		_ = pipe.Close()
		<-ended
		if logs, err := filepath.Glob(h.path("/var/log/pgx-*.log")); h.Failed() && err == nil {
			for _, name := range logs {
				content, _ := os.ReadFile(name)
				h.Logf("host '%s', %s:\n%s", h.name, filepath.Base(name), content)
			}
		}
	})
}

// stopServices ends the services of a host, which have to end well.
func stopServices(h *host) {
	h.Helper()
	h.as("root").must("bash", "-ec", `shopt -s nullglob; cd /run; for p in pgx-*.pid; do systemctl stop "${p%.pid}"; done`)
}

// reloadServer: a changed configuration counts from the reload on, a broken one never.
func (r *reader) reloadServer() {
	db1, backup1 := r.on("db1", "postgres"), r.on("backup1", "root")
	conf := backup1.read(pageConf)
	reload := func(conf string, says ...string) {
		r.Helper()
		before := len(backup1.read("/var/log/pgx-server.log"))
		backup1.write(pageConf, conf, 0o644)
		backup1.must("systemctl", "reload", "pgx-server")
		said := backup1.read("/var/log/pgx-server.log")[before:]
		for _, want := range append(says, "systemd: RELOADING=1\n") {
			if !strings.Contains(said, want) {
				r.Errorf("after a reload the server does not say %q, but\n%s", want, said)
			}
		}
	}
	const kept = "the configuration is not taken up, the former one stays: "
	for _, broken := range []struct{ conf, why string }{
		{strings.Replace(conf, "server-client=archive,restore main ", "server-client=", 1), "is not valid for 'server-client' option (file '" + pageConf + "', section [global], line 2"},
		{strings.Replace(conf, "server-client=", "#", 1), "server command requires option: server-client"},
		{strings.Replace(conf, "server-client=", "server-client", 1), "missing '='"},
		{conf + "io-timeout=soon\n", "stanza 'main': "},
	} {
		reload(broken.conf, kept, broken.why)
		db1.must("pgx", "ssh-setup", "--check")
	}
	reload(strings.Replace(conf, "server-client=archive,restore ", "server-client=archive ", 1))
	db1.fails(105, "role restore", "pgx", "ssh-setup", "--check")
	reload(conf)
	db1.must("pgx", "ssh-setup", "--check")
}

// residentAgent: the PostgreSQL host too can do without sshd. A service that is to end lets running
// sessions finish.
func (r *reader) residentAgent() {
	db1, backup1 := r.on("db1", "postgres"), r.on("backup1", "pgbackrest")
	backup1.as("root").must("sed", "-i", "/^pg1-host=/a pg1-host-port=8434", pageConf)
	a := r.advice(backup1, backup1.must("pgx", "ssh-setup"))
	a.permit()
	root := db1.as("root")
	root.must("install", "-m", "644", "conf/pgx-agent.service", "/etc/systemd/system/pgx-agent.service")
	root.must("systemctl", "enable", "--now", "pgx-agent")
	a.trust(db1.must("bash", "-ec", a.show))
	db1.stopSSHD()
	backup1.must("pgx", "ssh-setup", "--check")
	backup1.must("pgx", "--type=full", "backup")

	// While nothing is archived, check waits.
	archive := func(how string) {
		db1.must("psql", "-qc", "alter system set archive_command = '"+how+"'", "-c", "select pg_reload_conf()")
	}
	archive("false && pgx archive-push %p")
	check := backup1.begin("pgx", "check")
	pgtest.Eventually(r.T, "a segment to be archived", func() bool {
		return !check.running() ||
			db1.must("psql", "-XAtc", "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'") != "0\n"
	})
	stop := root.begin("systemctl", "stop", "pgx-agent")
	pgtest.Eventually(r.T, "the agent to refuse sessions", func() bool { return backup1.run("pgx", "ssh-setup", "--check").code != 0 })
	if !stop.running() || !check.running() {
		r.Error("check does not wait for the archive, or the agent not for check")
	}
	archive("pgx archive-push %p")
	if o := check.end(commandLimit); o.code != 0 {
		r.Errorf("check, during which the agent was to end: exit %d\n%s", o.code, o.all())
	}
	if o := stop.end(commandLimit); o.code != 0 {
		r.Errorf("the end of the agent: exit %d\n%s", o.code, o.all())
	}
	root.must("systemctl", "enable", "--now", "pgx-agent")
	backup1.must("pgx", "check")
}

// TestUnits: systemd has nothing to say against the units.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil && os.Getenv("PGX_TEST_SHORT") != "" {
		t.Skip(err)
	}
	units, err := filepath.Glob("../conf/*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("the units are %v, %v", units, err)
	}
	for _, unit := range units {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		const installed = "ExecStart=/usr/local/bin/pgx "
		if !strings.Contains(string(content), installed) {
			t.Errorf("%s does not have '%s'", unit, installed)
		}
		name := filepath.Join(t.TempDir(), filepath.Base(unit)) // the program must be there
		if err := os.WriteFile(name, []byte(strings.Replace(string(content), installed, "ExecStart="+pgxPath()+" ", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("systemd-analyze", "verify", name).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", unit, err, out) // what it does not know it only tells
		}
	}
}
