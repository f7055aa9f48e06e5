package config_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
)

// peer finds the real pgbackrest 2.60, the reference.
func peer(t *testing.T) string {
	home := os.Getenv("PGX_TEST_HOME")
	if home == "" {
		home = "/tmp/pgx-test"
	}
	path := filepath.Join(home, "pg/18/root/usr/bin/pgbackrest")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no pgbackrest 2.60 to compare with: %v", err)
	}
	return path
}

var (
	logLine  = regexp.MustCompile(`^(?:\d{4}-\d\d-\d\d [\d:.]+ )?(?:P\d\d +)?(ERROR|WARN|INFO): (.*)$`)
	execID   = regexp.MustCompile(` --exec-id=\S+`)
	fileFail = regexp.MustCompile(`^unable to open log file`)
)

// said is what a program said about its configuration.
type said struct {
	warnings []string
	problem  string // "[031]: message", with hints on lines of their own
	begin    string
}

func peerSays(t *testing.T, path string, args, env []string) said {
	cmd := exec.Command(path, args...)
	cmd.Env = env
	out, _ := cmd.CombinedOutput() // the exit code is part of the message
	var s said
	var last *string
	for _, line := range strings.Split(string(out), "\n") {
		m := logLine.FindStringSubmatch(line)
		switch {
		case m == nil && last != nil && strings.HasPrefix(line, "   ") && strings.TrimSpace(line) != "":
			*last += "\n" + strings.TrimSpace(line)
		case m == nil:
		case m[1] == "WARN" && !fileFail.MatchString(m[2]):
			s.warnings = append(s.warnings, m[2])
			last = &s.warnings[len(s.warnings)-1]
		case m[1] == "WARN":
			last = nil
		case m[1] == "ERROR" && s.problem == "":
			s.problem = m[2]
			last = &s.problem
		case m[1] == "INFO" && strings.Contains(m[2], " command begin "):
			_, options, _ := strings.Cut(m[2], ": ")
			s.begin = strings.TrimSpace(execID.ReplaceAllString(strings.Replace(options, " --log-level-file=off", "", 1), ""))
			last = nil
		default:
			last = nil
		}
	}
	return s
}

func weSay(path string, args, env []string) said {
	c, err := config.Load(config.Input{Program: path, Args: args, Env: env, AsRoot: os.Getuid() == 0})
	s := said{warnings: c.Warnings, begin: c.Begin()}
	if err != nil {
		s.problem = "[" + code(errs.CodeOf(err)) + "]: " + err.Error()
	}
	return s
}

func code(c errs.Code) string {
	const digits = "0123456789"
	return string([]byte{digits[c/100%10], digits[c/10%10], digits[c%10]})
}

const peerConf = `[global]
repo1-path=DIR/repo
log-path=DIR/log
lock-path=DIR/lock
allow-root=y
unknown-x=1
no-resume=y
reset-compress=y
type=full
pg1-path=/q
# comment
;x=1
"y"=2
[global:backup]
spool-path=/x
process-max=2
repo1-retention-full=2
[demo]
pg1-path=/nope/
exclude=a b
exclude=c # not a comment
db-port=7
db-user=me
[demo:backup]
start-fast=y
annotation=x=1
annotation=x=2
`

// TestAsPgbackrestSays gives the same input to the real program and to us and compares
// errors, warnings and the options of the first log line, letter for letter.
func TestAsPgbackrestSays(t *testing.T) {
	t.Parallel()
	path := peer(t)
	dir := t.TempDir()
	conf := strings.ReplaceAll(peerConf, "DIR", dir)
	file := filepath.Join(dir, "pgbackrest.conf")
	write(t, file, conf)

	// What is wrong in a file stands alone in one.
	broken := func(text string) string {
		f, err := os.CreateTemp(dir, "*.conf")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	demo := []string{"--config=" + file, "--stanza=demo", "--log-level-console=info"}
	with := func(args ...string) []string { return append(append([]string(nil), demo...), args...) }
	in := func(text string, args ...string) []string {
		return append([]string{"--config=" + broken(text), "--allow-root"}, args...)
	}
	none := func(args ...string) []string { return append([]string{"--no-config", "--allow-root"}, args...) }

	for _, test := range []struct {
		args, env []string
		begin     bool // compare the begin line: the input is right
	}{
		// Command line.
		{args: with("bogus")}, {args: with("--bogus")}, {args: with("backup", "--bogus=1")},
		{args: with("backup", "extra")}, {args: with("backup:bogus")}, {args: []string{"help", "archive-get:async"}},
		{args: []string{"--repo1-path=/x"}}, {args: []string{"--no-config"}}, {args: []string{"--no-config=y", "backup"}},
		{args: with("backup", "-v")}, {args: with("backup", "--log-level-console")}, {args: with("backup", "--pro=3")},
		{args: with("backup", "--set=x")}, {args: with("backup", "--process=3")}, {args: with("version")},
		{args: []string{"version", "extra"}}, {args: []string{"--help", "backup", "--version"}},
		{args: with("backup", "--no-log-level-console")}, {args: with("backup", "--reset-stanza")},
		{args: with("backup", "--resume=x")}, {args: with("backup", "--resume", "--no-resume")},
		{args: with("backup", "--resume", "--resume")}, {args: with("backup", "--no-resume", "--no-resume")},
		{args: with("backup", "--no-resume", "--reset-resume")}, {args: with("backup", "--reset-resume", "--reset-resume")},
		{args: with("backup", "--resume", "--reset-resume")}, {args: with("backup", "--no-resume=y")},
		{args: with("backup", "--repo1-cipher-pass=x")}, {args: with("backup", "--repo257-path=/x")},
		{args: with("backup", "--repo0-path=/x")}, {args: with("backup", "--repo-bundle")},
		{args: with("info", "--1-path=/x")}, {args: with("info", "---path=/x")}, {args: with("info", "--stanza1-x=3")},
		{args: with("info", "--log1-path=/x")}, {args: with("info", "--repo-azure-host=x")},
		{args: with("info", "--backup1-host=x")}, {args: with("info", "--"+strings.Repeat("x", 70))},
		{args: with("info", "--db1-path=/x")}, {args: with("info", "--"+"=x")}, {args: with("info", "--")},
		{args: with("archive-push", "--repo=1")}, {args: none("info", "--set=x")}, {args: none("info", "--repo=3")},
		{args: with("check", "--no-archive-check", "--archive-mode-check")}, {args: with("backup", "--backup-standby=maybe")},
		// Values.
		{args: with("backup", "--process-max=a")}, {args: with("backup", "--process-max=1000")},
		{args: with("backup", "--process-max=99999999999999999999")}, {args: with("backup", "--buffer-size=17k")},
		{args: with("backup", "--buffer-size=1.5m")}, {args: with("backup", "--archive-timeout=0.5h")},
		{args: with("backup", "--archive-timeout=8d")}, {args: with("backup", "--archive-timeout=")},
		{args: with("backup", "--manifest-save-threshold=9999999999999p")}, {args: with("backup", "--compress-level=77")},
		{args: with("backup", "--compress-level=3", "--compress-type=none")}, {args: with("backup", "--compress-type=xz")},
		{args: with("backup", "--repo1-path=x")}, {args: with("backup", "--repo1-path=/x//y")}, {args: with("backup", "--pg1-port=99999")},
		{args: with("backup", "--pg1-host-port=99")}, {args: with("backup", "--force")}, {args: with("backup", "--annotation=x")},
		{args: with("backup", "--archive-copy", "--no-archive-check")}, {args: with("backup", "--repo1-block")},
		{args: with("restore", "--target=x")}, {args: with("restore", "--type=foo")}, {args: with("restore", "--type=time")},
		{args: with("restore", "--set=")}, {args: with("restore", "--type=name", "--target-exclusive", "--target=x")},
		{args: none("restore")}, {args: none("backup", "--stanza=x")}, {args: none("expire", "--stanza=x", "--repo1-type=s3")},
		{args: none("stanza-create", "--stanza=x", "--pg2-path=/x")}, {args: none("info", "--repo1-path=/x", "--repo2-path=/x")},
		{args: none("stanza-delete", "--stanza=x", "--pg1-path=/x", "--repo2-path=/z")},
		{args: none("backup", "--stanza=x", "--pg1-path=/x", "--pg1-host=y", "--repo1-host=x")},
		{args: none("archive-get", "--stanza=x", "--pg1-path=/x", "--pg1-host=y")}, {args: none("info", "--repo-target-time=x")},
		{args: none("backup", "--stanza=x", "--pg1-path=/x", "--db-timeout=10", "--protocol-timeout=5")},
		{args: []string{"backup", "--no-config", "--stanza=x", "--pg1-path=/x"}},
		// Hosts.
		{args: none("archive-push", "x", "--stanza=x", "--pg1-path=/x", "--pg1-host=y")},
		{args: none("archive-push", "x", "--stanza=x", "--pg1-path=/x", "--pg1-host=y", "--repo1-host=z")},
		{args: none("archive-push", "x", "--stanza=x", "--pg1-path=/x", "--pg1-host=y", "--pg1-local")},
		{args: none("archive-push", "x", "--stanza=x", "--pg3-path=/x", "--pg3-host=y")},
		{args: none("archive-push", "x", "--stanza=x", "--pg1-path=/x", "--pg1-host-user=y")},
		{args: none("restore", "--stanza=x", "--pg1-path=/x", "--pg1-host=y")},
		{args: none("restore", "--stanza=x", "--pg1-path=/x", "--pg1-host=y", "--pg1-host-user=z")},
		{args: none("restore", "--stanza=x", "--pg1-path=/x", "--pg1-host=y", "--repo2-host=z")},
		{args: none("expire", "--stanza=x", "--repo1-host=y", "--repo1-local")},
		{args: none("expire", "--stanza=x", "--pg1-host=y")}, {args: none("info", "--repo1-host-user=y")},
		{args: none("info", "--repo1-host=y", "--repo1-host-port=65536")}, {args: none("info", "--repo1-host=y", "--repo1-host-type=ssl")},
		{args: none("info", "--repo1-host=y", "--repo1-host-type=tls")}, {args: none("info", "--repo1-host=y", "--repo1-host-ca-file=/x")},
		{args: none("info", "--repo1-host=y", "--repo1-host-config-path=x")}, {args: none("info", "--io-timeout=2h")},
		{args: none("backup", "--stanza=x", "--pg1-path=/x", "--tls-server-port=1")}, {args: none("info", "--se=x")},
		{args: none("stanza-create", "--stanza=x", "--pg1-path=/x", "--protocol-timeout=30", "--db-timeout=30")},
		{args: in("[global:backup]\ntls-server-port=1\n[global]\nrepo1-retention-full=1\n[x]\npg1-path=/x\n", "backup", "--stanza=x", "--log-level-console=info"), begin: true},
		{args: in("[global]\ntls-server-auth=a=b\ntls-server-port=1\nrepo1-retention-full=1\nrepo1-path="+dir+"/repo\n[x]\npg1-path=/x\npg1-host=127.0.0.1\npg1-host-port=1\n"+
			"pg1-host-config=/a b\npg2-local=y\npg2-path=/y\n", "backup", "--stanza=x", "--log-level-console=info"), begin: true},
		{args: in("[global]\nrepo1-host=127.0.0.1\nrepo1-host-port=1\nrepo1-host-user=me\nprotocol-timeout=50\nrepo1-host-cmd=/x\nrepo2-path=/x\n[x]\npg1-path=/x\n", "restore", "--stanza=x", "--log-level-console=info"), begin: true},
		{args: none("oldest", "--oldest")}, {args: none("expire", "--oldest")},
		// Help.
		{args: []string{"help", "bogus"}}, {args: []string{"help", "backup", "bogus"}}, {args: []string{"help", "backup", "set"}},
		{args: []string{"help", "backup", "a", "b"}},
		// Environment.
		{args: with("expire"), env: []string{"PGBACKREST_REPO1_PATH="}},
		{args: with("expire"), env: []string{"PGBACKREST_LOG_TIMESTAMP=yes"}},
		{args: with("expire"), env: []string{"PGBACKREST_REPO300_PATH=/x"}},
		{args: with("backup"), env: []string{"PGBACKREST_FOO=1", "PGBACKREST_NO_RESUME=y", "PGBACKREST_RESET_RESUME=y", "PGBACKREST_EXCLUDE=q:r", "PGBACKREST_PROCESS_MAX=9"}, begin: true},
		{args: with("expire"), env: []string{"PGBACKREST_REPO1_CIPHER_TYPE=aes-256-cbc", "PGBACKREST_REPO1_CIPHER_PASS=abc", "PGBACKREST_REPO1_CIPHER_ROTATE=3"}},
		// Files.
		{args: in("foo\n", "info")}, {args: in("x=1\n", "info")}, {args: in("[global\nx=1\n", "info")}, {args: in("[]\n", "info")},
		{args: in("[global] x\n", "info")}, {args: in("[global]\nfoo\n", "info")}, {args: in("[global]\n\n=x\n", "info")},
		{args: in("[global]\nrepo1-path=\n", "info")}, {args: in("[global]\nrepo1-path=/x\nrepo1-path=/y\n", "info")},
		{args: in("[global]\nrepo1-path=/x\nrepo-path=/y\n", "info")}, {args: in("[global]\nlog-timestamp=true\n", "info")},
		{args: in("[global]\nresume=y\nresume=n\n[x]\npg1-path=/x\n", "backup", "--stanza=x")},
		{args: in("[global]\nrepo-azure-host=y\n", "info")}, {args: in("[global]\nannotation=x\n[x]\npg1-path=/x\n", "backup", "--stanza=x")},
		{args: []string{"info", "--allow-root", "--config=/does/not/exist"}},
		{args: []string{"info", "--allow-root", "--config=" + dir}},
		{args: []string{"info", "--allow-root", "--config-include-path=/does/not/exist"}},
		{args: []string{"info", "--allow-root", "--config-include-path=" + file}},
		// The line a command begins with.
		{args: with("backup"), begin: true},
		{args: with("expire", "--repo1-retention-archive=3", "--repo1-retention-archive-type=diff"), begin: true},
		{args: with("expire", "--repo1-retention-archive-type=incr"), begin: true},
		{args: with("expire", "--repo1-retention-archive-type=diff", "--repo1-retention-full=3"), begin: true},
		{args: with("backup", "--annotation=a=b c", "--annotation=k=v", "--exclude=x y", "--no-start-fast", "--reset-process-max", "--repo1-cipher-type=none"), begin: true},
		{args: with("backup", "--backup-standby", "--checksum-page-error", "--no-checksum-page", "--repo2-path=/tmp/x/"), begin: true},
		{args: with("backup", "--no-backup-standby", "--compress-level=3", "--compress-type=lz4", "--pg9-path=/x"), begin: true},
		{args: with("backup", "--archive-timeout=1d", "--buffer-size=1048576", "--no-compress"), begin: true},
		{args: with("backup", "--log-level-con", "info", "--type", "full"), begin: false},
		{args: with("expire", "--reset-repo1-path"), begin: true},
	} {
		name := strings.ReplaceAll(strings.Join(append(test.env, test.args...), " "), dir, "")
		// One after the other: the real program takes locks.
		t.Run(name, func(t *testing.T) {
			want, got := peerSays(t, path, test.args, test.env), weSay(path, test.args, test.env)
			if test.begin {
				if got.begin != want.begin {
					t.Errorf("begin is\n%s\npgbackrest has\n%s", got.begin, want.begin)
				}
				// It goes on and fails for want of a repository; we stop at options.
				if got.problem != "" && !strings.Contains(got.problem, "not supported yet") {
					t.Errorf("unexpected error %s", got.problem)
				}
			} else if got.problem != want.problem {
				t.Errorf("error is\n%s\npgbackrest has\n%s", got.problem, want.problem)
			}
			var ours []string
			for _, w := range got.warnings {
				if !strings.Contains(w, "not supported yet") {
					ours = append(ours, w)
				}
			}
			if g, w := strings.Join(ours, "\n"), strings.Join(want.warnings, "\n"); g != w {
				t.Errorf("warnings are\n%s\npgbackrest has\n%s", g, w)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var (
	helpOption  = regexp.MustCompile(`(?m)^  --(\S+)`)
	helpDefault = regexp.MustCompile(`default=([^\]]*)\]`)
)

// options gives what the help of a command lists, with the defaults it shows.
func options(text string) map[string]string {
	list := map[string]string{}
	at := helpOption.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		body := strings.Join(strings.Fields(text[m[1]:end]), " ")
		def := ""
		if d := helpDefault.FindStringSubmatch(body); d != nil {
			def = d[1]
		}
		list[text[m[2]:m[3]]] = def
	}
	return list
}

// TestHelpAsPgbackrest compares which options each command has, and their defaults,
// with what the real program says.
func TestHelpAsPgbackrest(t *testing.T) {
	t.Parallel()
	path := peer(t)
	for _, command := range strings.Fields("annotate archive-get archive-push backup check expire info manifest repo-get repo-ls repo-rm " +
		"restore server server-ping stanza-create stanza-delete stanza-upgrade start stop verify version") {
		out, err := exec.Command(path, "help", command).Output()
		if err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Input{Program: path, Root: t.TempDir(), Args: []string{"help", command}})
		if err != nil {
			t.Fatal(err)
		}
		want, got := options(string(out)), map[string]string{}
		for name, def := range options(c.Help()) {
			got[strings.NewReplacer("pgN-", "pg-", "repoN-", "repo-").Replace(name)] = def
		}
		for name, def := range want {
			ours, is := got[name]
			if !is {
				t.Errorf("%s has no option %s", command, name)
			}
			// Where a default hangs on another option the real program shows that of
			// the moment.
			if def != "" && def != ours && !strings.Contains(ours, " for ") {
				t.Errorf("%s: default of %s is '%s', pgbackrest has '%s'", command, name, ours, def)
			}
		}
		for name := range got {
			if _, is := want[name]; !is {
				t.Errorf("%s has an option %s that pgbackrest has not", command, name)
			}
		}
	}
}
