package test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

const repoPass = "zz-passphrase-of-the-repository-zz"

// encrypted are the options of an encrypted repository.
func encrypted(more map[string]string) map[string]string {
	return merged(map[string]string{"repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": repoPass}, more)
}

// needles are what a cluster holds that fill and needle were used on, and what pgBackRest's files are made
// of. None of it may be read in an encrypted repository.
var needles = []string{
	"plaintext-needle", "needle_database", "needle_table", "[backup", "[backrest", "[cipher", "backrest-checksum", "pg_data/",
	"START WAL LOCATION", "CHECKPOINT LOCATION", "# TYPE  DATABASE", "PostgreSQL configuration file", "postgresql.auto.conf", "no recovery target",
}

func (s *site) needle() {
	s.Helper()
	s.pg.Exec(`create database needle_database`)
	s.pg.Exec(`create table needle_table as select g, 'plaintext-needle ' || g as what from generate_series(1, 3000) g`)
	s.pg.Exec(`checkpoint`)
}

// unreadable looks for needles and passphrases in everything that the repository has.
func unreadable(t *testing.T, dir string, passes ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(b, []byte(cipher.Magic)) || len(b)%16 != 0 {
			t.Errorf("'%s' begins with %q and has %d bytes", path, b[:min(len(b), 10)], len(b))
		}
		for _, needle := range append(passes, needles...) {
			if bytes.Contains(b, []byte(needle)) {
				t.Errorf("'%s' has %q", path, needle)
			}
		}
		return nil
	})
	if err != nil || files < 30 { // with bundles there are few
		t.Errorf("%d files were searched, %v", files, err)
	}
}

// passes gives the passphrases of archive.info, of backup.info, and of the manifest of each backup
// that is listed.
func passes(t *testing.T, repo, stanza string) (archive, backup string, backups map[format.Label]string) {
	t.Helper()
	open := func(name, pass string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(repo, name))
		if err == nil {
			b, err = cipher.Open(cipher.NewPass(pass), b)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return b
	}
	a, err := info.ParseArchive(open(format.ArchiveInfoPath(stanza), repoPass))
	if err != nil {
		t.Fatal(err)
	}
	b, err := info.ParseBackup(open(format.BackupInfoPath(stanza), repoPass))
	if err != nil {
		t.Fatal(err)
	}
	backups = map[format.Label]string{}
	for _, e := range b.Entries() {
		m, err := manifest.Read(bytes.NewReader(open(format.ManifestPath(stanza, e.Label), b.CipherPass)))
		if err != nil {
			t.Fatal(err)
		}
		backups[e.Label] = m.CipherPass
		// The history is what can be read when the backup has gone.
		if text := open(format.HistoryPath(stanza, e.Label), b.CipherPass); !bytes.HasPrefix(text, []byte("\x1f\x8b")) {
			t.Errorf("the manifest of '%s' in the history begins with %q", e.Label, text[:10])
		}
	}
	seen := map[string]bool{repoPass: true}
	full := func(l format.Label) bool { return len(l) == 16 }
	for _, p := range []string{a.CipherPass, b.CipherPass} {
		if len(p) != 64 || seen[p] {
			t.Errorf("an info file has the passphrase %q", p)
		}
		seen[p] = true
	}
	for l, p := range backups {
		if full(l) && (len(p) != 64 || seen[p]) {
			t.Errorf("the full backup '%s' has the passphrase %q", l, p)
		}
		if full(l) {
			seen[p] = true
		} else if p != backups[l[:16]] {
			t.Errorf("backup '%s' has another passphrase than '%s'", l, l[:16])
		}
	}
	return a.CipherPass, b.CipherPass, backups
}

// TestCipherAlternates: chains that pgx and pgbackrest make in turn in one encrypted
// repository; each backup restored by either is the same, and nothing can be read there.
func TestCipherAlternates(t *testing.T) {
	codecs, long := []string{"none", "lz4", "zst"}, os.Getenv("PGX_TEST_LONG") == "1"
	if long {
		codecs = compressTypes
	}
	theirs := pgtest.Reference(t)
	for i, codec := range codecs {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			s := bareSite(t, pgtest.Options{Checksums: true}, encrypted(map[string]string{"compress-type": codec, "archive-copy": []string{"n", "y"}[i%2]}))
			tools := []string{pgxPath(), theirs}
			first, second := tools[i%2], tools[1-i%2]
			if first == theirs { // who pushes the WAL
				s.pg.Configure(map[string]string{"archive_command": fmt.Sprintf("%s --config=%s --stanza=demo archive-push %%p", theirs, s.conf)})
			}
			s.pg.Start()
			s.must(first, "stanza-create")
			s.must(second, "stanza-create")
			s.must(pgxPath(), "check")
			s.must(theirs, "check")
			s.fill()
			s.needle()
			var labels []string
			chain := []struct{ tool, kind string }{{first, "full"}, {second, "incr"}, {first, "incr"}}
			if long {
				chain = append(chain, chain[1], struct{ tool, kind string }{second, "full"}, chain[2], struct{ tool, kind string }{second, "diff"})
			}
			for n, b := range chain {
				s.must(b.tool, "backup", "--type="+b.kind, "--no-expire-auto")
				labels = append(labels, s.label())
				s.pg.Exec(fmt.Sprintf(`update t set what = 'plaintext-needle' where id %% 7 = %d`, n))
				s.pg.Exec(fmt.Sprintf(`create table t%d as select g from generate_series(1, 1000) g`, n))
				s.pg.Exec(`checkpoint`)
			}
			s.pg.Exec(`select pg_switch_wal()`)
			for n, label := range labels {
				if !long && n == 1 {
					continue
				}
				got := tree(t, s.restore("ours"+strconv.Itoa(n), pgxPath(), "--set="+label, "--type=none"))
				want := tree(t, s.restore("theirs"+strconv.Itoa(n), theirs, "--set="+label, "--type=none"))
				same(t, got, want, nil)
			}
			for _, output := range []string{"text", "json"} {
				ours, want := s.must(dropIn(), "info", "--output="+output), s.must(theirs, "info", "--output="+output)
				if ours != want || !strings.Contains(ours, "aes-256-cbc") {
					t.Errorf("info --output=%s:\n%s\nwant:\n%s", output, ours, want)
				}
			}
			if said := s.must(theirs, "verify", "--output=text"); strings.TrimSpace(said) != "" {
				t.Errorf("pgbackrest verify says\n%s", said)
			}
			archive, backup, backups := passes(t, s.repo, "demo")
			all := []string{repoPass, archive, backup}
			for _, p := range backups {
				all = append(all, p)
			}
			if len(backups) != len(labels) {
				t.Errorf("%d backups are listed", len(backups))
			}
			unreadable(t, s.repo, all...)
			if long || i == 0 {
				s.isCluster("recovered", pgxPath(), 15, "")
			}
		})
	}
}

// TestCipherWAL: what one tool pushes the other gets, at once and in the background, history
// files too.
func TestCipherWAL(t *testing.T) {
	theirs := pgtest.Reference(t)
	s := bareSite(t, pgtest.Options{}, encrypted(nil))
	s.pg.Start()
	s.must(pgxPath(), "stanza-create")
	s.must(pgxPath(), "check") // there is a segment
	timeline := 2
	for n, push := range []string{pgxPath(), theirs, pgxPath(), theirs} {
		s.configure(encrypted(map[string]string{"archive-async": []string{"n", "y"}[n/2], "compress-type": []string{"none", "zst"}[n%2]}))
		s.pg.Configure(map[string]string{"archive_command": fmt.Sprintf("%s --config=%s --stanza=demo archive-push %%p", push, s.conf)})
		s.pg.Stop(pgtest.Fast)
		s.pg.Start()
		s.pg.Exec(fmt.Sprintf(`create table w%d as select 'plaintext-needle ' || g as what from generate_series(1, 1000) g`, n))
		segment := s.pg.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
		want, err := os.ReadFile(filepath.Join(s.pg.PGDATA, "pg_wal", segment))
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Eventually(t, "archiving of "+segment, func() bool {
			return s.pg.QueryValue(`select count(*) from pg_ls_archive_statusdir() where name = '`+segment+`.done'`) == "1"
		})
		timeline++
		history := fmt.Sprintf("%08X.history", timeline)
		line := fmt.Sprintf("1\t0/%d000000\tno recovery target specified\n", timeline)
		s.write(filepath.Join(s.pg.PGDATA, "pg_wal", history), line)
		s.must(push, "--no-archive-async", "archive-push", filepath.Join(s.pg.PGDATA, "pg_wal", history))
		if n%2 == 0 { // again, which pgx compares
			s.must(pgxPath(), "--no-archive-async", "archive-push", filepath.Join(s.pg.PGDATA, "pg_wal", history))
		}
		for _, get := range []string{pgxPath(), theirs} {
			for _, async := range []string{"--no-archive-async", "--archive-async"} {
				to := filepath.Join(s.empty(fmt.Sprintf("got-%d-%s%s", n, filepath.Base(get), async)), "segment")
				s.must(get, async, "archive-get", segment, to)
				if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
					t.Errorf("pushed by %s, %s gets with %s %d bytes, %v", push, get, async, len(got), err)
				}
				s.must(get, async, "archive-get", history, to+".history")
				if got, err := os.ReadFile(to + ".history"); err != nil || string(got) != line {
					t.Errorf("pushed by %s, %s gets with %s the history %q, %v", push, get, async, got, err)
				}
			}
		}
	}
	s.pg.Stop(pgtest.Fast)
	for _, f := range regular(t, filepath.Join(s.repo, "archive")) {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.HasPrefix(b, []byte(cipher.Magic)) || bytes.Contains(b, []byte("needle")) || bytes.Contains(b, []byte("recovery")) {
			t.Errorf("'%s' can be read, %v", f, err)
		}
	}
}

// regular gives all files below dir.
func regular(t *testing.T, dir string) (files []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// TestCipherDisagrees: with a passphrase that is wrong, missing or too much every command says so, in
// one sentence with what to do, and changes nothing.
func TestCipherDisagrees(t *testing.T) {
	s := newSite(t, pgtest.Options{}, encrypted(nil))
	s.needle()
	s.must(pgxPath(), "backup", "--type=full")
	for _, c := range []struct {
		options map[string]string
		want    string
	}{
		{encrypted(map[string]string{"repo1-cipher-pass": "wrong-secret"}), "the passphrase of repo1 is wrong, or the file is damaged"},
		{nil, "is encrypted, but repo1-cipher-type is not set"},
	} {
		s.configure(c.options)
		for _, command := range []string{"check", "backup", "stanza-create"} { // that ask the server
			if o := s.fails(95, c.want, pgxPath(), "--stanza=demo", command); strings.Contains(o.all(), "wrong-secret") {
				t.Errorf("%s shows the passphrase:\n%s", command, o.all())
			}
		}
	}
	s.configure(encrypted(nil))
	s.pg.Stop(pgtest.Fast)
	segment := filepath.Join(s.pg.PGDATA, "pg_wal", filepath.Base(regular(t, filepath.Join(s.repo, "archive/demo/15-1/0000000100000000"))[0])[:24])
	s.write(segment, "")
	commands := [][]string{
		{"stanza-create", "--no-online"}, {"archive-push", segment}, {"archive-get", filepath.Base(segment), filepath.Join(s.dir, "got")},
		{"backup", "--no-online", "--type=full"}, {"backup", "--no-online", "--type=incr"}, {"restore", "--delta"}, {"expire", "--repo1-retention-full=1"}, {"info"},
	}
	// With several repositories they would go on with the next; the log has the reason.
	others := map[string]int{"archive-push": 103, "archive-get": 103, "restore": 75, "expire": 104, "info": 0}
	try := func(name, want, hint string, options map[string]string) {
		t.Helper()
		s.configure(options)
		before, data := tree(t, s.repo), tree(t, s.pg.PGDATA)
		for _, c := range commands {
			o := s.run(pgxPath(), append([]string{"--log-level-console=trace", "--log-level-stderr=off"}, c...)...)
			code := 95
			if other, there := others[c[0]]; there {
				code = other
			}
			if said := regexp.MustCompile(`\s+`).ReplaceAllString(o.all(), " "); o.code != code || !strings.Contains(said, want) || !strings.Contains(said, hint) ||
				strings.Count(said, want) > 2 || strings.Contains(said, "backrest-") {
				t.Errorf("%s, %q: exit %d, want %d and\n%s\n%s\n%s", name, c, o.code, code, want, hint, o.all())
			}
			if strings.Contains(o.all(), repoPass) || strings.Contains(o.all(), "wrong-secret") {
				t.Errorf("%s, %q shows the passphrase:\n%s", name, c, o.all())
			}
		}
		same(t, tree(t, s.repo), before, nil)
		same(t, tree(t, s.pg.PGDATA), data, nil)
	}
	try("wrong", "the passphrase of repo1 is wrong, or the file is damaged", "is repo1-cipher-pass the one the stanza was created with?",
		encrypted(map[string]string{"repo1-cipher-pass": "wrong-secret"}))
	try("missing", "is encrypted, but repo1-cipher-type is not set", "set repo1-cipher-type=aes-256-cbc, and repo1-cipher-pass", nil)

	// Passphrases further down that do not fit: as if an info file were that of another stanza.
	s.configure(encrypted(nil))
	reseal := func(name, pass string, change func([]byte) []byte) {
		t.Helper()
		for _, n := range []string{name, name + format.CopySuffix} {
			path := filepath.Join(s.repo, n)
			b, err := os.ReadFile(path)
			if err == nil {
				b, err = cipher.Open(cipher.NewPass(pass), b)
			}
			if err != nil {
				t.Fatal(err)
			}
			s.write(path, string(cipher.Seal(cipher.NewPass(pass), change(b))))
		}
	}
	other := func(text []byte) []byte {
		var b bytes.Buffer
		pass := cipher.Generate().Reveal()
		if m, err := manifest.Read(bytes.NewReader(text)); err == nil {
			m.CipherPass = pass
			_ = m.Write(&b) // the length tells
		} else if i, err := info.ParseBackup(text); err == nil {
			i.CipherPass = pass
			_ = i.Write(&b, i.Program)
		} else if i, err := info.ParseArchive(text); err == nil {
			i.CipherPass = pass
			_ = i.Write(&b, i.Program)
		}
		if b.Len() == 0 {
			t.Fatalf("cannot change\n%s", text)
		}
		return b.Bytes()
	}
	_, backup, backups := passes(t, s.repo, "demo")
	label := s.label()
	if len(backups) != 1 {
		t.Errorf("%d backups", len(backups))
	}
	before := map[string]string{}
	for _, f := range regular(t, s.repo) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		before[f] = string(b)
	}
	reset := func() {
		for f, content := range before {
			s.write(f, content)
		}
	}
	to := s.empty("nothing")
	reseal(format.ManifestPath("demo", format.Label(label)), backup, other)
	s.fails(95, ": unable to decrypt: the content is damaged or cut off, or the passphrase is wrong", pgxPath(), "restore", "--pg1-path="+to, "--type=none")
	// What it leaves for the next restore has nobody's passphrase.
	if left, err := os.ReadFile(filepath.Join(to, "backup.manifest")); err != nil || !bytes.Contains(left, []byte(label)) || bytes.Contains(left, []byte("cipher")) {
		t.Errorf("the restore that failed left %d bytes of a manifest, %v", len(left), err)
	}
	reset()
	reseal(format.BackupInfoPath("demo"), repoPass, other)
	s.fails(95, "backup.manifest': unable to decrypt: the content is damaged or cut off, or the passphrase is wrong", pgxPath(), "restore", "--pg1-path="+s.empty("no-manifest"), "--type=none")
	reset()
	reseal(format.ArchiveInfoPath("demo"), repoPass, other)
	o := s.run(pgxPath(), "archive-get", filepath.Base(segment), filepath.Join(s.dir, "got"))
	if o.code == 0 || o.code == 1 || !strings.Contains(o.all(), "CryptoError") {
		t.Errorf("archive-get with another passphrase in archive.info: exit %d\n%s", o.code, o.all())
	}
	reset()

	// And the reverse: what is in clear is not taken for encrypted, nor written to so.
	plain := newSite(t, pgtest.Options{}, nil)
	plain.must(pgxPath(), "backup", "--type=full")
	plain.pg.Stop(pgtest.Fast)
	s = plain
	segment = filepath.Join(s.pg.PGDATA, "pg_wal", filepath.Base(regular(t, filepath.Join(s.repo, "archive/demo/15-1/0000000100000000"))[0])[:24])
	s.write(segment, "")
	commands[1], commands[2] = []string{"archive-push", segment}, []string{"archive-get", filepath.Base(segment), filepath.Join(s.dir, "got")}
	try("too much", "is not encrypted, but repo1-cipher-type is 'aes-256-cbc'", "leave repo1-cipher-type out", encrypted(nil))
}

// TestCipherSecrets: the passphrase is in no log, no error and no output, at any level.
func TestCipherSecrets(t *testing.T) {
	s := newAsync(t, pgxPath(), pgtest.Options{}, encrypted(map[string]string{"log-level-file": "trace", "log-level-console": "trace"})).site
	var said strings.Builder
	run := func(tool string, args ...string) string {
		t.Helper()
		o := s.run(tool, args...)
		said.WriteString(o.all())
		if o.code != 0 {
			t.Fatalf("%q: exit %d\n%s", args, o.code, o.all())
		}
		return o.out
	}
	begin := run(pgxPath(), "check")
	run(pgxPath(), "backup", "--type=full")
	run(pgxPath(), "restore", "--pg1-path="+s.empty("restored"), "--type=none")
	run(pgxPath(), "info", "--output=json", "--log-level-console=off")
	if shown := run(pgxPath(), "config", "show", "backup"); !regexp.MustCompile(`repo1-cipher-pass +<redacted>`).MatchString(shown) {
		t.Errorf("config show says\n%s", shown)
	}
	run(pgxPath(), "help", "backup", "repo1-cipher-pass")
	if !strings.Contains(begin, "--repo1-cipher-pass=<redacted>") {
		t.Errorf("check begins with\n%s", begin)
	}
	archive, backup, backups := passes(t, s.repo, "demo")
	all := []string{repoPass, archive, backup}
	for _, p := range backups {
		all = append(all, p)
	}
	// Whatever was written: logs, the spool, locks, the data directories; but for the configuration.
	archived := regular(t, filepath.Join(s.repo, "archive/demo/15-1/0000000100000000"))
	run(pgxPath(), "archive-get", filepath.Base(archived[0])[:24], filepath.Join(s.dir, "got"))
	s.pg.Stop(pgtest.Fast)
	left := append(append(regular(t, s.dir), regular(t, s.pg.PGDATA)...), s.pg.LogFile)
	names := strings.Join(left, "\n")
	for _, want := range []string{"/demo-archive-push-async.log", "/demo-backup.log", "/spool/archive/demo/", "/restored/postgresql.auto.conf", "/base/5/1259"} {
		if !strings.Contains(names, want) {
			t.Errorf("there is no '%s' among\n%s", want, names)
		}
	}
	for _, f := range left {
		b, err := os.ReadFile(f)
		if err != nil || f == s.conf {
			continue // gone
		}
		for _, p := range all {
			if bytes.Contains(b, []byte(p)) {
				t.Errorf("a passphrase is in '%s'", f)
			}
		}
	}
	for _, p := range all {
		if strings.Contains(said.String(), p) {
			t.Error("a passphrase is in an output")
		}
	}

	generate := func() string { t.Helper(); return s.exec(pgtest.Command(t, pgxPath(), "key", "generate")).all() }
	if key := generate(); !regexp.MustCompile(`^[A-Za-z0-9+/]{64}\n$`).MatchString(key) || key == generate() {
		t.Errorf("key generate says %q", key)
	}
	if o := s.exec(pgtest.Command(t, dropIn(), "key", "generate")); o.code != 48 {
		t.Errorf("pgbackrest key generate: exit %d\n%s", o.code, o.all())
	}
}
