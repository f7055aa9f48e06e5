package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

const siteConf = "/etc/pgbackrest/pgbackrest.conf"

// service is a resident pgx on a host.
type service struct {
	*begun
	log string
}

// resident starts pgx server or pgx agent and waits until it listens.
func (h *host) resident(side string) *service {
	h.Helper()
	s := &service{log: "/var/log/pgbackrest/" + side + ".log"}
	s.begun = h.begin("sh", "-c", "exec pgx --log-level-console=trace "+side+" >"+s.log+" 2>&1")
	pgtest.Eventually(h.T, "pgx "+side, func() bool {
		return h.exists(s.log) && strings.Contains(h.read(s.log), "listening on") || !s.running()
	})
	return s
}

// stop ends the service, which has to end well.
func (s *service) stop() {
	s.h.Helper()
	s.h.signal(s.Process.Pid, syscall.SIGTERM)
	if o := s.end(time.Minute); o.code != 0 {
		s.h.Errorf("the service ended with exit code %d\n%s", o.code, s.h.read(s.log))
	}
}

// trustResident lets the user of h know the resident pgx of another host.
func (h *host) trustResident(other *host, port int, key string) {
	h.Helper()
	f := strings.Fields(other.read(key + ".pub"))
	h.appendLine(".ssh/known_hosts", fmt.Sprintf("[%s]:%d,[%s]:%d %s %s", other.name, port, other.addr, port, f[0], f[1]))
}

// watch collects the command lines and environments of all processes of the hosts until the
// function that it gives is called, which gives them.
func watch(t *testing.T, hosts ...*host) func() string {
	t.Helper()
	ended, seen := make(chan struct{}), map[string]bool{}
	var watching sync.WaitGroup
	watching.Go(func() {
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			for _, h := range hosts {
				for _, p := range h.processes() {
					for _, name := range []string{"cmdline", "environ"} {
						// One that has gone has nothing.
						b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pid, name))
						seen[h.name+": "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))] = true
					}
				}
			}
			select {
			case <-ended:
				return
			case <-again.C:
			}
		}
	})
	var once sync.Once
	stop := func() string {
		once.Do(func() {
			close(ended)
			watching.Wait()
		})
		var all strings.Builder
		for line := range seen {
			all.WriteString(line + "\n")
		}
		return all.String()
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// segments pushes a segment at once and lets the server archive others in the background, and gets
// all of them in both ways.
func (c *remoteCluster) segments() {
	c.Helper()
	conf := c.read(siteConf)
	c.write(siteConf, strings.Replace(conf, "[global]\n", "[global]\narchive-async=y\nspool-path=/var/lib/postgresql/spool\n", 1), 0o644)
	c.must("mkdir", "-p", "/var/lib/postgresql/spool")
	names := []string{c.full()}
	c.here("--no-archive-async", "archive-push", c.data+"/pg_wal/"+names[0])
	names = append(names, c.full())
	c.archived()
	for _, name := range names {
		for _, how := range []string{"--archive-async", "--no-archive-async"} {
			got := "/tmp/got" + how
			c.here(how, "archive-get", name, got)
			c.must("cmp", got, c.data+"/pg_wal/"+name)
			c.must("rm", got)
		}
	}
	c.write(siteConf, conf, 0o644)
}

// TestCipherResident: with resident pgx on both hosts, and no sshd on either, everything works on
// an encrypted repository. What the PostgreSQL host is told it keeps in memory: no file, no log at
// whatever level, no command line and no environment on either host has a passphrase but for the
// configuration of the repository host.
func TestCipherResident(t *testing.T) {
	r := newRemote(t, "pgx")
	c, repo := r.pg[0], r.repo
	const serverKey, agentKey = "/var/lib/pgx/server_host_key", "/var/lib/pgx/agent_host_key"
	conf := strings.Replace(repo.read(siteConf), "[global]\n", "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass="+repoPass+
		"\nlog-level-file=trace\nserver-port=8433\nserver-host-key="+serverKey+"\nserver-client=archive,restore one "+c.key()+"\n", 1)
	repo.write(siteConf, strings.Replace(conf, "pg1-host=db1\n", "pg1-host=db1\npg1-host-port=8434\n", 1), 0o640)
	c.write(siteConf, strings.Replace(c.read(siteConf), "repo1-host=repo\n", "repo1-host=repo\nrepo1-host-port=8433\nlog-level-file=trace\nagent-port=8434\nagent-host-key="+
		agentKey+"\nagent-client=backup one "+repo.key()+"\n", 1), 0o644)
	repo.stopSSHD()
	c.stopSSHD()
	seen := watch(t, repo, c.host)
	server, agent := repo.resident("server"), c.resident("agent")
	repo.trustResident(c.host, 8434, agentKey)
	c.trustResident(repo, 8433, serverKey)

	for _, resident := range []*service{server, agent} { // what they have in memory is not left behind
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", resident.Process.Pid))
		if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
			t.Errorf("%v, the limits are\n%s", err, limits)
		}
	}
	c.there("stanza-create")
	c.there("check")
	c.here("check")
	c.Exec(`create database needle_database`)
	c.Exec(`create table t as select g as id, 'plaintext-needle ' || g as what from generate_series(1, 20000) g`)
	c.archived() // by the agent
	c.there("backup", "--type=full", "--process-max=2", "--log-level-console=trace")
	agent.stop()
	c.segments() // by archive-push and its worker
	agent = c.resident("agent")
	c.Exec(`update t set what = 'plaintext-needle' where id % 100 = 0`)
	c.there("backup", "--type=incr")
	c.sameInfo()
	c.disaster()
	c.here("stop")
	agent.stop()
	server.stop()
	c.idle()
	repo.idle()

	dir := repo.path("/var/lib/pgbackrest")
	archive, backup, backups := passes(t, dir, c.stanza)
	all := []string{repoPass, archive, backup}
	for _, p := range backups {
		all = append(all, p)
	}
	unreadable(t, dir, all...)
	if got := holding(t, c.path(""), all); len(got) > 0 {
		t.Errorf("on the PostgreSQL host there is a passphrase in %q", got)
	}
	if got := holding(t, repo.path(""), all); !slices.Equal(got, []string{"etc/pgbackrest/pgbackrest.conf"}) {
		t.Errorf("on the repository host there is a passphrase in %q", got)
	}
	processes := seen()
	for _, want := range []string{"repo: pgx --log-level-console=trace server", "db1: pgx --log-level-console=trace agent", "repo: pgx --stanza=one backup",
		"archive-push:async", "PATH="} {
		if !strings.Contains(processes, want) {
			t.Errorf("%q was not seen among the processes\n%s", want, processes)
		}
	}
	for _, p := range all {
		if strings.Contains(processes, p) {
			t.Error("a passphrase is in a command line or an environment")
		}
	}
	logs, err := filepath.Glob(c.path("/var/log/pgbackrest/*.log"))
	if err != nil || len(logs) < 3 {
		t.Errorf("the logs on the PostgreSQL host are %q, %v", logs, err)
	}
}
