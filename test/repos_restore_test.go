package test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// restored restores into a new directory.
func (v *several) restored(name string, args ...string) (outcome, string) {
	v.Helper()
	dir := v.empty(name)
	return v.do(append([]string{"restore", "--pg1-path=" + dir}, args...)...), dir
}

// warnedOf gives the repositories that a command warned of, in order.
func (v *several) warnedOf(o outcome) (all []string) {
	for _, line := range v.lines(o, "WARN: repo") {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "WARN: "), ":")
		all = append(all, name)
	}
	return all
}

// reposRestored: a restore takes the first repository that has what it looks for. Both tools have the
// same repositories.
func reposRestored(ours, _ *several) {
	theirs := ours.with(pgtest.Reference(ours.T))
	newest := func(key int) string { labels := ours.labelsIn(key); return labels[len(labels)-1] }
	info := filepath.Join(ours.path(1), "backup/demo/backup.info")
	nothing := func() func() { return func() {} }
	away := func(keys ...int) func() func() {
		return func() func() {
			var back []func()
			for _, key := range keys {
				back = append(back, ours.away(ours.path(key)))
			}
			return func() {
				for _, f := range back {
					f()
				}
			}
		}
	}
	command := regexp.MustCompile(`restore_command = '(?:PGX_ARCHIVE_GET_STRICT=y )?\S+ (.*)'`)
	for i, c := range []struct {
		name   string
		do     func() (undo func())
		args   []string
		code   int
		chosen string
		warned []string
		long   bool
	}{
		{"the first", nothing, nil, 0, "repo1: restore backup set " + newest(1), nil, false},
		{"one", nothing, []string{"--repo=2"}, 0, "repo2: restore backup set " + newest(2), nil, false},
		{"a set of the last", nothing, []string{"--set=" + newest(5)}, 0, "repo5: restore backup set " + newest(5), nil, false},
		{"a set of another", nothing, []string{"--set=" + newest(5), "--repo=1"}, 75, "", nil, false},
		{"no such set", nothing, []string{"--set=20200101-000000F"}, 75, "", nil, true},
		{"the first is gone", away(1), nil, 0, "repo2: restore backup set " + newest(2), []string{"repo1"}, false},
		{"two are gone", away(1, 2), nil, 0, "repo5: restore backup set " + newest(5), []string{"repo1", "repo2"}, true},
		{"all are gone", away(1, 2, 5), nil, 75, "", []string{"repo1", "repo2", "repo5"}, false},
		{"the last is gone", away(5), nil, 0, "repo1: restore backup set " + newest(1), nil, true},
		{"the first cannot be read", func() func() {
			a, b := ours.chmod(info, 0), ours.chmod(info+".copy", 0)
			return func() { a(); b() }
		}, nil, 0, "repo2: restore backup set " + newest(2), []string{"repo1"}, false},
	} {
		if c.long && !everyStep {
			continue
		}
		undo := c.do()
		a, dir := ours.restored(fmt.Sprintf("ours-%d", i), c.args...)
		b, reference := theirs.restored(fmt.Sprintf("theirs-%d", i), c.args...)
		undo()
		for _, o := range []outcome{a, b} {
			if o.code != c.code || !strings.Contains(o.all(), c.chosen) || !slices.Equal(ours.warnedOf(o), c.warned) {
				ours.Errorf("%s: exit %d, expected %d and %q, with warnings of %v\n%s", c.name, o.code, c.code, c.chosen, c.warned, o.all())
			}
		}
		// Where a repository could not be read ours says so once more, behind the error.
		got, _, _ := strings.Cut(ours.message("ERROR", a.all()), "\nHINT: repo1")
		if want := ours.message("ERROR", b.all()); got != want {
			ours.Errorf("%s: %s\nand pgbackrest: %s", c.name, got, want)
		}
		if c.code != 0 {
			continue
		}
		// Recovery asks what the restore was told to ask; where that cannot be done it is told.
		written := func(dir string) string {
			found := command.FindStringSubmatch(ours.read(filepath.Join(dir, "postgresql.auto.conf")))
			if found == nil {
				ours.Fatalf("%s: no restore_command in %s", c.name, dir)
			}
			return strings.ReplaceAll(found[1], dir, "DATA")
		}
		if got, want := written(dir), written(reference); got != want {
			ours.Errorf("%s: restore_command %s\nand pgbackrest: %s", c.name, got, want)
		}
		const hint = "recovery asks every repository for WAL"
		if got := strings.Contains(a.all(), hint); got != (len(c.warned) > 0) {
			ours.Errorf("%s: that recovery will fail is said: %t\n%s", c.name, got, a.all())
		}
		same(ours.T, tree(ours.T, dir), tree(ours.T, reference), func(name string) bool { return name == "postgresql.auto.conf" })
	}
	// From the second repository to a cluster, with what was archived since.
	dir := ours.restore("started", pgxPath(), "--repo=2", "--archive-mode=off")
	pg := ours.attach(dir)
	pg.Start()
	promoted(ours.T, pg)
	if got := pg.QueryValue(`select count(*) || ' ' || sum(length(big)) from t`); got != "5000 16000000" {
		ours.Errorf("table t holds %s", got)
	}
}

// duplicate gives a site with copies of the repositories.
func (v *several) duplicate(name, tool string, more map[string]string) *several {
	v.Helper()
	d := severalOf(v.site, name, tool)
	for _, key := range keys {
		v.cp(v.path(key), d.path(key))
	}
	d.set(more)
	return d
}

// names gives what is below the repositories.
func (v *several) names() []string {
	v.Helper()
	var all []string
	for _, key := range keys {
		if _, err := os.Stat(v.path(key)); err != nil {
			continue
		}
		err := filepath.WalkDir(v.path(key), func(path string, _ fs.DirEntry, err error) error {
			all = append(all, strings.TrimPrefix(path, v.dir))
			return err
		})
		if err != nil {
			v.Fatal(err)
		}
	}
	return all
}

// reposExpired: each repository goes by its own retention. Both tools have a copy of the same repositories.
func reposExpired(ours, _ *several) {
	for _, key := range keys {
		ours.must(pgxPath(), "backup", "--type=full", fmt.Sprintf("--repo=%d", key), "--no-expire-auto")
	}
	ours.must(pgxPath(), "backup", "--type=incr", "--repo=5", "--no-expire-auto")
	first := func(key int) string { return ours.labelsIn(key)[0] }
	ours.pg.Stop(pgtest.Fast) // which fills a segment now and then, also between two copies
	for i, c := range []struct {
		name    string
		options map[string]string
		args    []string
		code    int
		fulls   [3]int // that stay
		away    int    // a repository that is not there
		long    bool
	}{
		{"each its own", map[string]string{"repo1-retention-full": "1", "repo2-retention-full": "2", "repo5-retention-full": "1", "repo5-retention-archive": "9"}, nil, 0, [3]int{1, 2, 1}, 0, false},
		{"by the archive", map[string]string{"repo1-retention-archive": "1", "repo2-retention-diff": "1", "repo5-retention-archive-type": "incr", "repo5-retention-archive": "1"}, nil, 0, [3]int{2, 2, 2}, 0, true},
		{"one", map[string]string{"repo1-retention-full": "1", "repo2-retention-full": "1", "repo5-retention-full": "1"}, []string{"--repo=2"}, 0, [3]int{2, 1, 2}, 0, false},
		{"a set", nil, []string{"--set=" + first(5)}, 0, [3]int{2, 2, 1}, 0, false},
		{"a set of another", nil, []string{"--set=" + first(5), "--repo=1"}, 0, [3]int{2, 2, 2}, 0, true},
		{"the oldest", nil, []string{"--repo=5", "--oldest"}, 0, [3]int{2, 2, 1}, 0, true},
		{"nothing is done", map[string]string{"repo1-retention-full": "1", "repo2-retention-full": "1"}, []string{"--dry-run"}, 0, [3]int{2, 2, 2}, 0, true},
		{"repo2 is not there", map[string]string{"repo1-retention-full": "1", "repo2-retention-full": "1", "repo5-retention-full": "1"}, nil, 104, [3]int{1, 0, 1}, 2, false},
	} {
		if c.long && !everyStep {
			continue
		}
		a := ours.duplicate(fmt.Sprintf("expired-ours-%d", i), dropIn(), c.options)
		b := ours.duplicate(fmt.Sprintf("expired-theirs-%d", i), pgtest.Reference(ours.T), c.options)
		if c.away > 0 {
			a.away(a.path(c.away))
			b.away(b.path(c.away))
		}
		args := append([]string{"expire"}, c.args...)
		p, q := a.do(args...), b.do(args...)
		if p.code != c.code || q.code != c.code {
			ours.Errorf("%s: exit %d\n%s\nand pgbackrest: exit %d\n%s", c.name, p.code, p.all(), q.code, q.all())
		}
		// A dry run of pgx gives reasons too.
		got := slices.DeleteFunc(a.lines(p, "repo", "INFO"), func(line string) bool { return strings.Contains(line, ": why: ") })
		if want := b.lines(q, "repo", "INFO"); !slices.Equal(got, want) {
			ours.Errorf("%s says\n%s\nand pgbackrest\n%s", c.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got, want := a.names(), b.names(); !slices.Equal(got, want) {
			ours.Errorf("%s leaves\n%s\nand pgbackrest\n%s", c.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for n, key := range keys {
			fulls := slices.DeleteFunc(a.labelsIn(key), func(l string) bool { return strings.Contains(l, "_") })
			if len(fulls) != c.fulls[n] {
				ours.Errorf("%s: repo%d has %v", c.name, key, fulls)
			}
		}
		for _, v := range []*several{a, b} {
			if err := os.RemoveAll(v.dir); err != nil {
				ours.Error(err)
			}
		}
	}
	// After a backup it is done in all, with --repo in that one.
	ours.pg.Start()
	ours.set(map[string]string{"repo1-retention-full": "1", "repo2-retention-full": "1", "repo5-retention-full": "1"})
	ours.must(pgxPath(), "backup", "--type=full", "--repo=2")
	if n := len(ours.labelsIn(2)); n != 1 || len(ours.labelsIn(1)) < 2 {
		ours.Errorf("repo2 has %v, repo1 %v", ours.labelsIn(2), ours.labelsIn(1))
	}
	ours.must(pgxPath(), "backup", "--type=full")
	for _, key := range keys {
		if all := ours.labelsIn(key); slices.ContainsFunc(all, func(l string) bool { return l[:16] != all[0][:16] }) {
			ours.Errorf("repo%d has %v", key, all)
		}
	}
}

// TestReposTrouble: one of several repositories is not there, cannot be read, or is full. The others get
// what is theirs, and pgx says so as pgbackrest does.
func TestReposTrouble(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	base := bareSite(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"archive_command": "true pgbackrest"}}, nil)
	base.pg.Start()
	var all []*several
	for name, tool := range map[string]string{"pgx": pgxPath(), "drop-in": dropIn(), "reference": pgtest.Reference(t)} {
		v := severalOf(base, name, tool)
		v.small("repo2", 6)
		v.must(tool, "--stanza=demo", "stanza-create")
		all = append(all, v)
	}
	number := 0xF0
	for _, v := range all {
		// Segments of the server's under names it is far from.
		number++
		name, path, _ := v.segment0(number)
		says := func(code int, lines []string, args ...string) {
			t.Helper()
			o := v.do(args...)
			for _, line := range lines {
				if o.code != code || !strings.Contains(o.all(), line) {
					t.Errorf("%s %s: exit %d, expected %d and %q\n%s", filepath.Base(v.dir), strings.Join(args, " "), o.code, code, line, o.all())
				}
			}
		}
		push := []string{"--stanza=demo", "archive-push", "--compress-type=none", path}
		has := func(want ...int) {
			t.Helper()
			if got := slices.Sorted(maps.Keys(v.copies(name))); !slices.Equal(got, want) {
				t.Errorf("%s: %s is in %v, expected in %v", filepath.Base(v.dir), name, got, want)
			}
		}
		fresh := func() {
			t.Helper()
			for _, path := range v.copies(name) {
				v.remove(path)
			}
		}
		const some = "archive-push command encountered error(s):"
		room := v.fillUp(v.path(2), 200)
		says(104, []string{some, "repo2: [FileWriteError] "}, push...)
		has(1, 5)
		room()
		says(0, []string{"already exists in the repo1 archive with the same checksum", "already exists in the repo5 archive"}, push...)
		has(1, 2, 5)
		fresh()

		info := filepath.Join(v.path(1), "archive/demo/archive.info")
		undo := []func(){v.chmod(info, 0), v.chmod(info+".copy", 0)}
		says(104, []string{some, "repo1: [FileOpenError] "}, push...)
		has(2, 5)
		says(41, []string{info}, "--stanza=demo", "check")
		for _, f := range undo {
			f()
		}
		fresh()

		back := v.away(v.path(5))
		says(104, []string{some, "repo5: ["}, push...)
		has(1, 2)
		says(0, []string{"status: mixed", "repo5: error (missing stanza path)", "repo1: error (no valid backups)"}, "--stanza=demo", "info", "--log-level-console=warn")
		back()
		fresh()
		back = v.away(v.path(1))
		too := v.away(v.path(5))
		says(104, []string{some, "repo1: [", "repo5: ["}, push...)
		has(2)
		back()
		too()
		says(0, nil, push...)
		has(1, 2, 5)

		broken := filepath.Join(v.path(5), "backup/demo/backup.info")
		undo = []func(){v.chmod(broken, 0), v.chmod(broken+".copy", 0)}
		says(0, []string{"status: mixed", "repo5: error (other)", "[FileOpenError] "}, "--stanza=demo", "info", "--log-level-console=warn")
		var report []struct {
			Repo []struct{ Status struct{ Code int } }
		}
		o := v.do("--stanza=demo", "info", "--output=json", "--log-level-console=off")
		if err := json.Unmarshal([]byte(o.out), &report); err != nil || len(report) != 1 || len(report[0].Repo) != 3 || report[0].Repo[2].Status.Code != 99 {
			t.Errorf("%v: %s", err, o.all())
		}
		for _, f := range undo {
			f()
		}
	}
}

// segment0 puts a segment of the server under a name it is far from.
func (v *several) segment0(number int) (name, path, content string) {
	v.Helper()
	_, from, _ := v.site.segment()
	name = fmt.Sprintf("0000000100000000000000%02X", number)
	path, content = filepath.Join(v.dir, name), v.read(from)
	v.write(path, content)
	return name, path, content
}

// TestReposNumbers: a repository may have any number up to 256 and need not have others before it.
func TestReposNumbers(t *testing.T) {
	t.Parallel()
	base := bareSite(t, pgtest.Options{WALSegSize: 1}, nil)
	ours, theirs := severalOf(base, "ours", dropIn()), severalOf(base, "theirs", pgtest.Reference(t))
	for _, v := range []*several{ours, theirs} {
		v.configure(map[string]string{"log-level-console": "info", "repo1-retention-full": "2"})
		v.write(v.conf, strings.ReplaceAll(v.read(v.conf), "repo1-", "repo256-"))
	}
	base.pg.Configure(map[string]string{"archive_command": ours.archiveCommand() + " && " + theirs.archiveCommand()})
	base.pg.Start()
	for _, args := range [][]string{{"stanza-create"}, {"check"}} {
		if o := inBoth(ours, theirs, nil, args...); o.code != 0 || !strings.Contains(o.all(), "repo256") {
			t.Errorf("%s: exit %d\n%s", args, o.code, o.all())
		}
	}
	for _, args := range [][]string{{"backup", "--type=full"}, {"backup", "--type=incr", "--repo=256"}, {"expire"}} {
		if o := inBoth(ours, theirs, []string{"INFO", "repo"}, args...); o.code != 0 {
			t.Errorf("%s: exit %d\n%s", args, o.code, o.all())
		}
	}
	for _, args := range [][]string{{"info"}, {"info", "--output=json"}, {"info", "--repo=256"}} {
		args = append(args, "--log-level-console=warn")
		want := ours.must(pgtest.Reference(t), args...)
		if got := ours.must(pgxPath(), args...); got != want || !strings.Contains(got, "256") && !strings.Contains(got, "full backup: ") {
			t.Errorf("%s:\n%s\nwant:\n%s", args, got, want)
		}
	}
	a, dir := ours.restored("a", "--type=none")
	b, reference := ours.with(pgtest.Reference(t)).restored("b", "--type=none")
	if a.code != 0 || b.code != 0 || !strings.Contains(a.all(), "repo256: restore backup set ") {
		t.Errorf("exit %d\n%s\nand pgbackrest: exit %d\n%s", a.code, a.all(), b.code, b.all())
	}
	same(t, tree(t, dir), tree(t, reference), nil)
	for _, args := range [][]string{{"info", "--repo=1"}, {"backup", "--repo=1"}, {"info", "--repo=255"}} {
		inVain(ours, theirs, args...)
	}
}
