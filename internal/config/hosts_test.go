package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
)

const ownName, peerName = "/usr/bin/pgx", "/usr/bin/pgbackrest"

// tell loads a command line and gives the error as "[072]: message".
func tell(program, dir, args string) (*config.Config, string) {
	c, err := config.Load(config.Input{Program: program, Root: dir, Dir: dir, Args: strings.Fields(args)})
	if err != nil {
		return c, strings.ReplaceAll("["+code(errs.CodeOf(err))+"]: "+err.Error(), dir, "DIR")
	}
	return c, ""
}

func TestHosts(t *testing.T) {
	t.Parallel()
	const x = " --no-config --stanza=x --pg1-path=/x "
	const tls = "between hosts pgx uses SSH, with the keys of ~/.ssh (see ssh-setup); pgx server and pgx agent have a listener of their own " +
		"where there is no account to log in to (command line)"
	const both = "[027]: pg and repo hosts cannot both be configured as remote"
	for _, test := range []struct{ args, own, peer string }{ // peer: "=" for the same
		{"archive-push w --pg1-host=h" + x, "[072]: archive-push command must be run on the PostgreSQL host", "="},
		{"archive-get w p --pg1-host=h" + x, "[072]: archive-get command must be run on the PostgreSQL host", "="},
		{"archive-push w --pg2-host=h --pg2-path=/y" + x, "", "="},
		{"archive-push w --repo1-host=h" + x, "", "="},
		{"restore --pg1-host=h" + x, "", "[072]: restore command must be run on the PostgreSQL host"},
		{"restore --pg1-host=h --pg1-host-user=me" + x, "", "[031]: option 'pg-host-user' not valid for command 'restore'"},
		{"restore --repo1-host=h" + x, "", "="},
		{"restore --pg1-host=h --repo1-host=h" + x, both, "="},
		{"backup --repo1-retention-full=1 --pg1-host=h --repo2-host=h" + x, both, "="},
		{"backup --repo1-retention-full=1 --pg1-host=h" + x, "", "="},
		{"backup --repo1-retention-full=1 --repo1-host=h" + x, "", "="},
		{"check --pg1-host=h --pg2-host=i --pg2-path=/y" + x, "", "="},
		{"stanza-create --pg1-host=h" + x, "", "="},
		{"info --repo1-host=h --repo2-path=/y --repo3-host=i --no-config", "", "="},
		{"info --repo1-host=h --repo1-host-type=tls --no-config",
			"[067]: option 'repo1-host-type' = 'tls' is not supported: " + tls, "[037]: info command requires option: repo1-host-cert-file"},
		{"info --repo1-host=h --repo1-host-type=tls --repo1-host-cert-file=/c --repo1-host-key-file=/k --no-config",
			"[067]: option 'repo1-host-type' = 'tls' is not supported: " + tls, "="},
		{"check --pg1-host=h --pg1-host-type=tls --pg1-host-cert-file=/c --pg1-host-key-file=/k" + x,
			"[067]: option 'pg1-host-type' = 'tls' is not supported: " + tls, "="},
		{"info --repo1-host=h --cmd-ssh=/bin/ssh --no-config", "[067]: option 'cmd-ssh' = '/bin/ssh' is not supported: " +
			"pgx has an SSH client of its own; what ssh was told belongs in ~/.ssh/config or in the file of ssh-config (command line)", "="},
		{"check --pg1-host=h --cmd-ssh=ssh" + x, "[067]: option 'cmd-ssh' = 'ssh' is not supported: " +
			"pgx has an SSH client of its own; what ssh was told belongs in ~/.ssh/config or in the file of ssh-config (command line)", "="},
		{"info --cmd-ssh=/bin/ssh --no-config", "", "="}, // nothing is done over SSH
		{"info --ssh-config=/x --no-config", "", "="},
		{"stop --ssh-config=/x --no-config", "[031]: option 'ssh-config' not valid for command 'stop'", "="},
		{"ssh-setup --no-config --check", "", "[048]: invalid command 'ssh-setup'"},
		{"config show agent --no-config", "", "[048]: invalid command 'config'"},
		{"agen --no-config", "[048]: invalid command 'agen'\nHINT: did you mean 'agent'?", "[048]: invalid command 'agen'"},
		{"info --server-port=1 --no-config", "[031]: option 'server-port' not valid for command 'info'", "[031]: invalid option '--server-port=1'"},
		{"server-ping --no-config", "[067]: command 'server-ping' is not supported yet", "="},
		{"server-ping --no-config --tls-server-port=1", "[067]: option 'tls-server-port' = '1' is not supported: between hosts pgx uses SSH, " +
			"without certificates; pgx server listens on server-port for the keys of server-client (command line)", "="},
	} {
		if test.peer == "=" {
			test.peer = test.own
		}
		for program, want := range map[string]string{ownName: test.own, peerName: test.peer} {
			if _, got := tell(program, "/nowhere", test.args); got != want {
				t.Errorf("%s %s\n got %s\nwant %s", program, test.args, got, want)
			}
		}
	}
}

// TestPeerStartsHelper is about what a real pgbackrest starts at the other end of SSH.
func TestPeerStartsHelper(t *testing.T) {
	t.Parallel()
	for _, program := range []string{ownName, peerName} {
		for _, role := range []string{"remote", "local"} {
			_, got := tell(program, "/nowhere", "--log-level-console=off --process=0 --remote-type=repo --repo=1 --stanza=x --lock=a archive-push:"+role)
			want := "[039]: 'archive-push:" + role + "' is how pgbackrest starts its own helper, but this is pgx, which does not speak its protocol\n" +
				"HINT: both ends of a connection must be pgx: pgbackrest on the other host started this program.\n" +
				"HINT: install pgx there as well, or let its pg-host-cmd, repo-host-cmd or cmd name a pgbackrest."
			if got != want {
				t.Errorf("%s gives %s", program, got)
			}
		}
		// What we start ourselves.
		for _, command := range []string{"archive-push", "archive-get"} {
			c := load(t, config.Input{Program: program, Args: []string{"--no-config", "--stanza=x", "--pg1-path=/x", command + ":async", "/x/pg_wal"}})
			if !c.Async || c.Command.String() != command {
				t.Errorf("%s: %s:async is %s", program, command, c.Command)
			}
		}
		if _, got := tell(program, "/nowhere", "backup:async"); got != "[048]: invalid command/role combination 'backup:async'" {
			t.Errorf("async gives %s", got)
		}
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{
		"etc/pgbackrest.conf": "[global]\nrepo1-path=/r\nlog-level-console=info\nlock-path=/l\ntls-server-auth=a=*\n[main]\npg1-path=/m\npg1-port=1\n" +
			"pg2-path=/n\npg2-host=db2\n[empty]\nprocess-max=2\n",
	})
	const none = "[067]: command 'CMD' without --stdio is not supported under this name: pgx uses SSH between hosts\n" +
		"HINT: the other host starts it through sshd; with a listener of its own it is started as pgx CMD."
	const form = "\nHINT: nobody could connect; ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT] is expected for each key, ssh-setup prints it."
	const tls = "[067]: option 'tls-server-auth' is not supported: between hosts pgx uses SSH, without certificates; pgx server listens on server-port " +
		"for the keys of server-client (file 'DIR/etc/pgbackrest.conf', section [global], line 5)"
	for _, test := range []struct{ args, own, peer string }{
		{"agent --stdio --role=backup --stanza=main", "", "="},
		{"agent --stdio --role=backup --role=restore-target", "", "="},
		{"server --stdio --role=archive --role=restore --stanza=main", "", "="},
		{"server --stdio --role=admin", "", "="},
		{"agent --stdio --stanza=main", "[037]: agent command requires option: role\n" +
			"HINT: it says what the client may do; ssh-setup on the client's host prints the line for authorized_keys.", "="},
		{"agent --role=backup", "[031]: option 'role' not valid without option 'stdio'", "="},
		{"agent --stdio --role=archive", "[032]: 'archive' is not allowed for 'role' option (command line; allowed values are 'backup', 'restore-target')",
			"[032]: 'archive' is not allowed for 'role' option\nHINT: allowed values are 'backup', 'restore-target'"},
		{"server --stdio --role=archive --role=backup", "[032]: 'backup' is not allowed for 'role' option (command line; allowed values are 'archive', 'restore', 'admin')",
			"[032]: 'backup' is not allowed for 'role' option\nHINT: allowed values are 'archive', 'restore', 'admin'"},
		{"server --stdio --role=admin --server-port=1", "[031]: option 'server-port' not valid without option 'no-stdio'", "[031]: invalid option '--server-port=1'"},
		{"agent --stdio --role=backup --stanza=other", "[037]: agent command requires option: pg1-path\n" +
			"HINT: stanza 'other' is not configured in 'DIR/etc/pgbackrest.conf'.", "="},
		{"agent --stdio --role=backup --stanza=empty", "[037]: agent command requires option: pg1-path\n" +
			"HINT: stanza 'empty' is configured without it in 'DIR/etc/pgbackrest.conf'.", "="},
		{"agent --stdio --role=backup --stanza=main --config-path=/nowhere", "[037]: agent command requires option: pg1-path\n" +
			"HINT: there is no configuration file '/nowhere/pgx.toml' or '/nowhere/pgbackrest.conf'.", "="},
		{"agent --stdio --role=backup --stanza=main --config=none.conf", "[055]: unable to open missing file 'DIR/none.conf' for read", "="},
		{"agent", "[037]: agent command requires option: agent-client" + form, none},
		{"server", tls, "="},
		{"server --no-config", "[037]: server command requires option: server-client" + form, none},
		{"backup --stdio --stanza=main", "[031]: option 'stdio' not valid for command 'backup'", "="},
	} {
		if test.peer == "=" {
			test.peer = test.own
		}
		name, _, _ := strings.Cut(test.args, " ")
		for program, want := range map[string]string{ownName: test.own, peerName: strings.ReplaceAll(test.peer, "CMD", name)} {
			if _, got := tell(program, dir, test.args); got != want {
				t.Errorf("%s %s\n got %s\nwant %s", program, test.args, got, want)
			}
		}
	}

	for _, program := range []string{ownName, peerName} {
		c := load(t, config.Input{Program: program, Root: dir, Args: strings.Fields("agent --stdio --role=backup --stanza=main")})
		if c.String(config.OptPgPath) != "/m" || c.Int(config.OptPgPort) != 1 || !c.PgIsLocal(1) || c.PgIsLocal(2) || !c.PgIsLocal(9) {
			t.Errorf("agent sees %s", c.Begin())
		}
		if !c.Command.LogsToFile() || c.String(config.OptLogLevelConsole) != "off" || c.String(config.OptLogLevelStderr) != "error" ||
			c.String(config.OptLockPath) != "/l" || !reflect.DeepEqual(c.List(config.OptRole), []string{"backup"}) {
			t.Errorf("agent begins with %s", c.Begin())
		}
		c = load(t, config.Input{Program: program, Root: dir, Args: strings.Fields("server --stdio --role=archive --role=admin --log-level-stderr=off")})
		if c.String(config.OptLogLevelStderr) != "off" || c.IsSet(config.OptStanza) {
			t.Errorf("server begins with %s", c.Begin())
		}
		s, err := c.ForStanza("main")
		if err != nil || s.String(config.OptStanza) != "main" || s.String(config.OptRepoPath) != "/r" || !s.RepoIsLocal(1) || s.String(config.OptLockPath) != "/l" {
			t.Errorf("for a stanza: %v, %s", err, s.Begin())
		}
		if again, err := s.ForStanza("main"); again != s || err != nil {
			t.Errorf("again for it: %v, %s", err, again.Begin())
		}
	}
}

// A forced command has options before and after the command, in any order.
func TestForStanzaOfAgent(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"etc/pgx/pgx.toml": "[global]\nagent-client=['backup main,other ssh-ed25519 AAAA== me']\n[stanza.main]\npg1-path='/m'\n" +
		"[stanza.main.agent]\npg1-port=7\n"})
	c := load(t, config.Input{Program: ownName, Root: dir, Args: []string{"agent"}})
	// What the file becomes later does not count.
	if err := os.WriteFile(dir+"/etc/pgx/pgx.toml", []byte("[broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := c.ForStanza("main")
	if err != nil || s.String(config.OptPgPath) != "/m" || s.Int(config.OptPgPort) != 7 {
		t.Errorf("main: %v, %s", err, s.Begin())
	}
	_, err = c.ForStanza("other")
	if want := "agent command requires option: pg1-path\nHINT: stanza 'other' is not configured in '" + dir + "/etc/pgx/pgx.toml'."; err == nil || err.Error() != want {
		t.Errorf("other: %v", err)
	}
	if _, err = c.ForStanza("../x"); errs.CodeOf(err) != errs.OptionInvalidValue {
		t.Errorf("../x: %v", err)
	}
}

// joined gives texts with single blanks between their words.
func joined(texts []string) []string {
	var all []string
	for _, t := range texts {
		all = append(all, strings.Join(strings.Fields(t), " "))
	}
	return all
}

func TestClients(t *testing.T) {
	t.Parallel()
	const first, second = "archive,restore main ssh-ed25519 AAAAC3Nza= postgres@db1", "admin main,other ecdsa-sha2-nistp256 AAAA=="
	dir := root(t, map[string]string{
		"a.conf":     "[global]\nserver-client=" + first + "\nserver-client = " + strings.ReplaceAll(second, " ", "  ") + "\nserver-port=99\n",
		"a.toml":     "[global]\nserver-client = [\n  \"" + first + "\",\n  \"" + second + "\",\n]\nserver-port = 99\n",
		"short.conf": "[global]\n\nserver-client=archive main ssh-ed25519\n",
		"role.conf":  "[global]\nserver-client=" + first + "\nserver-client=archive,backup main ssh-ed25519 AAAA\n",
		"comma.conf": "[global]\nserver-client=archive main, ssh-ed25519 AAAA\n",
		"agent.toml": "[global]\nagent-client = \"backup main ssh-ed25519 AAAA\"\n",
	})
	for _, in := range []config.Input{
		{Args: []string{"server", "--config=a.conf"}},
		{Args: []string{"server", "--config=a.toml"}},
		{Args: []string{"server", "--no-config", "--server-client=" + first, "--server-client", second, "--server-port=99"}},
		{Args: []string{"server", "--no-config"}, Env: []string{"PGX_SERVER_CLIENT=" + first + ":" + second, "PGX_SERVER_PORT=99"}},
	} {
		in.Program, in.Dir = ownName, dir
		c := load(t, in)
		if got, want := c.List(config.OptServerClient), []string{first, second}; !slices.Equal(joined(got), want) {
			t.Errorf("%q gives %q", in.Args, got)
		}
		if c.Int(config.OptServerPort) != 99 || c.String(config.OptServerAddress) != "*" || c.String(config.OptServerHostKey) != "/var/lib/pgx/server/host_key" {
			t.Errorf("%q listens elsewhere: %s", in.Args, c.Begin())
		}
	}
	toml, err := config.Convert(dir, "a.conf")
	if err != nil || !strings.Contains(toml, `server-client = ["`+first+`"`) {
		t.Errorf("%v, TOML is\n%s", err, toml)
	}
	c := load(t, config.Input{Program: ownName, Dir: dir, Args: []string{"agent", "--config=agent.toml"}})
	if got := c.List(config.OptAgentClient); len(got) != 1 || c.Int(config.OptAgentPort) != 8434 {
		t.Errorf("agent has %q", got)
	}
	const form = "ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT] is expected)"
	for name, want := range map[string]string{
		"short.conf": "[032]: 'archive main ssh-ed25519' is not valid for 'server-client' option (file 'DIR/short.conf', section [global], line 3; " + form,
		"role.conf": "[032]: 'backup' is not a role for 'server-client' option (file 'DIR/role.conf', section [global], line 2; " +
			"allowed roles are 'archive', 'restore', 'admin')",
		"comma.conf": "[032]: '' is not a stanza for 'server-client' option (file 'DIR/comma.conf', section [global], line 2; " + form,
	} {
		if _, got := tell(ownName, dir, "server --config="+name); got != want {
			t.Errorf("%s\n got %s\nwant %s", name, got, want)
		}
	}
	// One file for both programs: what is pgx's own keeps nothing from working.
	for _, program := range []string{ownName, peerName} {
		if c, got := tell(program, dir, "info --config=a.conf"); got != "" || len(c.Warnings) > 0 {
			t.Errorf("%s: %s, %q", program, got, c.Warnings)
		}
	}
}

func TestRemoteCommand(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"a.conf": "[global]\nrepo1-host=backup\nrepo1-host-config=/etc/my $x.conf\n[x]\npg1-path=/x\n" +
		"[y]\npg1-path=/y\npg2-path=/y2\npg2-host=db2\npg2-host-cmd=sudo -u postgres /opt/pgx\npg2-host-config-path=/etc/y\n" +
		"pg2-host-config-include-path=/etc/y.d\nrepo1-local=y\n"})
	for _, test := range []struct {
		program, args string
		pg            bool
		n             int
		words         []string
		want          string
	}{
		{ownName, "info --no-config --repo1-host=h", false, 1, []string{"--role=archive", "server", "--stdio"}, "/usr/bin/pgx --role=archive server --stdio"},
		{"/opt/my tools/pgx", "info --no-config --repo1-host=h", false, 1, []string{"server"}, `"/opt/my tools/pgx" server`},
		{peerName, "info --config=a.conf", false, 1, []string{"--stanza=my db", "server", "a b"},
			`/usr/bin/pgbackrest --config="/etc/my \$x.conf" --stanza="my db" server "a b"`},
		{ownName, "check --config=a.conf --stanza=y", true, 2, []string{"--stanza=y", "--role=backup", "agent", "--stdio"},
			"sudo -u postgres /opt/pgx --config-include-path=/etc/y.d --config-path=/etc/y --stanza=y --role=backup agent --stdio"},
		{ownName, "archive-push w --config=a.conf --stanza=x", false, 1, []string{"server"}, `/usr/bin/pgx --config="/etc/my \$x.conf" server`},
		{ownName, "ssh-setup --config=a.conf --stanza=y", true, 2, nil, "sudo -u postgres /opt/pgx --config-include-path=/etc/y.d --config-path=/etc/y"},
	} {
		c := load(t, config.Input{Program: test.program, Dir: dir, Args: strings.Fields(test.args)})
		if got := c.RemoteCommand(test.pg, test.n, test.words...); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.args, got, test.want)
		}
	}
	c := load(t, config.Input{Program: ownName, Dir: dir, Args: strings.Fields("check --config=a.conf --stanza=y")})
	if !c.PgIsLocal(1) || c.PgIsLocal(2) || !c.RepoIsLocal(1) {
		t.Errorf("of stanza y local is %t %t %t", c.PgIsLocal(1), c.PgIsLocal(2), c.RepoIsLocal(1))
	}
	if c = load(t, config.Input{Program: ownName, Dir: dir, Args: strings.Fields("check --config=a.conf --stanza=x")}); c.RepoIsLocal(1) {
		t.Error("repository of stanza x is local")
	}
}

func TestRestoreCommandForRemote(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"a.conf": "[demo]\npg1-path=/x\npg1-host=db1\n[global]\nrepo1-path=/r\n"})
	for _, test := range []struct{ args, want string }{
		{"", `/usr/bin/pgx --stanza=demo archive-get %f "%p"`},
		{"--repo=1 --repo1-path=/q --cmd=/here/pgx --log-path=/l --lock-path=/k --pg1-host-cmd=/opt/p%x --pg1-host-config=/etc/o$f.conf",
			`/opt/p%%x --config="/etc/o\$f.conf" --stanza=demo archive-get %f "%p"`},
	} {
		c := load(t, config.Input{Program: ownName, Dir: dir, ExecID: "1-2", Args: append(strings.Fields(test.args), "restore", "--config="+filepath.Join(dir, "a.conf"))})
		if got := c.RestoreCommand(); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.args, got, test.want)
		}
	}
}

func TestHelpOfHosts(t *testing.T) {
	t.Parallel()
	text := func(program string, args ...string) string {
		c, err := config.Load(config.Input{Program: program, Root: "/nowhere", Args: append([]string{"help"}, args...)})
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return c.Help()
	}
	for _, test := range []struct {
		program, args string
		has, hasNot   []string
	}{
		{ownName, "", []string{"agent ", "server ", "ssh-setup ", "over SSH"}, []string{"over SSH (not yet)"}},
		{peerName, "", []string{"server "}, []string{"agent ", "ssh-setup"}},
		{ownName, "agent", []string{"--agent-port", "default=8434", "--agent-client", "--role", "--pgN-path", "--stanza", "pgx --stanza=main --role=backup agent --stdio"},
			[]string{"--stdio    ", "--server-port", "--repoN-path"}},
		{ownName, "server", []string{"--server-port", "default=8433", "--server-client", "--role", "--repoN-path", "--stanza"}, []string{"--agent-port", "--pgN-path"}},
		{peerName, "server", []string{"--tls-server-port"}, []string{"  --role", "--server-port", "--repoN-path", "  --stanza"}},
		{ownName, "ssh-setup", []string{"--check", "--ssh-config", "--pgN-host", "--repoN-host", "pgx ssh-setup --check"}, nil},
		{ownName, "restore", []string{"--pgN-host ", "--pgN-host-cmd", "--ssh-config"}, nil},
		{peerName, "restore", nil, []string{"--pgN-host", "--ssh-config"}},
		{ownName, "server role", []string{"archive, restore, admin"}, nil},
		{ownName, "server tls-server-auth", []string{"not in pgx"}, []string{"not yet"}},
		{ownName, "server server-client", []string{"server-client=archive,restore main ssh-ed25519", "/etc/pgx/pgx.toml"}, nil},
	} {
		got := text(test.program, strings.Fields(test.args)...)
		for _, want := range test.has {
			if !strings.Contains(got, want) {
				t.Errorf("%s help %s has no %q", test.program, test.args, want)
			}
		}
		for _, not := range test.hasNot {
			if strings.Contains(got, not) {
				t.Errorf("%s help %s has %q", test.program, test.args, not)
			}
		}
	}
}
