package backup_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// bundled is the configuration of an offline backup with bundles.
func (s *site) bundled() backup.Config {
	cfg := s.config()
	cfg.Online, cfg.Bundle, cfg.BundleLimit, cfg.BundleSize = false, true, 2<<20, 20<<20
	yes := true
	cfg.ChecksumPage = &yes
	return cfg
}

func unix(second int64) time.Time { return time.Unix(second, 0) }

// latest gives the label of the newest backup.
func (s *site) latest() format.Label {
	s.t.Helper()
	labels, err := s.repo.Labels(s.t.Context())
	if err != nil || len(labels) == 0 {
		s.t.Fatalf("there are %d backups, %v", len(labels), err)
	}
	return slices.Max(labels)
}

// bundles gives the sizes of the bundles of a backup, from 1 on; -1 where there is none.
func (s *site) bundles(m *manifest.Manifest) []int64 {
	s.t.Helper()
	var sizes []int64
	entries, err := os.ReadDir(filepath.Join(s.dir, "backup/demo", string(m.Label), "bundle"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		var n int
		if _, err := fmt.Sscan(e.Name(), &n); err != nil {
			s.t.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			s.t.Fatal(err)
		}
		for len(sizes) < n {
			sizes = append(sizes, -1)
		}
		sizes[n-1] = info.Size()
	}
	return sizes
}

// packed makes sure that the files of a backup fill its bundles, without gaps.
func (s *site) packed(m *manifest.Manifest) {
	s.t.Helper()
	in := map[uint32][]manifest.File{}
	for f := range m.Files.All() {
		if f.Bundle != 0 && f.Reference == "" {
			in[f.Bundle] = append(in[f.Bundle], f)
		}
	}
	for i, size := range s.bundles(m) {
		files := in[uint32(i+1)]
		delete(in, uint32(i+1))
		slices.SortFunc(files, func(a, b manifest.File) int { return int(a.BundleOffset - b.BundleOffset) })
		next := int64(0)
		for _, f := range files {
			if f.BundleOffset != next || f.RepoSize == 0 {
				s.t.Errorf("'%s' is %d bytes at %d of bundle %d, not at %d", f.Name, f.RepoSize, f.BundleOffset, i+1, next)
			}
			next += f.RepoSize
		}
		if len(files) > 0 && size != next || len(files) == 0 && size != -1 {
			s.t.Errorf("bundle %d has %d bytes, its %d files %d", i+1, size, len(files), next)
		}
	}
	for n := range in {
		s.t.Errorf("there is no bundle %d", n)
	}
}

// TestBundle: what is stored of a cluster with bundles is what pgbackrest stores, which restores it.
func TestBundle(t *testing.T) {
	s := newSite(t, pgtest.Options{Checksums: true})
	s.Start()
	s.fill()
	s.Stop(pgtest.Fast)
	for _, c := range []struct {
		codec compress.Type
		limit int64
		size  int64
	}{{compress.Gzip, 2 << 20, 20 << 20}, {compress.None, 64 << 10, 1 << 20}} {
		s.pgbackrest("backup", "--type=full", "--no-online", "--compress-type="+string(c.codec), "--checksum-page", "--repo1-bundle",
			fmt.Sprintf("--repo1-bundle-limit=%d", c.limit), fmt.Sprintf("--repo1-bundle-size=%d", c.size))
		cfg := s.bundled()
		cfg.Compress, cfg.CompressLevel, cfg.BundleLimit, cfg.BundleSize = c.codec, c.codec.DefaultLevel(), c.limit, c.size
		res, err := backup.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := s.repo.Labels(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := s.manifest(labels[len(labels)-2]), s.manifest(res.Label)
		within := func(m *manifest.Manifest) (all []string) {
			for f := range m.Files.All() {
				in := f.Bundle != 0
				f.Bundle, f.BundleOffset, f.RepoSize, f.RepoChecksum = 0, 0, 0, manifest.SHA1{}
				all = append(all, fmt.Sprintf("%t %+v", in, f))
			}
			return all
		}
		differ(t, "files", within(theirs), within(ours))
		differ(t, "options", []string{s.section(theirs.Label, "backup:option")}, []string{s.section(ours.Label, "backup:option")})
		if !ours.Bundle || ours.BundleRaw || theirs.BundleRaw {
			t.Errorf("bundle %t, raw %t", ours.Bundle, ours.BundleRaw)
		}
		s.packed(ours)
		if got, want := len(s.bundles(ours)), len(s.bundles(theirs)); got != want {
			t.Errorf("there are %d bundles, of pgbackrest %d", got, want)
		}
		if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
			t.Errorf("verify says\n%s", out)
		}
		differ(t, "restored", s.restored(theirs.Label), s.restored(ours.Label))
		dir := filepath.Join(s.dir, "backup/demo", string(ours.Label))
		if _, err := os.Stat(filepath.Join(dir, "pg_data/pg_notify")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is a directory of nothing: %v", err)
		}
	}

	// Nothing has changed but the time of one file, and one whose content has.
	touched, written := filepath.Join(s.PGDATA, "PG_VERSION"), filepath.Join(s.PGDATA, "pg_ident.conf")
	later := s.manifest(s.latest()).CopyStart
	if err := errors.Join(os.WriteFile(written, []byte("# changed\n"), 0o600), os.Chtimes(touched, unix(later), unix(later)), os.Chtimes(written, unix(later), unix(later))); err != nil {
		t.Fatal(err)
	}
	before := s.latest()
	for _, change := range []func(*backup.Config){nil, func(c *backup.Config) { c.Delta = true }} {
		cfg := s.bundled()
		cfg.Type = "incr"
		if change != nil {
			change(&cfg)
		}
		s.log.clear()
		res, err := backup.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		m := s.manifest(res.Label)
		s.packed(m)
		if !slices.ContainsFunc(s.log.at(logging.LevelDetail), func(l string) bool {
			return strings.HasPrefix(l, "match file from prior backup "+touched+" (")
		}) {
			t.Errorf("nothing is said of what has another time only: %q", s.log.lines)
		}
		own := 0
		for f := range m.Files.All() {
			if f.Reference == "" && f.Size > 0 {
				own++
			}
			if f.Reference != "" && f.Size == 0 {
				t.Errorf("'%s' is empty and in %s", f.Name, f.Reference)
			}
		}
		if before != "" && own != 1 || before == "" && own != 0 {
			t.Errorf("%d files are stored", own)
		}
		if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
			t.Errorf("verify says\n%s", out)
		}
		s.restored(res.Label)
		before = ""
	}
}

// TestBundleChanging changes files between the time they are listed and the time they are put
// into a bundle.
func TestBundleChanging(t *testing.T) {
	s := newSite(t, pgtest.Options{Checksums: true})
	s.Start()
	s.fill()
	s.Exec(`create table grows as select 1; create table shrinks as select * from t; create table gone as select 1;
		create table emptied as select * from t; checkpoint`)
	name := func(table string) string {
		return "pg_data/" + s.QueryValue("select pg_relation_filepath('"+table+"')")
	}
	grows, shrinks, gone, emptied := name("grows"), name("shrinks"), name("gone"), name("emptied")
	s.Stop(pgtest.Fast)
	path := func(name string) string { return filepath.Join(s.PGDATA, strings.TrimPrefix(name, "pg_data/")) }
	was := map[string]int64{}
	cfg := s.bundled()
	cfg.Progress = func(p progress.State) {
		if p.FilesDone > 0 || p.BytesDone > 0 {
			return
		}
		for _, name := range []string{grows, shrinks, emptied} {
			info, err := os.Stat(path(name))
			if err != nil {
				t.Error(err)
				return
			}
			was[name] = info.Size()
		}
		if err := errors.Join(os.Truncate(path(grows), was[grows]+8192), os.Truncate(path(shrinks), 8192),
			os.Remove(path(gone)), os.Truncate(path(emptied), 0)); err != nil {
			t.Error(err)
		}
	}
	res, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := s.manifest(res.Label)
	s.packed(m)
	if _, found := m.Files.Find(gone); found {
		t.Errorf("'%s' is in the manifest", gone)
	}
	for name, want := range map[string]int64{grows: was[grows], shrinks: 8192, emptied: 0} {
		f, _ := m.Files.Find(name)
		if f.Size != want || f.OriginalSize != was[name] || (f.Bundle == 0) != (want == 0) || f.Pages != manifest.PagesValid {
			t.Errorf("%d bytes should be of '%s': %+v", want, name, f)
		}
	}
	for _, form := range []string{
		"skip file removed by database " + path(gone) + "$",
		"backup file " + path(shrinks) + ` \(bundle \d+/\d+, \d+KB->8KB, \d+\.\d\d%\) checksum [0-9a-f]{40}$`,
		"store truncated file " + path(emptied) + ` \(\d+KB->0B, \d+\.\d\d%\)$`,
		"store zero-length file " + s.PGDATA + "/base/",
	} {
		if !slices.ContainsFunc(s.log.at(logging.LevelDetail), regexp.MustCompile("^"+form).MatchString) {
			t.Errorf("no line is like '%s'", form)
		}
	}
	if w := s.log.at(slog.LevelWarn); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}
	s.restored(res.Label)

	// All that was to be in the bundles of an incremental backup is gone: it has no bundle.
	for _, n := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(s.PGDATA, n), []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	incr := s.bundled()
	incr.Type = "incr"
	incr.Progress = func(p progress.State) {
		if p.FilesDone == 0 && p.BytesDone == 0 {
			if err := errors.Join(os.Remove(filepath.Join(s.PGDATA, "a")), os.Truncate(filepath.Join(s.PGDATA, "b"), 0)); err != nil {
				t.Error(err)
			}
		}
	}
	// What was changed above is stored first.
	if _, err := backup.Run(t.Context(), func() backup.Config { c := s.bundled(); c.Exclude = []string{"a", "b"}; c.Type = "incr"; return c }()); err != nil {
		t.Fatal(err)
	}
	if res, err = backup.Run(t.Context(), incr); err != nil {
		t.Fatal(err)
	}
	if sizes := s.bundles(s.manifest(res.Label)); len(sizes) != 0 {
		t.Errorf("bundles have %v bytes", sizes)
	}
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}

	s.needsControl(cfg)
}
