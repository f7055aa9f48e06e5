package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/sshtest"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/protocol/ssh"
)

// ways are those in which a client reaches pgx server and pgx agent.
var ways = []string{"sshd", "resident"}

// holders are the keys, each with what is granted to it. That of a role alone bears its name.
var holders = []struct{ name, side, roles, stanzas string }{
	{"archive", "server", "archive", "demo"},
	{"restore", "server", "restore", "demo"},
	{"admin", "server", "admin", "demo"},
	{"db1", "server", "archive,restore", "demo"},
	{"every", "server", "archive,restore,admin", "*"},
	{"backup", "agent", "backup", "demo"},
	{"restore-target", "agent", "restore-target", "spare"},
	{"nobody", "server", "", ""},
}

// roleHosts is a repository host and a PostgreSQL host in one: a site with a backup and WAL,
// the services of both sides in both ways, and the keys of their clients.
type roleHosts struct {
	*site
	services string // configuration of pgx server and pgx agent
	account  string // that they run as
	sshd     *sshtest.Server
	ports    map[string]int // that the resident ones listen on, by side
	keys     string         // the directory of the keys
	clients  map[string]*ssh.Client

	spare   string // the data directory of stanza "spare", for restores
	outside string // a directory that nobody may reach; it has "secret"
	segment string // content of a WAL segment
	made    *int   // how many were made of it
	system  string // identifier of the cluster
	catalog int    // its catalog version
}

// with gives the hosts to a subtest.
func (h *roleHosts) with(t *testing.T) *roleHosts {
	s := *h.site
	s.T = t
	c := *h
	c.site = &s
	return &c
}

// newRoleHosts makes the hosts. global are options of the repository host, beside those of newSite.
func newRoleHosts(t *testing.T, global map[string]string) *roleHosts {
	t.Helper()
	s := newSite(t, pgtest.Options{WALSegSize: 1}, global)
	h := &roleHosts{
		site: s, services: filepath.Join(s.dir, "services.conf"), ports: map[string]int{}, clients: map[string]*ssh.Client{},
		keys: s.empty("keys"), spare: s.empty("spare"), outside: s.empty("outside"), made: new(int),
	}
	h.write(filepath.Join(h.outside, "secret"), "secret\n")
	s.must(pgxPath(), "--stanza=demo", "backup", "--type=full")
	s.pg.Exec(`select pg_create_restore_point('roles')`)
	name := s.pg.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
	content, err := os.ReadFile(filepath.Join(s.pg.PGDATA, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	h.segment = string(content)
	if _, err := fmt.Sscan(s.pg.QueryValue(`select system_identifier || ' ' || catalog_version_no from pg_control_system()`), &h.system, &h.catalog); err != nil {
		t.Fatal(err)
	}
	s.allArchived()
	for _, top := range []string{"archive", "backup"} { // another stanza, as good as this one
		s.exec(pgtest.Command(t, "cp", "-a", filepath.Join(s.repo, top, "demo"), filepath.Join(s.repo, top, "other")))
	}
	if out, err := pgtest.Command(t, "id", "-un").Output(); err != nil {
		t.Fatal(err)
	} else {
		h.account = strings.TrimSpace(string(out))
	}
	h.grant()
	return h
}

// grant makes the keys, starts the services and lets the keys in.
func (h *roleHosts) grant() {
	h.Helper()
	h.sshd = sshtest.Start(h.T, sshtest.Options{})
	conf, err := os.ReadFile(h.conf)
	if err != nil {
		h.Fatal(err)
	}
	var entries, clients strings.Builder
	for _, k := range holders {
		file := filepath.Join(h.keys, k.name)
		sshtest.Keygen(h.T, file, "ed25519", "")
		h.own(file)
		pub, err := os.ReadFile(file + ".pub")
		if err != nil {
			h.Fatal(err)
		}
		h.write(file+".conf", fmt.Sprintf("IdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\n", file, filepath.Join(h.keys, "known_hosts")))
		if k.roles == "" {
			continue
		}
		fmt.Fprintf(&clients, "%s-client=%s %s %s", k.side, k.roles, k.stanzas, pub)
		fmt.Fprintf(&entries, "restrict,command=%q %s", h.forced(k.side, k.roles, k.stanzas), pub)
	}
	listen := ""
	for _, side := range []string{"server", "agent"} {
		h.ports[side] = sshtest.FreePort(h.T)
		listen += fmt.Sprintf("%s-address=127.0.0.1\n%s-port=%d\n%s-host-key=%s\n", side, side, h.ports[side], side, h.hostKey(side))
	}
	text := strings.Replace(string(conf), "[global]\n", "[global]\n"+listen+clients.String(), 1)
	h.write(h.services, text+fmt.Sprintf("\n[spare]\npg1-path=%s\n\n[other]\npg1-path=%s\n", h.spare, h.outside))
	h.write(h.sshd.AuthorizedKeys, entries.String())

	known, err := os.ReadFile(h.sshd.KnownHosts)
	if err != nil {
		h.Fatal(err)
	}
	for side, port := range h.ports {
		h.resident(side)
		known = append(known, sshtest.KnownHost(h.T, fmt.Sprintf("127.0.0.1:%d", port), h.hostKey(side)+".pub")...)
	}
	h.write(filepath.Join(h.keys, "known_hosts"), string(known))
	h.Cleanup(func() { // before the services end, which wait for their clients
		for _, c := range h.clients {
			_ = c.Close()
		}
	})
}

func (h *roleHosts) hostKey(side string) string { return filepath.Join(h.keys, "host_"+side) }

// forced is the command that authorized_keys forces on a key.
func (h *roleHosts) forced(side, roles, stanzas string) string {
	words := []string{pgxPath(), "--config=" + h.services}
	if stanzas != "*" {
		words = append(words, "--stanza="+stanzas)
	}
	for role := range strings.SplitSeq(roles, ",") {
		words = append(words, "--role="+role)
	}
	return strings.Join(append(words, side, "--stdio"), " ")
}

// resident starts one of the services, which ends with the test, and waits until it listens.
func (h *roleHosts) resident(side string) {
	h.Helper()
	log, err := os.Create(filepath.Join(h.dir, side+".log"))
	if err != nil {
		h.Fatal(err)
	}
	cmd := pgtest.Command(h.T, pgxPath(), "--config="+h.services, "--log-level-console=info", side)
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		h.Fatal(err)
	}
	said := func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			h.Fatal(err)
		}
		return string(b)
	}
	h.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 || h.Failed() {
			h.Logf("pgx %s ended: %v\n%s", side, err, said())
		}
	})
	pgtest.Eventually(h.T, "pgx "+side, func() bool { return strings.Contains(said(), "listening on") })
}

// hello opens a session with the key of a holder. command is what sshd is asked to run.
func (h *roleHosts) hello(way, holder, command string, hello protocol.Hello) (*protocol.Session, error) {
	h.Helper()
	side := holders[slices.IndexFunc(holders, func(k struct{ name, side, roles, stanzas string }) bool { return k.name == holder })].side
	port := h.sshd.Port
	if way == "resident" {
		port = h.ports[side]
	}
	client, known := h.clients[way+holder+command]
	if !known {
		client = h.dial(port, filepath.Join(h.keys, holder+".conf"), command)
		h.clients[way+holder+command] = client
	}
	return h.greet(client, side, hello)
}

// dial gives the client that a file of ~/.ssh/config's form makes.
func (h *roleHosts) dial(port int, conf, command string) *ssh.Client {
	return ssh.New(
		ssh.Host{Name: "127.0.0.1", User: h.account, Port: port, Command: command, Option: "repo1-host"},
		ssh.Config{ConfigFile: conf, Home: h.keys, User: h.account, Timeout: 20 * time.Second})
}

// via opens a session with the server at a port, which the client takes for that with a host key.
func (h *roleHosts) via(port int, holder, hostKey string, hello protocol.Hello) (*protocol.Session, error) {
	h.Helper()
	known := filepath.Join(h.empty(fmt.Sprintf("via-%d", port)), "known_hosts")
	h.write(known, sshtest.KnownHost(h.T, fmt.Sprintf("127.0.0.1:%d", port), hostKey+".pub"))
	h.write(known+".conf", fmt.Sprintf("IdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\n", filepath.Join(h.keys, holder), known))
	client := h.dial(port, known+".conf", "pgx")
	h.Cleanup(func() { _ = client.Close() })
	return h.greet(client, "server", hello)
}

// greet opens a session.
func (h *roleHosts) greet(client *ssh.Client, side string, hello protocol.Hello) (*protocol.Session, error) {
	channel, err := client.Open(h.Context())
	if err != nil {
		return nil, err
	}
	if hello.Args == nil {
		hello.Args = json.RawMessage(`{"repo":1}`)
		if path := h.pg.PGDATA; side == "agent" {
			if hello.Stanza == "spare" {
				path = h.spare
			}
			hello.Args = json.RawMessage(`{"path":"` + path + `"}`)
		}
	}
	hello.Command, hello.ExecID = "test", "test"
	s, err := protocol.Open(h.Context(), channel, hello, protocol.Config{
		Peer: client.String(), Program: "pgx test", Silence: 20 * time.Second, Wait: 20 * time.Second,
	})
	if err == nil {
		h.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

// session is hello for what is granted.
func (h *roleHosts) session(way, holder, role, stanza string) *protocol.Session {
	h.Helper()
	s, err := h.hello(way, holder, "pgx", protocol.Hello{Role: role, Stanza: stanza})
	if err != nil {
		h.Fatalf("role '%s' for '%s': %v", role, holder, err)
	}
	return s
}

// wipe empties the data directory of the stanza "spare".
func (h *roleHosts) wipe() {
	h.Helper()
	all, err := os.ReadDir(h.spare)
	for _, e := range all {
		err = errors.Join(err, os.RemoveAll(filepath.Join(h.spare, e.Name())))
	}
	if err != nil {
		h.Fatal(err)
	}
}
