package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format/ini"
)

// forge writes a manifest, and its copy, anew with other rows, as somebody who can write to
// the repository would: with a right checksum.
func (s *site) forge(name, text string, how func(section, key, value string) (newKey, newValue string), more [][3]string) {
	s.Helper()
	var out bytes.Buffer
	in := ini.NewScanner([]byte(text))
	w := ini.NewWriter(&out, "2.60.0", new(ini.Kept))
	for in.Next() {
		for len(more) > 0 && more[0][0] <= in.Section() {
			w.Row(more[0][0], more[0][1], []byte(more[0][2]))
			more = more[1:]
		}
		k, v := how(in.Section(), string(in.Key()), string(in.Value()))
		w.Row(in.Section(), k, []byte(v))
	}
	if err := errors.Join(in.Err(), w.Close()); err != nil {
		s.Fatal(err)
	}
	s.write(name, out.String())
	s.write(name+".copy", out.String())
}

// TestHostileManifest: whatever a manifest says, nothing outside the target is touched.
func TestHostileManifest(t *testing.T) {
	t.Parallel()
	s, _, plain := restoreSite(t)
	s.pg.Stop(pgtest.Fast)
	const file = "pg_data/PG_VERSION"
	outside := s.empty("outside")
	s.write(filepath.Join(outside, "mine"), "mine")
	as := func(name string) func(section, key, value string) (string, string) {
		return func(section, key, value string) (string, string) {
			if section == "target:file" && key == file {
				return name, value
			}
			return key, value
		}
	}
	keep := func(_, key, value string) (string, string) { return key, value }
	link := func(name, dest string) [][3]string {
		return [][3]string{
			{"backup:target", name, `{"path":"` + dest + `","type":"link"}`},
			{"target:link", name, `{"destination":"` + dest + `"}`},
			{"target:path", name, `{}`},
		}
	}
	manifest := s.repo + "/backup/demo/" + plain + "/backup.manifest"
	sound := s.read(manifest)
	const both = "unable to load info file 'REPO/backup/demo/LABEL/backup.manifest' or 'REPO/backup/demo/LABEL/backup.manifest.copy':\n" +
		"FormatError: 'REPO/backup/demo/LABEL/backup.manifest': %[1]s\nFormatError: 'REPO/backup/demo/LABEL/backup.manifest.copy': %[1]s"
	const holdsFiles = "unable to restore to path 'DIR/outside' because it contains files\nHINT: try using --delta if this is what you intended."
	for _, h := range []struct {
		how  func(section, key, value string) (string, string)
		more [][3]string
		code int // 29: want is about the manifest
		want string
	}{
		{as("pg_data/../../outside/evil"), nil, 29, "file 'pg_data/../../outside/evil' is not a valid name"},
		{as("pg_data/base/../../../outside/evil"), nil, 29, "file 'pg_data/base/../../../outside/evil' is not a valid name"},
		{as("pg_data/.."), nil, 29, "file 'pg_data/..' is not a valid name"},
		{as(outside + "/evil"), nil, 29, "file 'DIR/outside/evil' is not a valid name"},
		{as("pg_data/" + outside + "/evil"), nil, 29, "file 'pg_data/DIR/outside/evil' is not a valid name"},
		{as("outside/evil"), nil, 29, "file 'outside/evil' is not a valid name"},
		{as("pg_data/./evil"), nil, 29, "file 'pg_data/./evil' is not a valid name"},
		{as("pg_data/evil/mine"), nil, 29, "file 'pg_data/evil/mine' is in the directory 'pg_data/evil', which is not among the paths"},
		{as("pg_tblspc/16384/PG_15_202209061/evil"), nil, 29, "file 'pg_tblspc/16384/PG_15_202209061/evil' belongs to no target"},
		{keep, [][3]string{{"target:link", "pg_data/evil", `{"destination":"` + outside + `"}`}}, 29, "link 'pg_data/evil' has no target"},
		{keep, link("pg_data/base", outside)[:2], 40, holdsFiles},
		{keep, link("pg_data/evil", outside), 40, holdsFiles},
		{keep, link("pg_data/evil", s.repo), 40, "unable to restore to path 'REPO' because it contains files\n" +
			"HINT: try using --delta if this is what you intended."},
		{keep, link("pg_data/evil", s.dir), 70, "link 'evil' destination 'DIR' contains PGDATA"},
		{keep, link("pg_data/evil", "../outside"), 40, "unable to restore to path 'DIR/outside' because it contains files\n" +
			"HINT: try using --delta if this is what you intended."},
		{func(section, key, value string) (string, string) {
			if section == "backup" && key == "backup-label" {
				value = `"../../../outside"`
			}
			return key, value
		}, nil, 29, "section 'backup', key 'backup-label': '../../../outside' is not a backup label"},
		{func(section, key, value string) (string, string) {
			if section == "target:file" && key == file {
				value = strings.Replace(value, `,"size"`, `,"reference":"../../../outside","size"`, 1)
			}
			return key, value
		}, nil, 29, "section 'target:file', key 'pg_data/PG_VERSION': '../../../outside' is not a backup label"},
	} {
		s.forge(manifest, sound, h.how, h.more)
		dir := filepath.Join(s.dir, "target")
		if h.code == 29 {
			h.want = fmt.Sprintf(both, h.want)
		}
		s.says(h.code, h.want, "restore", "--pg1-path="+dir, "--set="+plain, "--type=none", "--link-all")
		if exists(dir) {
			t.Errorf("%s: something was written", h.want)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := tree(t, outside); len(got) != 2 || got["mine"].size != 4 {
		t.Errorf("outside is now %v", got)
	}
	s.forge(manifest, sound, keep, nil) // the forger is one
	s.restore("sound", pgxPath(), "--set="+plain, "--type=none")
}
