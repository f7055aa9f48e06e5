package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestCipherDamage: whatever is damaged in an encrypted repository, and however, the commands
// that need it end with an error that names it and says what to do, in words that can be printed
// and without any passphrase; and nothing wrong is handed to PostgreSQL.
func TestCipherDamage(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"none", "lz4", "zst"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Options{WALSegSize: 1}, encrypted(map[string]string{"compress-type": codec, "repo1-retention-full": "9"}))
			s.must(pgxPath(), "backup", "--type=full")
			label := s.label()
			archive, backup, backups := passes(t, s.repo, "demo")
			secrets := []string{repoPass, archive, backup}
			for _, p := range backups {
				secrets = append(secrets, p)
			}
			s.pg.Stop(pgtest.Fast)
			found, err := filepath.Glob(filepath.Join(s.repo, "archive/demo/15-1/0000000100000000/*-*"))
			if err != nil || len(found) == 0 {
				t.Fatalf("in the archive is %q, %v", found, err)
			}
			wal, segment := found[0], filepath.Base(found[0])[:24]
			s.write(filepath.Join(s.pg.PGDATA, "pg_wal", segment), "") // it is not looked at
			control := s.read(s.pg.PGDATA + "/global/pg_control")
			restore := []string{"restore", "--delta", "--force", "--type=none"}
			offline := []string{"backup", "--no-online", "--type=incr", "--force"}
			ext := map[string]string{"none": "", "lz4": ".lz4", "zst": ".zst"}[codec]
			for _, c := range []struct {
				files    []string // of the repository
				names    string   // what every message has
				commands [][]string
				// A change of these bytes is none of the content: the salt makes another key, so that
				// there is always an error, but it can be any.
				codes []int
			}{
				{[]string{"backup/demo/" + label + "/pg_data/global/pg_control" + ext}, "global/pg_control", [][]string{restore}, []int{26, 29, 95}},
				{[]string{"backup/demo/" + label + "/pg_data/base/5/1259" + ext}, "base/5/1259", [][]string{restore}, []int{26, 29, 95}},
				{[]string{strings.TrimPrefix(wal, s.repo+"/")}, segment, [][]string{{"archive-get", segment, filepath.Join(s.dir, "got")}}, []int{42}},
				{pair("backup/demo/" + label + "/backup.manifest"), "backup.manifest", [][]string{restore, offline}, []int{26, 29, 95, 99}},
				{pair("backup/demo/backup.info"), "backup.info", [][]string{restore, offline, {"expire", "--repo1-retention-full=1"}, {"info"}}, []int{0, 26, 29, 75, 95, 99, 104}},
				{pair("archive/demo/archive.info"), "archive.info", [][]string{{"archive-get", segment, filepath.Join(s.dir, "got")},
					{"archive-push", filepath.Join(s.pg.PGDATA, "pg_wal", segment)}}, []int{26, 29, 95, 99, 103}},
			} {
				var whole []string
				for _, f := range c.files {
					whole = append(whole, s.read(filepath.Join(s.repo, f)))
				}
				n := len(whole[0])
				for what, change := range map[string]func([]byte) []byte{
					"magic": flipped(3), "salt": flipped(11), "begin": flipped(20), "middle": flipped(n/2 + 5), "end": flipped(n - 3), "last block but one": flipped(n - 20),
					"cut by a byte": func(b []byte) []byte { return b[:n-1] }, "cut by a block": func(b []byte) []byte { return b[:n-16] },
					"half": func(b []byte) []byte { return b[:n/32*16] }, "empty": func([]byte) []byte { return nil },
					"in clear": func(b []byte) []byte { return bytes.Repeat([]byte("clear "), n/6) },
				} {
					for i, f := range c.files {
						s.write(filepath.Join(s.repo, f), string(change([]byte(whole[i]))))
					}
					for _, command := range c.commands {
						for _, f := range []string{s.dir + "/got", s.pg.PGDATA + "/base/5/1259", s.pg.PGDATA + "/global/pg_control"} {
							_ = os.Remove(f) // what is restored or got
						}
						if command[0] != "restore" {
							s.write(s.pg.PGDATA+"/global/pg_control", control)
						}
						o := s.run(pgxPath(), append([]string{"--stanza=demo"}, command...)...)
						where := fmt.Sprintf("%s of %s, %q: exit %d\n%s", what, c.files[0], command, o.code, o.all())
						if !slices.Contains(c.codes, o.code) || !strings.Contains(o.all(), c.names) {
							t.Errorf("it is not told: %s", where)
						}
						if c.names != segment && !strings.Contains(o.all(), "HINT: ") { // of WAL the checksum says it
							t.Errorf("it is not said what to do: %s", where)
						}
						if strings.ContainsFunc(o.all(), func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
							t.Errorf("it cannot be printed: %s", where)
						}
						for _, secret := range secrets {
							if strings.Contains(o.all(), secret[:20]) || strings.Contains(o.all(), secret[len(secret)-20:]) {
								t.Errorf("a passphrase is shown: %s", where)
							}
						}
						if exists(s.dir+"/got") || command[0] == "restore" && exists(s.pg.PGDATA+"/global/pg_control") {
							t.Errorf("something is handed over: %s", where)
						}
					}
				}
				for i, f := range c.files {
					s.write(filepath.Join(s.repo, f), whole[i])
				}
			}
			s.must(pgxPath(), restore...)
			s.verified()
		})
	}
}

// pair gives a name and that of its copy.
func pair(name string) []string { return []string{name, name + ".copy"} }

// flipped changes a bit of a byte.
func flipped(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 0x10
		return b
	}
}
