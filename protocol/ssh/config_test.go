package ssh_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/sshtest"
	"github.com/pgx-backup/pgx/protocol/ssh"
)

// What is given wins over ~/.ssh/config, and that over the defaults.
func TestPrecedence(t *testing.T) {
	home := t.TempDir()
	config := `
# comment
User=everyone
Host db1 db2 !db3
	Port 2201 # of sshd
	User  "of-config"
	HostName real.%h
Host *
	Port 2299
`
	x := &site{t: t, home: home}
	x.write("config", strings.Replace(config, "User=everyone\n", "", 1), 0o600)
	x.write("everyone", config, 0o644)
	for _, test := range []struct {
		host ssh.Host
		file string
		want string
	}{
		{ssh.Host{Name: "db1", DefaultUser: "postgres"}, "", "of-config@db1:2201"},
		{ssh.Host{Name: "db1", User: "given", Port: 22, DefaultUser: "postgres"}, "", "given@db1:22"},
		{ssh.Host{Name: "db3", DefaultUser: "postgres"}, "", "postgres@db3:2299"},
		{ssh.Host{Name: "db3"}, "", "local@db3:2299"},
		{ssh.Host{Name: "db1", DefaultUser: "postgres"}, "everyone", "everyone@db1:2201"},
		{ssh.Host{Name: "fe80::1", DefaultUser: "postgres"}, "", "postgres@[fe80::1]:2299"},
	} {
		c := ssh.Config{Home: home, User: "local"}
		if test.file != "" {
			c.ConfigFile = filepath.Join(home, ".ssh", test.file)
		}
		if got := ssh.New(test.host, c).String(); got != test.want {
			t.Errorf("%+v is %s, want %s", test.host, got, test.want)
		}
	}
	if got := ssh.New(ssh.Host{Name: "db1", User: "u"}, ssh.Config{Home: "/nowhere"}).String(); got != "u@db1:22" {
		t.Errorf("without a file: %s", got)
	}
}

func TestConfigFaults(t *testing.T) {
	for _, test := range []struct {
		config string
		want   string // after the file's name in quotes
	}{
		{"Host a\n\nMatch user root\n  Port 23\n", " line 3: pgx understands no Match lines but 'Match all'"},
		{"match host db1\n", " line 1: pgx understands no Match lines"},
		{"Host db1\n  Port\n", " line 2: 'Port' has no value"},
		{"Host\n", " line 1: 'Host' has no value"},
		{"Port 70000\n", ": Port of 'db1': '70000' is not a port"},
		{"IdentityFile ~/%x\n", ": IdentityFile of 'db1': pgx does not expand %x in '~/%x'"},
		{"IdentityFile keys/id\n", ": IdentityFile of 'db1': 'keys/id' is not an absolute path and does not begin with ~/"},
		{"IdentityFile ${HOME}/id\n", ": IdentityFile of 'db1': '${HOME}/id': pgx expands no environment variables here"},
		{"HostName %p\n", ": HostName of 'db1': pgx does not expand %p in '%p'"},
		{"Host db1\nProxyJump a,b:x\n", ": ProxyJump of 'db1': 'x' is not a port"},
		{"ProxyJump a\n", ": ProxyJump of 'a' leads over more than 8 hosts or in a circle"},
		{"ProxyCommand nc %h %p\n", ": pgx does not run the ProxyCommand of 'db1'"},
		{"Include ~/.ssh/more\n", "more' line 2: 'User' has no value"},
		{"Include config\n", "' is included more than 5 levels deep"},
	} {
		x := &site{t: t, home: t.TempDir()}
		file := x.write("config", test.config, 0o600)
		x.write("more", "Port 22\nUser\n", 0o600)
		_, err := ssh.New(ssh.Host{Name: "db1"}, ssh.Config{Home: x.home}).Open(t.Context())
		if err == nil {
			t.Errorf("%q: no error", test.config)
			continue
		}
		want := "'db1': '" + file + "'" + test.want
		if strings.HasPrefix(test.config, "Include") {
			want = test.want
		}
		if !strings.Contains(err.Error(), want) || errs.CodeOf(err) != errs.Config {
			t.Errorf("%q: %v, want %q", test.config, err, want)
		}
	}

	x := &site{t: t, home: t.TempDir()}
	file := x.write("config", "Port 22\n", 0o600)
	x.write("open", "Port 22\n", 0o666)
	for name, want := range map[string]string{
		filepath.Join(x.home, ".ssh/open"): "can be written by others (mode 0",
		"/nowhere/config":                  "/nowhere/config: no such file or directory",
		filepath.Dir(file):                 "is a directory",
	} {
		_, err := ssh.New(ssh.Host{Name: "db1"}, ssh.Config{Home: x.home, ConfigFile: name}).Open(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// Every field matters to a real login.
func TestConfigFields(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	x := newSite(t, s)
	x.remove("id_ed25519")
	x.remove("known_hosts")
	x.write("known/of-db1", read(t, s.KnownHosts), 0o600)
	x.write(fmt.Sprintf("keys-local/db1-%s.%d", s.User, s.Port), read(t, s.Key), 0o600)
	included := x.write("included", "HostName 127.0.0.1\nUserKnownHostsFile /nowhere ~/.ssh/known/of-%n\n", 0o600)
	x.write("config", fmt.Sprintf("Host db1\n Port %d\n User %s\n IdentityFile ~/.ssh/keys-%%u/%%n-%%r.%%p\n Include %s\n Match all", s.Port, s.User, included), 0o600)
	x.host = ssh.Host{Name: "db1", DefaultUser: "nobody", Command: "cat", Option: "pg1-host"}
	x.works()
	x.remove("known/of-db1")
	x.fails(fmt.Sprintf("'%s@db1:%d': host key: key ", s.User, s.Port), fmt.Sprintf("of '127.0.0.1:%d' is unknown", s.Port), ">> '/nowhere'")
}

// Two hops to the host, each with keys, known_hosts and user of its own.
func TestProxyJump(t *testing.T) {
	s, j1, j2 := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{})
	x := newSite(t, s)
	x.write("key1", read(t, j1.Key), 0o600)
	x.write("key2", read(t, j2.Key), 0o600)
	known := read(t, s.KnownHosts) + read(t, j1.KnownHosts) + read(t, j2.KnownHosts)
	config := func(jump string) string {
		return fmt.Sprintf(`
Host j1
  HostName 127.0.0.1
  IdentityFile ~/.ssh/key1
  Port %d
Host j2
  HostName 127.0.0.1
  IdentityFile ~/.ssh/key2
  Port 1
  ProxyJump none-such
Host db1
  HostName 127.0.0.1
  Port %d
  ProxyJump %s
`, j1.Port, s.Port, jump)
	}
	for _, jump := range []string{"j1", fmt.Sprintf("j1,ssh://%s@j2:%d", s.User, j2.Port)} {
		x.write("known_hosts", known, 0o600)
		x.write("config", config(jump), 0o600)
		x.host = ssh.Host{Name: "db1", DefaultUser: s.User, Command: "cat", Option: "pg1-host"}
		x.conf.User = s.User
		x.works()
	}
	db1 := fmt.Sprintf("'%s@db1:%d': ", s.User, s.Port)
	hop2 := db1 + fmt.Sprintf("hop '%s@j2:%d': ", s.User, j2.Port)
	x.write("known_hosts", read(t, s.KnownHosts)+read(t, j1.KnownHosts), 0o600)
	x.fails(hop2+"host key: key ", fmt.Sprintf("add it: ssh j1 ssh-keyscan -t ed25519 -p %d 127.0.0.1 >> ", j2.Port))
	x.write("known_hosts", known, 0o600)
	sshtest.Keygen(t, filepath.Join(x.home, ".ssh", "other"), "ed25519", "")
	x.write("key2", read(t, filepath.Join(x.home, ".ssh", "other")), 0o600)
	x.fails(hop2+"log in: user '"+s.User+"' is not let in with any of the keys", "on 'j2' must have the line")
	x.write("key2", read(t, j2.Key), 0o600)
	s.Stop()
	x.fails(db1+"connect: 'j2' cannot reach '127.0.0.1:"+fmt.Sprint(s.Port)+"': Connection refused", "pg1-host-port")
	j2.Stop()
	x.fails(hop2+"connect: 'j1' cannot reach '127.0.0.1:"+fmt.Sprint(j2.Port)+"'", "what ~/.ssh/config has for 'j2'")
	j1.Stop()
	x.fails(db1+fmt.Sprintf("hop '%s@j1:%d': connect: ", s.User, j1.Port), "connection refused", "what ~/.ssh/config has for 'j1'")
}

func TestProxyJumpForbidden(t *testing.T) {
	s, j1 := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{Config: []string{"AllowTcpForwarding no"}})
	x := newSite(t, s)
	x.write("jump", read(t, j1.Key), 0o600)
	x.write("known_hosts", read(t, s.KnownHosts)+read(t, j1.KnownHosts), 0o600)
	x.write("config", fmt.Sprintf("Host db1\n HostName 127.0.0.1\n ProxyJump %s@127.0.0.1:%d\nHost *\n IdentityFile ~/.ssh/id_ed25519\n IdentityFile ~/.ssh/jump\n",
		s.User, j1.Port), 0o600)
	x.host.Name = "db1"
	x.fails("connect: '127.0.0.1' does not forward connections: ", "AllowTcpForwarding")
}
