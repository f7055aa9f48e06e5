package test

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

var labelTime = regexp.MustCompile(`\d{8}-\d{6}`)

// links gives the symbolic links of the repository and where they lead, with the times in labels
// numbered.
func (s *site) links() []string {
	s.Helper()
	var all, times []string
	for _, label := range s.labelDirs() {
		times = append(times, labelTime.FindAllString(label, -1)...)
	}
	for name, n := range tree(s.T, s.repo) {
		if n.mode&fs.ModeSymlink != 0 {
			all = append(all, name+" -> "+n.target)
		}
	}
	slices.Sort(times)
	times = slices.Compact(times)
	for i := range all {
		all[i] = labelTime.ReplaceAllStringFunc(all[i], func(time string) string { return fmt.Sprint("TIME", slices.Index(times, time)) })
	}
	slices.Sort(all)
	return all
}

// TestRepoSymlink: with repo-symlink=n a backup makes no links and takes away one that names an
// older backup, and expire makes none; as pgbackrest does.
func TestRepoSymlink(t *testing.T) {
	t.Parallel()
	got := map[string]map[string][]string{}
	for _, tool := range []string{pgxPath(), pgtest.Reference(t)} {
		s := newSite(t, pgtest.Options{WALSegSize: 1}, nil)
		s.pg.Exec(`create tablespace elsewhere location '` + s.empty("elsewhere") + `'`)
		s.pg.Exec(`create table t tablespace elsewhere as select 1; checkpoint`)
		seen := map[string][]string{}
		for _, step := range []struct {
			name string
			args []string
		}{
			{"with", []string{"backup", "--type=full"}},
			{"without", []string{"backup", "--type=full", "--no-repo1-symlink"}},
			{"diff with", []string{"backup", "--type=diff"}},
			{"expire without", []string{"expire", "--no-repo1-symlink", "--repo1-retention-full=1"}},
			{"expire set without", []string{"expire", "--no-repo1-symlink", "--set=newest"}},
			{"hardlink without", []string{"backup", "--type=incr", "--no-repo1-symlink", "--repo1-hardlink"}},
			{"hardlink with", []string{"backup", "--type=incr", "--repo1-hardlink"}},
		} {
			args := append([]string{"--repo1-retention-full=9", "--no-expire-auto"}, step.args...)
			if step.args[0] == "expire" {
				args = slices.Clone(step.args)
				if i := slices.Index(args, "--set=newest"); i >= 0 {
					all := s.backups(pgxPath())
					args[i] = "--set=" + all[len(all)-1]
				}
			}
			s.must(tool, args...)
			seen[step.name] = s.links()
		}
		got[filepath.Base(filepath.Dir(tool))+"/"+filepath.Base(tool)] = seen
		s.verified()
		s.pg.Stop(pgtest.Fast)
	}
	names := slices.Sorted(maps.Keys(got))
	ours, theirs := got[names[0]], got[names[1]]
	for step, want := range theirs {
		if !slices.Equal(ours[step], want) {
			t.Errorf("after '%s' %s has\n%s\n%s has\n%s", step, names[0], strings.Join(ours[step], "\n"), names[1], strings.Join(want, "\n"))
		}
	}
	if len(theirs["with"]) != 2 || len(theirs["without"]) != 1 {
		t.Errorf("pgbackrest makes %q and %q", theirs["with"], theirs["without"])
	}
}
