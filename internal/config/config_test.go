package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

// root makes a directory with configuration files at their default places.
func root(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func load(t *testing.T, in config.Input) *config.Config {
	t.Helper()
	c, err := config.Load(in)
	if err != nil {
		t.Fatalf("%v: %v", in.Args, err)
	}
	return c
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{
		"etc/pgbackrest/pgbackrest.conf": "[global]\nprocess-max=1\ndb-timeout=1\nbuffer-size=16k\nio-timeout=1\n" +
			"[global:backup]\nprocess-max=2\ndb-timeout=2\nbuffer-size=32k\n" +
			"[demo]\nprocess-max=3\ndb-timeout=3\npg1-path=/data\n[demo:backup]\nprocess-max=4\n[other]\nprocess-max=9\n",
		"etc/pgbackrest/conf.d/b.conf": "[demo]\npg1-port=2\n",
		"etc/pgbackrest/conf.d/a.conf": "[demo:backup]\npg1-user=me\n",
		"etc/pgbackrest/conf.d/a.off":  "[demo:backup]\npg1-user=you\n",
	})
	in := config.Input{Root: dir, Args: []string{"backup", "--stanza", "demo"}}
	c := load(t, in)
	file := func(section string, line int) string {
		return fmt.Sprintf("file '%s/etc/pgbackrest/pgbackrest.conf', section [%s], line %d", dir, section, line)
	}
	check := func(o config.Option, got, want any, source string) {
		t.Helper()
		if got != want || c.Source(o).String() != source {
			t.Errorf("%s = %v from %s, want %v from %s", o, got, c.Source(o), want, source)
		}
	}
	check(config.OptProcessMax, c.Int(config.OptProcessMax), 4, file("demo:backup", 15))
	check(config.OptDBTimeout, c.Duration(config.OptDBTimeout), 3*time.Second, file("demo", 12))
	check(config.OptBufferSize, c.Size(config.OptBufferSize), int64(32<<10), file("global:backup", 9))
	check(config.OptIOTimeout, c.Duration(config.OptIOTimeout), time.Second, file("global", 5))
	check(config.OptPgUser, c.String(config.OptPgUser), "me",
		"file '"+dir+"/etc/pgbackrest/conf.d/a.conf', section [demo:backup], line 2")
	check(config.OptPgPort, c.Int(config.OptPgPort), 2, "file '"+dir+"/etc/pgbackrest/conf.d/b.conf', section [demo], line 2")
	check(config.OptRepoPath, c.String(config.OptRepoPath), "/var/lib/pgbackrest", "default")

	in.Env = []string{"PGBACKREST_PROCESS_MAX=5", "PGBACKREST_DB_TIMEOUT=4ms", "PGX_PROCESS_MAX=6", "PGX_EXCLUDE=a:b c"}
	c, err := config.Load(in)
	if err == nil || !strings.Contains(err.Error(), "variable PGBACKREST_DB_TIMEOUT") {
		t.Errorf("db-timeout of 4ms is below its range and gives %v", err)
	}
	in.Env[1] = "PGBACKREST_DB_TIMEOUT=400ms"
	c = load(t, in)
	check(config.OptProcessMax, c.Int(config.OptProcessMax), 6, "variable PGX_PROCESS_MAX")
	check(config.OptDBTimeout, c.Duration(config.OptDBTimeout), 400*time.Millisecond, "variable PGBACKREST_DB_TIMEOUT")
	if got := c.List(config.OptExclude); !reflect.DeepEqual(got, []string{"a", "b c"}) {
		t.Errorf("exclude = %q", got)
	}

	in.Args = append(in.Args, "--process-max=7", "--reset-db-timeout", "--no-start-fast", "--no-resume=y")
	if _, err := config.Load(in); err == nil || err.Error() != "option 'no-resume' does not allow an argument" {
		t.Errorf("--no-resume=y gives %v", err)
	}
	in.Args = in.Args[:len(in.Args)-1]
	c = load(t, in)
	check(config.OptProcessMax, c.Int(config.OptProcessMax), 7, "command line")
	check(config.OptDBTimeout, c.Duration(config.OptDBTimeout), 30*time.Minute, "default")
	check(config.OptStartFast, c.Bool(config.OptStartFast), false, "command line")
	if got := c.Stanzas(); !reflect.DeepEqual(got, []string{"demo", "other"}) {
		t.Errorf("stanzas are %q", got)
	}
	want := `--buffer-size=32k --reset-db-timeout --exclude=a --exclude="b c" --io-timeout=1 --pg1-path=/data --pg1-port=2 --pg1-user=me --process-max=7 --stanza=demo --no-start-fast`
	if got := c.Begin(); sorted(got) != sorted(want) {
		t.Errorf("begin is\n%s\nwant\n%s", got, want)
	}
}

func sorted(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestSearchOrder(t *testing.T) {
	t.Parallel()
	const stanza = "[demo]\npg1-path=/"
	dir := root(t, map[string]string{
		"etc/pgx/pgx.toml":               "[stanza.demo]\npg1-path='/toml'",
		"etc/pgbackrest/pgbackrest.conf": stanza + "new",
		"etc/pgbackrest/conf.d/x.conf":   "[demo]\npg2-path=/include",
		"etc/pgbackrest.conf":            stanza + "old",
		"else/pgbackrest.conf":           stanza + "else",
		"else/conf.d/x.conf":             "[demo]\npg2-path=/elsewhere",
		"here/my.conf":                   stanza + "mine",
		"here/my.toml":                   "[stanza.demo]\npg1-path='/mine.toml'",
	})
	for _, test := range []struct{ args, remove, want string }{
		{"", "", "/toml"},
		{"", "etc/pgx/pgx.toml", "/new /include"},
		{"", "etc/pgbackrest/pgbackrest.conf", "/old /include"},
		{"--config=my.conf", "", "/mine"},
		{"--config=my.toml", "", "/mine.toml"},
		{"--config-path=" + dir + "/else", "", "/else /elsewhere"},
		{"--config=my.conf --config-path=" + dir + "/else", "", "/mine /elsewhere"},
		{"--config=my.conf --config-include-path=" + dir + "/else/conf.d", "", "/mine /elsewhere"},
		{"--no-config --config-include-path=" + dir + "/else/conf.d --pg1-path=/cli", "", "/cli /elsewhere"},
		{"--no-config --pg1-path=/cli", "", "/cli"},
	} {
		if test.remove != "" {
			if err := os.Remove(filepath.Join(dir, test.remove)); err != nil {
				t.Fatal(err)
			}
		}
		args := append(strings.Fields(test.args), "--stanza=demo", "check")
		c := load(t, config.Input{Root: dir, Dir: filepath.Join(dir, "here"), Args: args})
		var got []string
		for _, n := range c.Pgs() {
			got = append(got, c.String(config.OptPgPath, n))
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("%s: %s, want %s", test.args, s, test.want)
		}
	}
}

// awkward are passphrases that INI and TOML libraries like to read something into.
var awkward = []string{
	`ab#c d;e`, `#x`, `;x`, `a;b`, `"quoted"`, `'quoted'`, `"open`, `open"`, "`tick`", "`open", "tick`", `"""three"""`, `'''x'''`,
	`%(x)s`, `%d%%`, `\`, `a\`, `\n`, `C:\dir\`, `a=b`, `=`, `==x`, `a = b`, `[x]`, `]`, `${HOME}`, `$x`, "tab\tinside", `y`, `n`, `true`,
	`1`, `007`, `0x10`, `1_000`, `1e3`, `inf`, `2026-08-20`, `{ a = 1 }`, `-`, `--`, `:`, `a:b`, "ünï¢ode", "\u00a0nbsp\u00a0", "\u2028", "nul\x00nul",
}

func TestValuesStayRaw(t *testing.T) {
	t.Parallel()
	for _, pass := range awkward {
		dir := root(t, map[string]string{"a.conf": "[global]\nrepo1-cipher-type = aes-256-cbc\n repo1-cipher-pass =\t" + pass +
			" \r\nrepo1-path=/r\n[demo]\npg1-path=/x\nexclude=" + pass + "\nexclude=" + pass + "\n"})
		read := func(name string) *config.Config {
			c, err := config.Load(config.Input{Args: []string{"backup", "--config=" + filepath.Join(dir, name)}})
			if err != nil {
				t.Fatalf("%q: %v", pass, err)
			}
			if got := c.Secret(config.OptRepoCipherPass).Reveal(); got != pass {
				t.Errorf("%s: %q became %q", name, pass, got)
			}
			if got := c.List(config.OptExclude); !reflect.DeepEqual(got, []string{pass, pass}) {
				t.Errorf("%s: list of twice %q became %q", name, pass, got)
			}
			return c
		}
		read("a.conf")
		toml, err := config.Convert(dir, "a.conf")
		if err != nil {
			t.Fatalf("%q: %v", pass, err)
		}
		write(t, filepath.Join(dir, "b.toml"), toml)
		c := read("b.toml")
		if shown := fmt.Sprintf("%v %+v %#v %s %v", c, c, c, c.Begin(), c.Settings()); len(pass) > 3 && strings.Contains(shown, "repo1-cipher-pass="+pass) {
			t.Errorf("%q can be read in %s", pass, shown)
		}
		if strings.Contains(pass, "\x00") {
			continue // has no form in INI that pgbackrest would read
		}
		ini, err := config.Convert(dir, "b.toml")
		if err != nil {
			t.Fatalf("%q: %v", pass, err)
		}
		write(t, filepath.Join(dir, "c.conf"), ini)
		read("c.conf")
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	s := logging.NewSecret("hidden")
	holder := struct {
		s logging.Secret
		S logging.Secret
	}{s, s}
	text, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%s %q %x %v %+v %#v %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v", holder, holder, holder), string(text), s.LogValue().String()} {
		if strings.Contains(shown, "hidden") || strings.Contains(shown, "68696464656e") {
			t.Errorf("the secret is in %s", shown)
		}
	}
	if s.Reveal() != "hidden" || (logging.Secret{}).Reveal() != "" {
		t.Error("Reveal does not give the secret")
	}
}

// TestErrorLine is about what a person reads: one line with option, value, source and
// what is allowed.
func TestErrorLine(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{
		"value.conf":   "[demo]\npg1-path=/x\n[demo:backup]\n\ncompress-level=77\n",
		"bool.conf":    "[global]\nstart-fast=yes\n[demo]\npg1-path=/x\n",
		"twice.conf":   "[demo]\npg1-path=/x\npg1-port=1\npg1-port=2\n",
		"value.toml":   "[stanza.demo]\npg1-path='/x'\n[stanza.demo.backup]\nprocess-max = 1000 # many\n",
		"bool.toml":    "[stanza.demo]\npg1-path='/x'\nstart-fast = 'yes'\n",
		"type.toml":    "[stanza.demo]\npg1-path = true\n",
		"float.toml":   "[stanza.demo]\npg1-path='/x'\nprocess-max = 1.5\n",
		"outside.toml": "process-max = 1\n",
		"broken.toml":  "[global]\nx = \n",
		"broken.conf":  "[global]\nx\n",
		"secret.conf":  "repo1-cipher-pass=abc\n",
		"cipher.conf":  "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=\n[demo]\npg1-path=/x\n",
	})
	for _, test := range []struct{ args, want string }{
		{"backup --config=value.conf", "'77' is out of range for 'compress-level' option when 'compress-type' option = 'gz' " +
			"(file 'DIR/value.conf', section [demo:backup], line 5; allowed range is -1 to 9 inclusive)"},
		{"backup --config=bool.conf", "boolean option 'start-fast' must be 'y' or 'n' (file 'DIR/bool.conf', section [global], line 2; 'yes' was found)"},
		{"backup --config=twice.conf", "option 'pg1-port' cannot be set multiple times (file 'DIR/twice.conf', section [demo], line 3)"},
		{"backup --config=value.toml", "'1000' is out of range for 'process-max' option " +
			"(file 'DIR/value.toml', section [stanza.demo.backup], line 4; allowed range is 1 to 999 inclusive)"},
		{"backup --config=bool.toml", "boolean option 'start-fast' must be 'y' or 'n' " +
			"(file 'DIR/bool.toml', section [stanza.demo], line 3; 'yes' was found, true or false is expected)"},
		{"backup --config=type.toml", "true and false are not valid for 'pg1-path' option " +
			"(file 'DIR/type.toml', section [stanza.demo], line 2; an absolute path is expected)"},
		{"backup --config=float.toml", "'process-max' in [stanza.demo] at line 3 must be a string, a whole number, true or false, " +
			"or an array or table of these (file 'DIR/float.toml')"},
		{"backup --config=outside.toml", "key 'process-max' stands outside of a table at line 1 (file 'DIR/outside.toml')"},
		{"backup --config=broken.conf", "missing '=' in key/value at line 2: x (file 'DIR/broken.conf')"},
		{"backup --config=secret.conf", "key/value found outside of section at line 1: repo1-cipher-pass=<redacted> (file 'DIR/secret.conf')"},
		{"backup --config=cipher.conf", "section 'global', key 'repo1-cipher-pass' must have a value (file 'DIR/cipher.conf', section [global], line 3)"},
		{"backup --no-config --stanza=x --pg1-path=/x --process-max=many", "'many' is not valid for 'process-max' option (command line; a whole number is expected)"},
		{"backup --no-config --stanza=x --pg1-path=/x --archive-timeout=1.5m", "'1.5m' is not valid for 'archive-timeout' option (command line; " +
			"a time such as 500ms, 30s, 10m, 1h or 7d is expected)"},
		{"backup --no-config --stanza=x --pg1-path=/x --type=all", "'all' is not allowed for 'type' option (command line; allowed values are 'full', 'diff', 'incr')"},
		{"backup --no-config --stanza=../x", "'../x' is not valid for 'stanza' option (command line; a name without '/' is expected)"},
		{"bakcup", "invalid command 'bakcup'\nHINT: did you mean 'backup'?"},
		{"archive", "invalid command 'archive'\nHINT: it could be archive-get, archive-push."},
		{"config", "command 'config' needs 'show' or 'convert'"},
		{"config shwo", "invalid command 'config shwo'\nHINT: did you mean 'config show'?"},
		{"backup --strat-fast", "invalid option '--strat-fast'\nHINT: did you mean '--start-fast'?"},
		{"backup --no-start-fats", "invalid option '--no-start-fats'\nHINT: did you mean '--no-start-fast'?"},
		{"backup --repo2-pth=/x", "invalid option '--repo2-pth=/x'\nHINT: did you mean '--repo2-path'?"},
		{"backup --max-process=2", "invalid option '--max-process=2'\nHINT: did you mean '--process-max'?"},
		{"help backup proces-max", "option 'proces-max' is not valid for command 'backup'\nHINT: did you mean 'process-max'?"},
		{"config show a b c", "only one command allowed for config show"},
		{"config show --output=xml", "'xml' is not allowed for 'output' option (command line; allowed values are 'text', 'json')"},
	} {
		_, err := config.Load(config.Input{Program: "/usr/bin/pgx", Dir: dir, Args: strings.Fields(test.args)})
		if want := strings.ReplaceAll(test.want, "DIR", dir); err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", test.args, err, want)
		}
	}
	_, err := config.Load(config.Input{Dir: dir, Args: []string{"backup", "--config=broken.toml"}})
	if errs.CodeOf(err) != errs.Format || !strings.Contains(err.Error(), "at line 2 (file '"+dir+"/broken.toml')") {
		t.Errorf("broken TOML gives %v", err)
	}
}

func TestStanzaIsFound(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{
		"one.conf": "[global]\nprocess-max=1\n[demo]\npg1-path=/data\n[demo:backup]\nstart-fast=y\n",
		"three.conf": "[a]\npg1-path=" + "/nowhere\n[b]\npg1-path=/nowhere/b\npg2-path=@/data\n[c:archive-push]\npg1-path=@/other\n" +
			"[c]\nprocess-max=1\n",
		"data/PG_VERSION":  "15",
		"other/PG_VERSION": "15",
		"empty.conf":       "[global]\nprocess-max=1\n",
	})
	three := filepath.Join(dir, "three.conf")
	text, err := os.ReadFile(three)
	if err != nil {
		t.Fatal(err)
	}
	write(t, three, strings.ReplaceAll(string(text), "@", dir))
	if err := os.Symlink(filepath.Join(dir, "data"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	const several = "HINT: configured are 'a', 'b', 'c'; choose one with --stanza=NAME."
	for _, test := range []struct{ program, dir, args, stanza, problem string }{
		{"pgx", "", "archive-push x --config=one.conf", "demo", ""},
		{"pgx", "", "restore --config=one.conf", "demo", ""},
		{"pgx", "data", "archive-push x --config=../three.conf", "b", ""},
		{"pgx", "link", "archive-get x y --config=../three.conf", "b", ""},
		{"pgx", "other", "archive-push x --config=../three.conf", "c", ""},
		{"pgx", "other", "archive-push x --config=../three.conf --stanza=a", "a", ""},
		{"pgx", "", "archive-push x --config=three.conf", "", "archive-push command requires option: stanza\n" + several},
		{"pgx", "data", "backup --config=../three.conf", "", "backup command requires option: stanza\n" + several},
		{"pgx", "", "backup --config=empty.conf", "", "backup command requires option: stanza\nHINT: no stanza is configured in 'DIR/empty.conf'."},
		{"pgx", "", "backup", "", "backup command requires option: stanza\nHINT: there is no configuration file 'DIR/etc/pgx/pgx.toml' or " +
			"'DIR/etc/pgbackrest/pgbackrest.conf' or 'DIR/etc/pgbackrest.conf'."},
		{"pgx", "", "info --config=one.conf", "", ""},
		{"pgx", "", "check --config=three.conf", "", ""},
		{"pgx", "", "stop --config=one.conf", "", ""},
		{"/usr/bin/pgbackrest", "", "restore --config=one.conf", "", "restore command requires option: stanza"},
		{"/usr/bin/pgbackrest", "data", "archive-push x --config=../three.conf", "", "archive-push command requires option: stanza"},
	} {
		c, err := config.Load(config.Input{Program: test.program, Root: dir, Dir: filepath.Join(dir, test.dir), Args: strings.Fields(test.args)})
		problem := ""
		if err != nil {
			problem = err.Error()
			if errs.CodeOf(err) != errs.OptionRequired {
				t.Errorf("%s: code %d", test.args, errs.CodeOf(err))
			}
		}
		if want := strings.ReplaceAll(test.problem, "DIR", dir); problem != want || err == nil && c.String(config.OptStanza) != test.stanza {
			t.Errorf("%s %s in %s: stanza '%s', error %s", test.program, test.args, test.dir, c.String(config.OptStanza), problem)
		}
	}
}

func TestTOML(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"pgx.toml": `
[global]
process-max = 4
repo1-path = "/r1"
repo2-path = "/r2"
archive-timeout = 90
db-timeout = "10m"
repo1-retention-full = "3"
[stanza."my db"]
pg1-path = "/data"
exclude = ["a", "b"]
backup-standby = false
backup.annotation = { z = "1", a = "x=y", "dotted.key" = "2" }
[stanza."my db".restore]
process-max = 9
[stanza."my db".restore.recovery-option]
primary_conninfo = "host=a"
restore_command = 'x'
[stanza."my db".bakcup]
process-max = 1
[stanzas.x]
y = 1
`})
	c := load(t, config.Input{Dir: dir, Args: []string{"backup", "--config=pgx.toml"}})
	const want = `--annotation=z=1 --annotation=a=x=y --annotation=dotted.key=2 --archive-timeout=90 --backup-standby=n --config=pgx.toml ` +
		`--db-timeout=10m --exclude=a --exclude=b --pg1-path=/data --process-max=4 --repo1-path=/r1 --repo2-path=/r2 ` +
		`--repo1-retention-full=3 --stanza="my db"`
	if got := c.Begin(); got != want {
		t.Errorf("begin is\n%s\nwant\n%s", got, want)
	}
	if got := c.Repos(); !reflect.DeepEqual(got, []int{1, 2}) {
		t.Errorf("repos are %v", got)
	}
	if got := c.Hash(config.OptAnnotation); !reflect.DeepEqual(got, map[string]string{"z": "1", "a": "x=y", "dotted.key": "2"}) {
		t.Errorf("annotations are %v", got)
	}
	warnings := strings.Join(c.Warnings, "\n")
	for _, w := range []string{
		`configuration file contains section '[stanza."my db".bakcup]' of a command that does not exist` + "\nHINT: did you mean 'backup'?",
		"configuration file contains table '[stanzas]' that is neither [global] nor [stanza.NAME]",
	} {
		if !strings.Contains(warnings, w) {
			t.Errorf("no warning %q in\n%s", w, warnings)
		}
	}
	c = load(t, config.Input{Dir: dir, Args: []string{"restore", "--config=pgx.toml"}})
	if got := c.HashKeys(config.OptRecoveryOption); c.Int(config.OptProcessMax) != 9 || !reflect.DeepEqual(got, []string{"primary_conninfo", "restore_command"}) {
		t.Errorf("restore has process-max %d and recovery options %q", c.Int(config.OptProcessMax), got)
	}
}

func TestNotYet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, problem, warning string }{
		{"info --repo1-type=s3 --repo1-s3-bucket=b --repo1-s3-endpoint=e --repo1-s3-region=r --repo1-s3-key-type=auto",
			"option 'repo1-type' = 's3' is not supported yet: only posix can be used (command line)", ""},
		{"info --repo2-type=cifs --repo2-path=/x --repo1-path=/y",
			"option 'repo2-type' = 'cifs' is not supported yet: only posix can be used (command line)\nHINT: choose another repository with --repo.", ""},
		{"info --repo2-type=cifs --repo2-path=/x --repo1-path=/y --repo=1", "", ""},
		{"check --backup-standby", "", ""},
		{"archive-push x --stanza=x --archive-async", "", ""},
		{"restore --stanza=x --pg1-path=/x --pg-version-force=15", "option 'pg-version-force' = '15' is not supported yet: only the versions of PostgreSQL itself are known (command line)", ""},
		{"verify --stanza=x", "command 'verify' is not supported yet", ""},
	} {
		c, err := config.Load(config.Input{Args: append([]string{"--no-config"}, strings.Fields(test.args)...)})
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if problem != test.problem || strings.Join(c.Warnings, "\n") != test.warning {
			t.Errorf("%s\n gives %s\nwarns %s", test.args, problem, strings.Join(c.Warnings, "\n"))
		}
	}
}

// TestCipher: the passphrase can only come from a file or a variable, and has to be there.
func TestCipher(t *testing.T) {
	in := config.Input{Args: []string{"--no-config", "info", "--repo1-cipher-type=aes-256-cbc"}, Env: []string{"PGX_REPO1_CIPHER_PASS=the-secret"}}
	c := load(t, in)
	if got := c.Secret(config.OptRepoCipherPass).Reveal(); got != "the-secret" || c.String(config.OptRepoCipherType) != "aes-256-cbc" {
		t.Errorf("the passphrase is '%s' for type '%s'", got, c.String(config.OptRepoCipherType))
	}
	if got, want := c.Begin(), "--no-config --repo1-cipher-pass=<redacted> --repo1-cipher-type=aes-256-cbc"; got != want {
		t.Errorf("the log would begin with '%s', want '%s'", got, want)
	}
	in.Env = nil
	_, err := config.Load(in)
	if errs.CodeOf(err) != errs.OptionRequired || errs.Message(err) != "info command requires option: repo1-cipher-pass" {
		t.Errorf("without a passphrase: %v", err)
	}
}

func TestKeyGenerate(t *testing.T) {
	c := load(t, config.Input{Args: []string{"key", "generate"}, Env: []string{"PGX_PROCESS_MAX=bad"}})
	if c.Command != config.CmdKeyGenerate || c.Command.LogsToFile() || !c.Command.Quiet() {
		t.Errorf("the command is %s", c.Command)
	}
	for args, want := range map[string]string{
		"key":            "command 'key' needs 'generate'",
		"key x":          "invalid command 'key x'",
		"key generate x": "command does not allow parameters",
	} {
		if _, err := config.Load(config.Input{Args: strings.Fields(args)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
	if _, err := config.Load(config.Input{Program: "pgbackrest", Args: []string{"key", "generate"}}); errs.CodeOf(err) != errs.CommandInvalid {
		t.Errorf("as pgbackrest: %v", err)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	c := load(t, config.Input{Args: strings.Fields("backup --no-config --stanza=x --pg1-path=/x --no-compress --db-timeout=1h --repo1-retention-full=3")})
	if c.String(config.OptCompressType) != "none" || c.Int(config.OptCompressLevel) != 0 {
		t.Errorf("compress=n gives type %s level %d", c.String(config.OptCompressType), c.Int(config.OptCompressLevel))
	}
	if got := c.Duration(config.OptProtocolTimeout); got != time.Hour+30*time.Second {
		t.Errorf("protocol-timeout is %s", got)
	}
	if got := c.Int(config.OptRepoRetentionArchive); got != 3 {
		t.Errorf("repo1-retention-archive is %d", got)
	}
	c = load(t, config.Input{Args: strings.Fields("check --no-config --protocol-timeout=20")})
	if got := c.Duration(config.OptDBTimeout); got != 10*time.Second {
		t.Errorf("db-timeout is %s", got)
	}
	c = load(t, config.Input{Args: strings.Fields("backup --no-config --stanza=x --pg1-path=/x --compress-type=zst")})
	if got := c.Int(config.OptCompressLevel); got != 3 {
		t.Errorf("level of zst is %d", got)
	}
	if _, err := config.Load(config.Input{AsRoot: true, Args: []string{"info", "--no-config"}}); errs.CodeOf(err) != errs.OptionInvalid {
		t.Errorf("root gives %v", err)
	}
	for _, args := range []string{"info --allow-root", "restore --stanza=x --pg1-path=/x", "version", "help", "config show"} {
		if _, err := config.Load(config.Input{AsRoot: true, Args: strings.Fields(args), Root: t.TempDir()}); err != nil {
			t.Errorf("%s as root: %v", args, err)
		}
	}
	if _, err := config.Load(config.Input{Program: "pgbackrest", Args: strings.Fields("restore --stanza=x --pg1-path=/x --dry-run")}); err == nil {
		t.Error("pgbackrest restore takes --dry-run")
	}
	if _, err := config.Load(config.Input{Program: "pgbackrest", Args: strings.Fields("config show")}); err == nil {
		t.Error("pgbackrest has config show")
	}
}

func TestRestoreCommand(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"my.conf": "[demo]\npg1-path=/x\nlog-path=/from/file\n[global]\nrepo1-path=/r\n"})
	for _, test := range []struct{ args, want string }{
		{"", `/usr/bin/pgx --config=DIR/my.conf --stanza=demo archive-get %f "%p"`},
		{"--stanza=demo --repo=1 --process-max=8 --log-level-console=info --log-path=/l --delta --type=immediate --target-action=promote",
			`/usr/bin/pgx --config=DIR/my.conf --log-path=/l --repo=1 --stanza=demo archive-get %f "%p"`},
		{"--reset-log-path --buffer-size=16k --no-log-timestamp --no-sck-keep-alive --cmd=/opt/pgx --lock-path=/a$b%c",
			`/opt/pgx --buffer-size=16k --config=DIR/my.conf --lock-path="/a\$b%%c" --reset-log-path --no-sck-keep-alive --stanza=demo archive-get %f "%p"`},
	} {
		c := load(t, config.Input{Program: "/usr/bin/pgx", Dir: dir, ExecID: "1-2", Args: append(strings.Fields(test.args), "restore", "--config=my.conf")})
		if got, want := c.RestoreCommand(), strings.ReplaceAll(test.want, "DIR", dir); got != want {
			t.Errorf("%s\n got %s\nwant %s", test.args, got, want)
		}
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	dir, err := filepath.Abs("../../conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"backup", "restore", "archive-push", "info", "check", "stanza-create"} {
		var begins []string
		for _, name := range []string{"pgbackrest.conf", "pgx.toml"} {
			c := load(t, config.Input{Dir: dir, Args: []string{command, "--config=" + name}})
			begins = append(begins, strings.Replace(c.Begin(), "--config="+name, "", 1))
			for _, w := range c.Warnings {
				if !strings.Contains(w, "not supported yet") {
					t.Errorf("%s: %s", name, w)
				}
			}
		}
		if begins[0] != begins[1] {
			t.Errorf("%s: the samples differ:\n%s\n%s", command, begins[0], begins[1])
		}
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"etc/pgbackrest.conf": "[global]\nrepo1-path=/r\nrepo1-cipher-pass=hidden\nrepo1-cipher-type=aes-256-cbc\n[demo]\npg1-path=/x\n"})
	c := load(t, config.Input{Root: dir, Args: []string{"config", "show", "backup"}, Env: []string{"PGX_PROCESS_MAX=3"}})
	text := c.Show()
	for _, want := range []string{
		"process-max                        3                       variable PGX_PROCESS_MAX\n",
		"repo1-cipher-pass                  <redacted>              file '" + dir + "/etc/pgbackrest.conf', section [global], line 3\n",
		"start-fast                         n                       default\n",
		"stanza                             demo                    only configured stanza\n",
		"repo1-s3-bucket                    -                       has no effect, needs repo1-type = s3\n",
	} {
		if !strings.Contains(sorted(text), sorted(want)) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "hidden") || strings.Contains(text, "target-action") {
		t.Errorf("shows too much:\n%s", text)
	}
	c = load(t, config.Input{Root: dir, Args: []string{"config", "show", "--output=json", "--repo2-path=/q"}})
	var settings []config.Setting
	if err := json.Unmarshal([]byte(c.Show()), &settings); err != nil {
		t.Fatal(err)
	}
	values := map[string][]string{}
	for _, s := range settings {
		values[s.Option] = s.Value
	}
	if values["repo1-path"][0] != "/r" || values["repo2-path"][0] != "/q" || values["spool-path"] == nil && values["archive-mode"] == nil {
		t.Errorf("JSON has %v", values)
	}
}

func TestConvertKeepsComments(t *testing.T) {
	t.Parallel()
	const ini = "# about\n# the file\n[global]\n# where\nrepo1-path=/r\nexclude=a\n# second\nexclude=b\nstart-fast=y\ndb-timeout=10m\n" +
		"recovery-option=a=b=c\n\n[global:backup]\nprocess-max=4\n\n[demo]\npg1-path=/x\nunknown=y\n# end\n"
	const toml = "# about\n# the file\n[global]\n# where\nrepo1-path = \"/r\"\n# second\nexclude = [\"a\", \"b\"]\nstart-fast = true\n" +
		"db-timeout = \"10m\"\nrecovery-option = { a = \"b=c\" }\n\n[global.backup]\nprocess-max = 4\n\n[stanza.demo]\npg1-path = \"/x\"\nunknown = \"y\"\n# end\n"
	dir := root(t, map[string]string{"a.conf": ini})
	got, err := config.Convert(dir, "a.conf")
	if err != nil || got != toml {
		t.Errorf("error %v, TOML is\n%s", err, got)
	}
	write(t, filepath.Join(dir, "a.toml"), toml)
	back, err := config.Convert(dir, "a.toml")
	if want := strings.Replace(ini, "exclude=a\n# second\n", "# second\nexclude=a\n", 1); err != nil || back != want {
		t.Errorf("error %v, INI is\n%s", err, back)
	}

	write(t, filepath.Join(dir, "b.toml"), "[global] # of all\nrepo1-path = '''/r''' # here\nexclude = [ # these\n  'a', # one\n  'b',\n]\n"+
		"[stanza.demo]\npg1-path='/x'\n# recover\n[stanza.demo.recovery-option]\na = 'b'\n[stanza.demo.backup]\n# last\n")
	back, err = config.Convert(dir, "b.toml")
	const want = "# of all\n[global]\n# here\nrepo1-path=/r\n# these\n# one\nexclude=a\nexclude=b\n\n[demo]\npg1-path=/x\n# recover\nrecovery-option=a=b\n# last\n"
	if err != nil || back != want {
		t.Errorf("error %v, INI is\n%s", err, back)
	}
	for _, bad := range []string{"[x:recovery-option]\na=b\n", "[global]\nrepo1-path=\xff\n", "[global]\nx\n"} {
		write(t, filepath.Join(dir, "bad.conf"), bad)
		if out, err := config.Convert(dir, "bad.conf"); err == nil {
			t.Errorf("%q becomes %q", bad, out)
		}
	}
	for _, bad := range []string{"[global]\nx = ' a'\n", "[global]\nx = \"a\\nb\"\n", "[global]\nx = []\n", "[other]\nx=1\n", "[global]\n'a=b' = 1\n"} {
		write(t, filepath.Join(dir, "bad.toml"), bad)
		if out, err := config.Convert(dir, "bad.toml"); err == nil {
			t.Errorf("%q becomes %q", bad, out)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"etc/pgbackrest.conf": "[global]\nprocess-max=4\nrepo1-cipher-type=bogus\n[demo]\npg1-path=/x\n"})
	text := func(program, args string) string {
		c := load(t, config.Input{Program: program, Root: dir, Args: strings.Fields(args), Version: "1.2"})
		if c.Command != config.CmdHelp {
			t.Errorf("%s is %s", args, c.Command)
		}
		for _, line := range strings.Split(c.Help(), "\n") {
			if len(line) > 100 {
				t.Errorf("%s: line of %d: %s", args, len(line), line)
			}
		}
		return c.Help()
	}
	for _, test := range []struct{ program, args, want string }{
		{"pgx", "", "config show"}, {"pgx", "help", "Exit codes:"}, {"pgx", "--help", "Exit codes:"},
		{"pgx", "help backup", "--start-fast"}, {"pgx", "backup --help", "--start-fast"}, {"pgx", "--help backup --stanza=x", "--start-fast"},
		{"pgx", "help backup process-max", "current       4 (file"}, {"pgx", "help config show", "[COMMAND]"},
		{"pgx", "help backup repo2-path", "repoN-path"}, {"pgx", "help restore type", "standby"}, {"pgx", "help verify", "not supported yet"},
		{"pgx", "help archive-get", "1 the file is in no repository"}, {"pgx", "help restore dry-run", "Nothing is changed"},
		{"pgx", "help backup repo-hardlink", "hardlink"}, {"/x/pgbackrest", "", "pgbackrest 1.2"},
	} {
		if got := text(test.program, test.args); !strings.Contains(got, test.want) {
			t.Errorf("%s has no %q:\n%s", test.args, test.want, got)
		}
	}
	if got := text("/x/pgbackrest", "help"); strings.Contains(got, "config show") {
		t.Error("pgbackrest shows config show")
	}
	c := load(t, config.Input{Args: []string{"--version"}})
	if c.Command != config.CmdVersion {
		t.Errorf("--version is %s", c.Command)
	}
}

func BenchmarkLoad(b *testing.B) {
	dir, err := filepath.Abs("../../conf")
	if err != nil {
		b.Fatal(err)
	}
	in := config.Input{Program: "pgx", Args: []string{"archive-push", "pg_wal/000000010000000000000001", "--config=pgbackrest.conf"}, Env: os.Environ(), Dir: dir}
	for b.Loop() {
		if _, err := config.Load(in); err != nil {
			b.Fatal(err)
		}
	}
}
