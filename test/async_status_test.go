package test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// fakeWAL is a WAL directory without a server: segments are made ready and taken by hand.
type fakeWAL struct {
	*async
	content string // of a segment
	number  int
}

func (f *fakeWAL) path(name string) string { return filepath.Join(f.pg.PGDATA, "pg_wal", name) }
func (f *fakeWAL) status(name, suffix string) string {
	return filepath.Join(f.pg.PGDATA, "pg_wal/archive_status", name+suffix)
}

// next makes a segment that differs from all others, in the place of the one after the last.
func (f *fakeWAL) next() string {
	f.Helper()
	f.number++
	name := fmt.Sprintf("0000000100000001%08X", f.number)
	f.write(f.path(name), f.content[:len(f.content)-len(name)]+name)
	return name
}

// ready makes a segment that waits.
func (f *fakeWAL) ready() string {
	f.Helper()
	name := f.next()
	f.waits(name)
	return name
}

// waits makes a file ready, for which a worker may be waiting.
func (f *fakeWAL) waits(name string) {
	f.Helper()
	f.write(f.status(name, ".ready"), "")
}

// taken is what PostgreSQL does with a file after the command succeeded.
func (f *fakeWAL) taken(names ...string) {
	f.Helper()
	for _, name := range names {
		if err := os.Rename(f.status(name, ".ready"), f.status(name, ".done")); err != nil {
			f.Fatal(err)
		}
	}
}

func (f *fakeWAL) push(name string, args ...string) outcome {
	f.Helper()
	return f.run(f.tool, append(args, "archive-push", f.path(name))...)
}

// left is what one push leaves: exit code, what it says, the spool, what the worker logs.
type left struct {
	code   int
	told   string
	spool  map[string]string
	logged []string
}

func (l left) String() string {
	var names []string
	for name, content := range l.spool {
		names = append(names, fmt.Sprintf("%s: %q", name, content))
	}
	slices.Sort(names)
	return fmt.Sprintf("exit %d\n%s\nspool:\n%s\nlog:\n%s", l.code, l.told, strings.Join(names, "\n"), strings.Join(l.logged, "\n"))
}

// scenario is one push. It gives the names of the files that it leaves ready.
type scenario struct {
	name string
	code int
	do   func(f *fakeWAL) (o outcome, ready []string)
	// ours changes what pgbackrest left into what pgx leaves, and why tells what for.
	ours func(left) left
	why  string
}

// TestAsyncStatus: what one archive-push leaves in the spool, on the terminal and in the log of
// the worker is what pgbackrest leaves, under either name, but for what the table says. That a
// worker which stays takes files up one by one, and tries again by itself, is no matter here.
func TestAsyncStatus(t *testing.T) {
	needsRoot(t)
	const reference = "pgbackrest 2.60"
	results := map[string]map[string]left{}
	for name, tool := range map[string]string{"pgx": pgxPath(), "pgx as pgbackrest": dropIn(), reference: pgtest.Reference(t)} {
		results[name] = map[string]left{}
		t.Run(name, func(t *testing.T) {
			f := &fakeWAL{async: bareAsync(t, tool, pgtest.Options{}, nil)}
			f.must(tool, "stanza-create", "--no-online")
			_, path, _ := f.segment()
			f.content = f.read(path)
			for _, c := range scenarios() {
				before, last := len(f.lines()), fmt.Sprintf("0000000100000001%08X", f.number)
				o, ready := c.do(f)
				if o.code != c.code {
					t.Errorf("%s: exit %d, want %d", c.name, o.code, c.code)
				}
				l := left{code: o.code, told: f.told(o), spool: map[string]string{}}
				if name == reference { // it logs behind the answer
					pgtest.Eventually(t, "the end of its process", func() bool { return len(f.processes(":async")) == 0 })
				}
				for name, content := range f.answers() {
					l.spool[name] = f.places(content)
				}
				l.logged = f.kinds(slices.DeleteFunc(f.lines()[before:], func(line string) bool { // what is about others
					name := segments.FindString(line)
					return name != "" && name <= last
				}))
				results[name][c.name] = l
				f.taken(ready...)
				f.clear()
			}
		})
	}
	if t.Failed() {
		return
	}
	for _, c := range scenarios() {
		theirs := results[reference][c.name]
		want := theirs
		if c.ours != nil {
			t.Logf("%s differs: %s", c.name, c.why)
			want.spool, want.logged = maps.Clone(want.spool), slices.Clone(want.logged)
			want = c.ours(want)
		}
		for name, got := range results {
			if got := got[c.name]; name != reference && got.String() != want.String() {
				t.Errorf("%s: %s left\n%s\n\nand pgbackrest\n%s", c.name, name, got, theirs)
			}
		}
	}
}

// clear takes everything out of the spool's directory, as the next run of the worker would.
func (f *fakeWAL) clear() {
	f.Helper()
	for name := range f.answers() {
		if err := os.Remove(filepath.Join(f.out(), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			f.Fatal(err)
		}
	}
}

func scenarios() []scenario {
	return []scenario{
		{name: "a segment", do: func(f *fakeWAL) (outcome, []string) {
			name := f.ready()
			return f.push(name), []string{name}
		}},
		{name: "several", do: func(f *fakeWAL) (outcome, []string) {
			names := []string{f.ready(), f.ready(), f.ready()}
			o := f.push(names[0])
			pgtest.Eventually(f.T, "the others", func() bool { return len(f.answers()) == 3 })
			return o, names
		}},
		{name: "acknowledged before", do: func(f *fakeWAL) (outcome, []string) {
			name := f.ready()
			f.push(name)
			return f.push(name), []string{name}
		}},
		{name: "history", do: func(f *fakeWAL) (outcome, []string) {
			const name = "00000002.history"
			f.write(f.path(name), "1\t0/3000000\tno recovery target specified\n")
			f.waits(name)
			return f.push(name), []string{name}
		}},
		{name: "in the repository with the same content", do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			f.must(f.tool, "archive-push", "--no-archive-async", f.path(name))
			f.waits(name)
			return f.push(name), []string{name}
		}},
		{name: "in the repository with other content", code: 45, do: func(f *fakeWAL) (outcome, []string) {
			return f.duplicate(), f.waiting()
		}, ours: once, why: retries},
		{name: "skipped by an operator", do: func(f *fakeWAL) (outcome, []string) {
			f.duplicate()
			name := f.waiting()[0]
			if err := os.Rename(filepath.Join(f.out(), name+".error"), filepath.Join(f.out(), name+".ok")); err != nil {
				f.Fatal(err)
			}
			return f.push(name), []string{name}
		}, ours: once, why: retries},
		{name: "of another cluster", code: 44, do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			f.flip(f.path(name), 24) // of the system identifier
			f.waits(name)
			return f.push(name), []string{name}
		}, ours: once, why: retries},
		{name: "repository away", code: 103, do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			back := f.away(f.repo)
			defer back()
			f.waits(name)
			return f.push(name), []string{name}
		}, ours: unmounted, why: "it says which directory is missing, and that it may not be mounted"},
		{name: "stopped", code: 62, do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			f.must(f.tool, "--stanza=demo", "stop")
			defer f.must(f.tool, "--stanza=demo", "start")
			f.waits(name)
			return f.push(name), []string{name}
		}},
		{name: "queue exceeded", do: func(f *fakeWAL) (outcome, []string) {
			names := []string{f.next(), f.next(), f.next()}
			f.set(map[string]string{"archive-push-queue-max": "2MB"})
			defer f.set(nil)
			for _, name := range names {
				f.waits(name)
			}
			o := f.push(names[0])
			pgtest.Eventually(f.T, "the others", func() bool { return len(f.answers()) == 3 })
			return o, names
		}},
		{name: "damaged answer", code: 29, do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			f.write(filepath.Join(f.out(), name+".ok"), "what")
			f.waits(name)
			return f.push(name), []string{name}
		}},
		{name: "answer without a message", code: 29, do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			f.write(filepath.Join(f.out(), name+".ok"), "0\n")
			f.waits(name)
			return f.push(name), []string{name}
		}},
		{name: "out of time", code: 82, do: func(f *fakeWAL) (outcome, []string) {
			name := f.next()
			lock, err := os.OpenFile(filepath.Join(f.dir, "lock/demo-archive-1.lock"), os.O_RDWR|os.O_CREATE, 0o640)
			if err == nil {
				defer lock.Close()
				f.own(lock.Name())
				err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
			}
			if err != nil {
				f.Fatal(err)
			}
			f.waits(name)
			return f.push(name, "--archive-timeout=1"), []string{name}
		}},
		{name: "without data directory", code: 37, do: func(f *fakeWAL) (outcome, []string) {
			return f.push(f.next(), "--reset-pg1-path"), nil
		}},
	}
}

// duplicate pushes a segment that is in the repository with other content.
func (f *fakeWAL) duplicate() outcome {
	f.Helper()
	name := f.next()
	f.must(f.tool, "archive-push", "--no-archive-async", f.path(name))
	f.flip(f.path(name), -1)
	f.waits(name)
	return f.push(name)
}

// retries is why errors of one file differ.
const retries = "pgbackrest tries again at once, in another process, and tells of both; it then goes no further"

// once takes away what is said of retries.
func once(l left) left {
	l.told = retried.ReplaceAllString(l.told, "")
	for name, content := range l.spool {
		l.spool[name] = retried.ReplaceAllString(content, "")
	}
	var logged []string
	for _, line := range l.logged {
		if line != "WARN: stopped archive-push after an error, remaining WAL will be processed on the next run" {
			logged = append(logged, retried.ReplaceAllString(line, ""))
		}
	}
	slices.Sort(logged)
	l.logged = slices.Compact(logged)
	return l
}

var retried = regexp.MustCompile(`raised from local-\d+ protocol: |\n *\[[A-Za-z]+\] (on retry at|\d+ retries from) [^\n]*`)

// unmounted changes how pgbackrest says that the repository is not there into how pgx does.
func unmounted(l left) left {
	const text = "unable to find a valid repository:\nrepo1: [PathMissingError] unable to open repository path 'REPO': no such file or directory\n" +
		"HINT: is the file system of the repository mounted?\nHINT: is repo1-path right? stanza-create makes the directory"
	l.told = theirMissing.ReplaceAllString(l.told, text)
	for name, content := range l.spool {
		l.spool[name] = theirMissing.ReplaceAllString(content, text)
	}
	for i, line := range l.logged {
		l.logged[i] = theirMissing.ReplaceAllString(line, text)
	}
	slices.Sort(l.logged)
	return l
}

var theirMissing = regexp.MustCompile(`unable to find a valid repository:\nrepo1: \[FileMissingError\] unable to load info file '[^']+' or '[^']+':` +
	`(\n(FileMissingError|HINT): [^\n]*)+`)
