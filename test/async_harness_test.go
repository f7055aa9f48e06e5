package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// async is a site that archives asynchronously with one of the tools.
type async struct {
	*site
	tool   string
	global map[string]string // beside what every such site has
}

// newAsync makes a site whose server runs and whose stanza exists.
func newAsync(t *testing.T, tool string, o pgtest.Options, global map[string]string) *async {
	t.Helper()
	a := bareAsync(t, tool, o, global)
	a.pg.Start()
	a.must(tool, "stanza-create")
	return a
}

// bareAsync is newAsync without server and stanza.
func bareAsync(t *testing.T, tool string, o pgtest.Options, global map[string]string) *async {
	t.Helper()
	if o.WALSegSize == 0 {
		o.WALSegSize = 1
	}
	a := &async{site: bareSite(t, o, nil), tool: tool, global: global}
	a.set(nil)
	if o.Config["archive_command"] == "" {
		a.pg.Configure(map[string]string{"archive_command": a.archiveCommand()})
	}
	// Before the server is stopped, since it begins to stop what it started then.
	t.Cleanup(a.noWorkers)
	return a
}

func (a *async) archiveCommand() string {
	return fmt.Sprintf("%s --config=%s --stanza=demo archive-push %%p", a.tool, a.conf)
}

// set writes the configuration with more options.
func (a *async) set(more map[string]string) {
	a.Helper()
	a.configure(merged(merged(map[string]string{
		"archive-async": "y", "log-level-file": "detail", "log-level-console": "info", "compress-type": "none",
	}, a.global), more))
}

// noWorkers ends what stays in the background, and lets nothing begin.
func (a *async) noWorkers() {
	a.Helper()
	stop := filepath.Join(a.dir, "lock", "all.stop")
	if err := errors.Join(os.MkdirAll(filepath.Dir(stop), 0o777), os.WriteFile(stop, nil, 0o644)); err != nil {
		a.Error(err)
	}
	pgtest.Eventually(a.T, "the end of all workers", func() bool { return len(a.processes(":async")) == 0 })
}

// processes gives the ids of the processes with the site's configuration one of whose
// arguments ends with suffix.
func (s *site) processes(suffix string) []int {
	s.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.Fatal(err)
	}
	var found []int
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if slices.Contains(args, "--config="+s.conf) && slices.ContainsFunc(args, func(a string) bool { return strings.HasSuffix(a, suffix) }) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				s.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	return found
}

// worker waits for the one worker of a command and gives its process id.
func (a *async) worker(command string) (pid int) {
	a.Helper()
	pgtest.Eventually(a.T, "one "+command+":async", func() bool {
		found := a.processes(command + ":async")
		if len(found) == 1 {
			pid = found[0]
		}
		return len(found) == 1
	})
	return pid
}

// gone waits for the end of a process.
func (a *async) gone(pid int) {
	a.Helper()
	pgtest.Eventually(a.T, fmt.Sprintf("the end of process %d", pid), func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || len(b) == 0 // of one that nobody has waited for nothing is left but its entry
	})
}

func (a *async) out() string { return filepath.Join(a.dir, "spool/archive/demo/out") }

// answers gives what is in the spool's out directory: contents by name.
func (a *async) answers() map[string]string {
	a.Helper()
	entries, err := os.ReadDir(a.out())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".tmp" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(a.out(), e.Name()))
		if err == nil { // else it was removed in the meantime
			all[e.Name()] = string(b)
		}
	}
	return all
}

// waiting gives the WAL files that PostgreSQL has ready; done those that it holds archived.
func (s *site) waiting() []string { return s.archiveStatus(".ready") }
func (s *site) done() []string    { return s.archiveStatus(".done") }

func (s *site) archiveStatus(suffix string) []string {
	s.Helper()
	all, err := filepath.Glob(filepath.Join(s.pg.PGDATA, "pg_wal/archive_status/*"+suffix))
	if err != nil {
		s.Fatal(err)
	}
	for i, name := range all {
		all[i] = strings.TrimSuffix(filepath.Base(name), suffix)
	}
	return all
}

// lines are what a worker has logged: level and text, without begin and end of commands.
func (a *async) lines() []string {
	a.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, "demo-archive-push-async.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if m := logLine.FindStringSubmatch(line); m != nil {
			all = append(all, m[1]+": "+m[2])
		} else if strings.HasPrefix(line, "  ") && len(all) > 0 {
			all[len(all)-1] += "\n" + strings.TrimLeft(line, " ")
		}
	}
	return slices.DeleteFunc(all, func(line string) bool { return commandLine.MatchString(line) })
}

var (
	logLine     = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ P\d+ +([A-Z]+): (.*)$`)
	commandLine = regexp.MustCompile(`^INFO: [a-z:-]+ command (begin|end)`)
	clockWord   = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ P\d+ +`)
)

// told gives what a command wrote but for begin and end, time and processes.
func (a *async) told(o outcome) string {
	text := a.places(clockWord.ReplaceAllString(o.all(), ""))
	var kept []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if !commandLine.MatchString(line) {
			kept = append(kept, strings.TrimLeft(line, " "))
		}
	}
	return strings.Join(kept, "\n")
}

// places replaces the names of directories, and what identifies a process.
func (a *async) places(text string) string {
	return strings.NewReplacer(a.repo, "REPO", a.dir, "DIR", a.pg.PGDATA, "PGDATA").Replace(execID.ReplaceAllString(text, ""))
}

// kinds sorts lines of a log and leaves each kind of them once: how often and in which order they
// are written depends on when who looked. Of the worker's own lines only those that
// pgbackrest has too are left.
func (a *async) kinds(lines []string) []string {
	var kinds []string
	for _, line := range lines {
		line = batchLine.ReplaceAllString(a.words(a.places(line)), "push N WAL file(s)")
		if !ownLine.MatchString(line) {
			kinds = append(kinds, line)
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

var (
	batchLine = regexp.MustCompile(`push \d+ WAL file\(s\) to archive: [A-Z.]+$`)
	// That it leaves, and what it waits for, only a worker that stays has to tell.
	ownLine = regexp.MustCompile(`^(DETAIL: nothing to push, leaving|INFO: leaving: |INFO: waiting for another command: )`)
)

// logged says whether a worker has logged a line that contains text.
func (a *async) logged(text string) bool {
	return slices.ContainsFunc(a.lines(), func(l string) bool { return strings.Contains(l, text) })
}

// archived waits until nothing waits, pushing on with a switch where PostgreSQL rests after
// errors.
func (a *async) archived() {
	a.Helper()
	a.pg.Exec(`select pg_switch_wal()`)
	rested := 0
	pgtest.Eventually(a.T, "the archive of all WAL", func() bool {
		if rested++; rested%100 == 0 {
			a.poke()
		}
		return len(a.waiting()) == 0
	})
}

// intact makes sure that each WAL file that PostgreSQL holds archived is in the repository
// once, as it is in pg_wal, or, as excused has it, was reported dropped; it gives how many are.
// What is compared is the file itself, so the repository is not compressed.
func (a *async) intact(excused func(name string) bool) (stored, dropped int) {
	a.Helper()
	var pass cipher.Pass
	if a.global["repo1-cipher-type"] != "" {
		archive, _, _ := passes(a.T, a.repo, "demo")
		pass = cipher.NewPass(archive)
	}
	for _, name := range a.done() {
		ours, err := os.ReadFile(filepath.Join(a.pg.PGDATA, "pg_wal", name))
		if err != nil {
			continue // recycled in the meantime
		}
		found, err := filepath.Glob(filepath.Join(a.repo, "archive/demo/*/*", name+"-*"))
		if !strings.Contains(name, ".") || strings.HasSuffix(name, ".partial") {
			found = slices.DeleteFunc(found, func(f string) bool { return len(filepath.Base(f)) != len(name)+41 })
		} else {
			found, err = filepath.Glob(filepath.Join(a.repo, "archive/demo/*/*"+name))
			more, merr := filepath.Glob(filepath.Join(a.repo, "archive/demo/*/*/*"+name))
			found, err = append(found, more...), errors.Join(err, merr)
		}
		if err != nil {
			a.Fatal(err)
		}
		switch {
		case len(found) == 0 && excused != nil && excused(name):
			dropped++
		case len(found) != 1:
			a.Errorf("PostgreSQL holds %s archived, and the repository has %v of it", name, found)
		default:
			theirs, err := os.ReadFile(found[0])
			if err == nil {
				theirs, err = cipher.Open(pass, theirs)
			}
			if err != nil || !bytes.Equal(ours, theirs) {
				a.Errorf("%s in the repository is not as PostgreSQL has it: %v", name, err)
			}
			stored++
		}
	}
	return stored, dropped
}

// work writes so many megabytes of WAL and ends the segment.
func (a *async) work(megabytes int) {
	a.Helper()
	a.pg.Exec(fmt.Sprintf(`create table if not exists w (g int, what text);
insert into w select g, repeat(md5(g::text), 30) from generate_series(1, %d) g;
select pg_switch_wal()`, megabytes*1000))
}

func kill(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}
