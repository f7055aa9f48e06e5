package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// keys are the numbers of the repositories of a several, with a gap.
var keys = []int{1, 2, 5}

// several is a site with three repositories: a plain one, an encrypted one, and one whose number
// leaves a gap. tool works with it; it shares its server with others.
type several struct {
	*site
	tool string
}

// twins makes two sites alike on one server, which archives to both: one of pgx, called as
// pgbackrest, and one of pgbackrest.
func twins(t *testing.T) (ours, theirs *several) {
	t.Helper()
	base := bareSite(t, pgtest.Options{WALSegSize: 1, Checksums: true, Config: map[string]string{"wal_keep_size": "1GB"}}, nil)
	ours, theirs = severalOf(base, "ours", dropIn()), severalOf(base, "theirs", pgtest.Reference(t))
	base.pg.Configure(map[string]string{"archive_command": ours.archiveCommand() + " && " + theirs.archiveCommand()})
	base.pg.Start()
	return ours, theirs
}

func severalOf(base *site, name, tool string) *several {
	v := &several{base.in(base.T, name), tool}
	v.repo = v.path(1)
	v.set(nil)
	return v
}

func (v *several) archiveCommand() string {
	return fmt.Sprintf("%s --config=%s --stanza=demo archive-push %%p", v.tool, v.conf)
}

// path gives the path of a repository.
func (v *several) path(key int) string { return filepath.Join(v.dir, fmt.Sprintf("repo%d", key)) }

// set writes the configuration with more options.
func (v *several) set(more map[string]string) {
	v.Helper()
	global := map[string]string{"repo2-cipher-type": "aes-256-cbc", "repo2-cipher-pass": repoPass, "log-level-console": "info"}
	for _, key := range keys {
		global[fmt.Sprintf("repo%d-path", key)] = v.path(key)
		global[fmt.Sprintf("repo%d-retention-full", key)] = "9"
	}
	v.configure(merged(global, more))
}

// on gives the site to a subtest.
func (v *several) on(t *testing.T) *several {
	s := *v.site
	s.T = t
	return &several{&s, v.tool}
}

// with gives the site to another tool.
func (v *several) with(tool string) *several { return &several{v.site, tool} }

// do runs the tool.
func (v *several) do(args ...string) outcome { v.Helper(); return v.run(v.tool, args...) }

// lines are what a command wrote, without time, begin and end and what differs by nature; only
// those with all of the words.
func (v *several) lines(o outcome, words ...string) (all []string) {
	text := clockWord.ReplaceAllString(execID.ReplaceAllString(o.all(), ""), "")
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		line = v.words(strings.Replace(strings.TrimSpace(line), "[DRY-RUN] ", "", 1))
		has := func(word string) bool { return strings.Contains(line, word) }
		if !commandLine.MatchString(line) && !slices.ContainsFunc(words, func(w string) bool { return !has(w) }) {
			all = append(all, line)
		}
	}
	return all
}

// inBoth runs the same by each of the twins, and compares exit code and lines with all of the words.
// It gives our outcome.
func inBoth(ours, theirs *several, words []string, args ...string) outcome {
	ours.Helper()
	a, b := ours.do(args...), theirs.do(args...)
	got, want := ours.lines(a, words...), theirs.lines(b, words...)
	if a.code != b.code || !slices.Equal(got, want) {
		ours.Errorf("%s: exit %d\n%s\nand pgbackrest: exit %d\n%s", strings.Join(args, " "), a.code, strings.Join(got, "\n"), b.code, strings.Join(want, "\n"))
	}
	return a
}

// inVain runs what cannot be run by each of the twins, and compares exit code and error.
func inVain(ours, theirs *several, args ...string) {
	ours.Helper()
	a, b := ours.do(args...), theirs.do(args...)
	got, want := ours.message("ERROR", a.all()), theirs.message("ERROR", b.all())
	if a.code != b.code || got != want || a.code == 0 {
		ours.Errorf("%s: exit %d\n%s\nand pgbackrest: exit %d\n%s", strings.Join(args, " "), a.code, got, b.code, want)
	}
}

// copies gives the paths of a segment by repository.
func (v *several) copies(segment string) map[int]string {
	v.Helper()
	all := map[int]string{}
	for _, key := range keys {
		found, err := filepath.Glob(filepath.Join(v.path(key), "archive/demo/*", segment[:16], segment+"-*"))
		if err != nil || len(found) > 1 {
			v.Fatalf("repo%d has %v of %s, %v", key, found, segment, err)
		}
		if len(found) == 1 && !strings.HasSuffix(found[0], ".tmp") {
			all[key] = found[0]
		}
	}
	return all
}

// segment ends the current segment and gives its name when it is archived.
func (v *several) segment() string {
	v.Helper()
	v.pg.Exec(`select pg_create_restore_point('test')`)
	name := v.pg.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
	pgtest.Eventually(v.T, "archiving of "+name, func() bool {
		return v.pg.QueryValue(`select last_archived_wal >= '`+name+`' from pg_stat_archiver`) == "t"
	})
	return name
}

// get has a segment fetched and gives what there is then.
func (v *several) get(segment string, args ...string) (outcome, string) {
	v.Helper()
	target := filepath.Join(v.dir, "got")
	if err := os.RemoveAll(target); err != nil {
		v.Fatal(err)
	}
	o := v.do(append([]string{"--pg1-path=" + v.pg.PGDATA, "archive-get", segment, target}, args...)...)
	b, err := os.ReadFile(target)
	if err != nil && o.code == 0 {
		v.Error(err)
	}
	return o, string(b)
}

// original gives a segment as PostgreSQL has it.
func (v *several) original(segment string) string {
	v.Helper()
	return v.read(filepath.Join(v.pg.PGDATA, "pg_wal", segment))
}

// labelsIn lists the backups of a repository.
func (v *several) labelsIn(key int) (all []string) {
	v.Helper()
	found, err := filepath.Glob(filepath.Join(v.path(key), "backup/demo/*/backup.manifest"))
	if err != nil {
		v.Fatal(err)
	}
	for _, name := range found {
		if label := filepath.Base(filepath.Dir(name)); label != "latest" {
			all = append(all, label)
		}
	}
	return all
}

// TestRepos goes through the commands with three repositories, beside pgbackrest with the same
// configuration.
func TestRepos(t *testing.T) {
	t.Parallel()
	ours, theirs := twins(t)
	for _, step := range []struct {
		name string
		run  func(ours, theirs *several)
	}{
		{"create and check", reposCreated}, {"archive-push", reposPushed}, {"archive-push async", reposPushedAsync},
		{"archive-get", reposGot}, {"backup", reposBackedUp}, {"info", reposInfo}, {"locks", reposLocked},
		{"restore", reposRestored}, {"expire", reposExpired},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(ours.on(t), theirs.on(t)) }) {
			return
		}
	}
}

func reposCreated(ours, theirs *several) {
	inBoth(ours, theirs, nil, "stanza-create")
	inBoth(ours, theirs, nil, "stanza-create") // it is there
	inBoth(ours, theirs, nil, "check")
	ours.must(pgxPath(), "check")
}

// everywhere makes sure that each repository of both has the segment under the same name, and each
// tool reads it from each.
func everywhere(ours, theirs *several, segment string) {
	ours.Helper()
	want, name := ours.original(segment), filepath.Base(ours.copies(segment)[1])
	for _, v := range []*several{ours, theirs} {
		copies := v.copies(segment)
		if len(copies) != len(keys) {
			v.Errorf("%s is in %v", segment, copies)
		}
		for key, path := range copies {
			if filepath.Base(path) != name {
				v.Errorf("repo%d has %s, and not %s", key, path, name)
			}
			for _, tool := range []string{pgxPath(), pgtest.Reference(v.T)} {
				if o, got := v.with(tool).get(segment, "--no-archive-async", fmt.Sprintf("--repo=%d", key)); o.code != 0 || got != want {
					v.Errorf("%s from repo%d: exit %d\n%s", segment, key, o.code, o.all())
				}
			}
		}
	}
	if b := []byte(ours.read(ours.copies(segment)[2])); string(b[:8]) != "Salted__" {
		ours.Errorf("in repo2 %s begins with %q", segment, b[:8])
	}
}

func reposPushed(ours, theirs *several) {
	for _, codec := range []string{"none", "lz4", "zst"} {
		ours.set(map[string]string{"compress-type": codec})
		theirs.set(map[string]string{"compress-type": codec})
		everywhere(ours, theirs, ours.segment())
	}
	// Again: all have it. One that does not gets it, in the compression of now.
	segment := ours.segment()
	path := filepath.Join(ours.pg.PGDATA, "pg_wal", segment)
	inBoth(ours, theirs, nil, "archive-push", path)
	for _, v := range []*several{ours, theirs} {
		v.remove(v.copies(segment)[5])
		v.set(nil)
	}
	inBoth(ours, theirs, nil, "archive-push", path)
	for _, v := range []*several{ours, theirs} {
		if got := filepath.Ext(v.copies(segment)[5]); got != ".lz4" {
			v.Errorf("repo5 has %q of %s", got, segment)
		}
	}
	// The WAL of another cluster goes nowhere.
	other := filepath.Join(ours.dir, "0000000100000000000000F0")
	ours.write(other, "no WAL")
	for _, v := range []*several{ours, theirs} {
		if o := v.do("archive-push", other); o.code == 0 {
			v.Error(o.all())
		}
	}
}

func reposPushedAsync(ours, theirs *several) {
	for _, v := range []*several{ours, theirs} {
		v.set(map[string]string{"archive-async": "y", "process-max": "2"})
	}
	missing, damaged := ours.segment(), ours.segment()
	for _, name := range []string{missing, damaged, ours.segment()} {
		everywhere(ours, theirs, name)
	}
	// Recovery that fetches ahead goes from one to the next too.
	for _, v := range []*several{ours, theirs} {
		back, repair := v.away(v.copies(missing)[1]), v.spoil(v.copies(damaged)[1])
		for _, name := range []string{missing, damaged} {
			o, got := v.get(name)
			warned := len(v.lines(o, "WARN: repo1: ")) > 0
			if o.code != 0 || got != v.original(name) || warned != (name == damaged) || !strings.Contains(o.all(), "found "+name+" in the ") {
				v.Errorf("%s: exit %d\n%s", name, o.code, o.all())
			}
			if name == damaged && !strings.Contains(o.all(), "in the archive asynchronously") {
				v.Errorf("%s: not fetched before\n%s", name, o.all())
			}
			pgtest.Eventually(v.T, "the fetching ahead", func() bool {
				_, err := os.Stat(filepath.Join(v.dir, "spool/archive/demo/in", damaged))
				return err == nil || name == damaged
			})
		}
		back()
		repair()
		v.set(nil)
	}
}

// spoil damages a stored segment and gives what repairs it.
func (v *several) spoil(path string) (repair func()) {
	v.Helper()
	whole := v.read(path)
	v.change(path, func(b []byte) []byte { b[len(b)/2] ^= 0xff; b[len(b)-5] ^= 0xff; return b })
	return func() { v.write(path, whole) }
}

// reposGot: archive-get takes the next repository when one fails, and warns as pgbackrest does. Both tools
// have the same repositories here.
func reposGot(ours, _ *several) {
	theirs := ours.with(pgtest.Reference(ours.T))
	segment := ours.segment()
	ours.pg.Exec(`select 1`)
	want, copies := ours.original(segment), ours.copies(segment)
	all := func(undo ...func()) func() {
		return func() {
			for _, f := range undo {
				f()
			}
		}
	}
	spoil := func(key int) func() { return ours.spoil(copies[key]) }
	info := filepath.Join(ours.path(1), "archive/demo/archive.info")
	other := filepath.Join(filepath.Dir(copies[5]), segment+"-"+strings.Repeat("0", 40))
	for _, c := range []struct {
		name   string
		do     func() (undo func())
		args   []string
		code   int
		from   string   // "repo2"
		warned []string // the repositories that are warned of
	}{
		{"all there", func() func() { return func() {} }, nil, 0, "repo1", nil},
		{"one repository asked", func() func() { return func() {} }, []string{"--repo=5"}, 0, "repo5", nil},
		{"not in repo1", func() func() { return ours.away(copies[1]) }, nil, 0, "repo2", nil},
		{"not in repo1 and repo2", func() func() { return all(ours.away(copies[1]), ours.away(copies[2])) }, nil, 0, "repo5", nil},
		{"not in the one asked", func() func() { return ours.away(copies[1]) }, []string{"--repo=1"}, 1, "", nil},
		{"damaged in repo1", func() func() { return spoil(1) }, nil, 0, "repo2", []string{"repo1"}},
		{"damaged in repo1 and repo2", func() func() { return all(spoil(1), spoil(2)) }, nil, 0, "repo5", []string{"repo1", "repo2"}},
		{"damaged everywhere", func() func() { return all(spoil(1), spoil(2), spoil(5)) }, nil, 42, "", nil},
		{"unreadable in repo1", func() func() { return ours.chmod(copies[1], 0) }, nil, 0, "repo2", []string{"repo1"}},
		{"archive.info unreadable", func() func() { return all(ours.chmod(info, 0), ours.chmod(info+".copy", 0)) }, nil, 0, "repo2", []string{"repo1"}},
		{"no archive.info", func() func() { return all(ours.away(info), ours.away(info+".copy")) }, nil, 0, "repo2", []string{"repo1"}},
		{"no repo1", func() func() { return ours.away(ours.path(1)) }, nil, 0, "repo2", []string{"repo1"}},
		{"no repo1, missing in the others", func() func() { return all(ours.away(copies[2]), ours.away(copies[5]), ours.away(ours.path(1))) }, nil, 1, "", []string{"repo1"}},
		{"no repository", func() func() { return all(ours.away(ours.path(1)), ours.away(ours.path(2)), ours.away(ours.path(5))) }, nil, 103, "", nil},
		{"another one in repo5", func() func() { ours.write(other, want); return func() { ours.remove(other) } }, nil, 45, "", nil},
	} {
		undo := c.do()
		a, got := ours.get(segment, c.args...)
		b, reference := theirs.get(segment, c.args...)
		undo()
		if a.code != c.code || b.code != c.code || c.code == 0 && (got != want || reference != want) {
			ours.Errorf("%s: exit %d\n%s\nand pgbackrest: exit %d\n%s", c.name, a.code, a.all(), b.code, b.all())
		}
		for _, v := range []struct {
			*several
			o outcome
		}{{ours, a}, {theirs, b}} {
			if found := "found " + segment + " in the " + c.from + ": 15-1 archive"; c.from != "" && !strings.Contains(v.o.all(), found) {
				v.Errorf("%s: not %q:\n%s", c.name, found, v.o.all())
			}
			var warned []string
			for _, line := range v.lines(v.o, "WARN: ") {
				warned = append(warned, strings.Split(line, ":")[1][1:])
			}
			if !slices.Equal(warned, c.warned) && (c.code == 0 || c.code == 1) {
				v.Errorf("%s: warnings of %q, expected of %q\n%s", c.name, warned, c.warned, v.o.all())
			}
		}
		if c.code == 45 && !slices.Equal(ours.lines(a, "repo"), theirs.lines(b, "repo")) {
			ours.Errorf("%s: %s\nand pgbackrest:\n%s", c.name, a.all(), b.all())
		}
	}
}

func reposBackedUp(ours, theirs *several) {
	ours.fill()
	repo := []string{"repo", "INFO"}
	if o := inBoth(ours, theirs, repo, "backup", "--type=full"); !strings.Contains(o.all(), "repo option not specified, defaulting to repo1") {
		ours.Error(o.all())
	}
	if o := inBoth(ours, theirs, repo, "backup", "--type=full", "--repo=2", "--compress-type=zst"); strings.Contains(o.all(), "repo option") {
		ours.Error(o.all())
	}
	inBoth(ours, theirs, repo, "backup", "--type=full", "--repo=5", "--compress-type=none")
	ours.pg.Exec(`update t set what = 'changed' where id % 7 = 0; checkpoint`)
	inBoth(ours, theirs, repo, "backup", "--type=diff")
	inBoth(ours, theirs, repo, "backup", "--type=incr", "--repo=2")
	for key, n := range map[int]int{1: 2, 2: 2, 5: 1} {
		for _, v := range []*several{ours, theirs} {
			labels := v.labelsIn(key)
			if len(labels) != n || n == 2 && !strings.HasPrefix(labels[1], labels[0]+"_") {
				v.Errorf("repo%d has %v", key, labels)
			}
		}
	}
	for key, suffix := range map[int]string{1: ".lz4", 2: ".zst", 5: ""} {
		if _, err := os.Stat(filepath.Join(ours.path(key), "backup/demo", ours.labelsIn(key)[0], "pg_data/PG_VERSION"+suffix)); err != nil {
			ours.Error(err)
		}
	}
	for _, args := range [][]string{
		{"backup", "--repo=3"}, {"backup", "--repo=0"}, {"backup", "--repo=257"}, {"backup", "--repo=x"}, {"info", "--repo=3"},
		{"info", "--repo=256"}, {"archive-push", "--repo=1", "x"}, {"stanza-create", "--repo=1"}, {"check", "--repo=1"}, {"expire", "--repo=4"},
		{"restore", "--repo=6"}, {"info", "--repo257-path=/x"}, {"info", "--repo0-path=/x"}, {"info", "--repo1-nothing=x"},
		{"info", "--repo300-cipher-type=none"},
	} {
		inVain(ours, theirs, args...)
	}
}

// reposInfo: both tools tell the same of the same repositories, whoever has filled them.
func reposInfo(ours, theirs *several) {
	for _, v := range []*several{ours, theirs} {
		for _, args := range [][]string{
			nil, {"--repo=1"}, {"--repo=2"}, {"--repo=5"}, {"--type=full"}, {"--type=incr"}, {"--detail-level=progress"},
			{"--set=" + v.labelsIn(2)[1]}, {"--set=" + v.labelsIn(5)[0]}, {"--set=" + v.labelsIn(2)[0], "--repo=5"}, {"--stanza=other"},
		} {
			for _, output := range []string{"text", "json"} {
				args := append([]string{"info", "--log-level-console=warn", "--output=" + output}, args...)
				want := v.must(pgtest.Reference(v.T), args...)
				for _, tool := range []string{pgxPath(), dropIn()} {
					if got := v.must(tool, args...); got != want {
						v.Errorf("%s %s:\n%s\nwant:\n%s", tool, strings.Join(args, " "), got, want)
					}
				}
			}
		}
	}
	if out := ours.must(pgxPath(), "info", "--log-level-console=warn"); strings.Count(out, "full backup: ") != 3 || !strings.Contains(out, "cipher: mixed") {
		ours.Errorf("info says\n%s", out)
	}
}

// held holds a lock of another command.
func (v *several) held(name string) (release func()) {
	v.Helper()
	path := filepath.Join(v.dir, "lock", name)
	v.write(path, "")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		v.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// reposLocked: what goes on in all repositories takes the locks of all before it begins.
func reposLocked(ours, theirs *several) {
	for _, c := range []struct {
		lock   string
		refuse []string
		others [][]string
	}{
		{"demo-backup-5.lock", []string{"backup"}, [][]string{{"backup", "--repo=1"}, {"expire", "--repo=2"}}},
		{"demo-backup-5.lock", []string{"expire"}, nil},
		{"demo-backup-5.lock", []string{"backup", "--repo=5"}, nil},
		{"demo-backup-1.lock", []string{"backup"}, [][]string{{"backup", "--repo=5"}}},
		{"demo-restore-5.lock", []string{"restore"}, nil},
		{"demo-restore-5.lock", []string{"stanza-create"}, nil},
	} {
		a, b := ours.held(c.lock), theirs.held(c.lock)
		before := len(ours.labelsIn(1))
		if o := inBoth(ours, theirs, []string{"ERROR"}, c.refuse...); o.code != 50 || len(ours.labelsIn(1)) != before {
			ours.Errorf("%v with %s held: exit %d\n%s", c.refuse, c.lock, o.code, o.all())
		}
		for _, args := range c.others {
			if o := inBoth(ours, theirs, []string{"repo", "INFO"}, args...); o.code != 0 {
				ours.Errorf("%v with %s held: exit %d\n%s", args, c.lock, o.code, o.all())
			}
		}
		a()
		b()
	}
}
