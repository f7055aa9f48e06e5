package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/crashtest"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// everyStep says that crash tests visit every step, which takes many minutes. Else they
// leave out steps that change nothing a process killed there would leave otherwise than the
// step before, and visit a sample of those of which there is one for each file.
var everyStep = os.Getenv("PGX_TEST_LONG") != ""

// killAfter runs a tool that is killed with -9 when its nth step has happened. reached is
// false if it had fewer; then it must have succeeded.
func (s *site) killAfter(tr crashtest.Trace, n int, tool string, args ...string) (at crashtest.Step, reached bool) {
	s.Helper()
	cmd := s.command(tool, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	at, reached, err := tr.KillAfter(cmd, n)
	if err != nil {
		s.Fatalf("%s, step %d: %v\n%s", cmd, n, err, out.String())
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); reached && status.Signal() != syscall.SIGKILL {
		s.Fatalf("%s, killed after step %d (%s), ended with %v\n%s", cmd, n, at, cmd.ProcessState, out.String())
	}
	return at, reached
}

// steps runs a tool, which has to succeed, and gives its steps.
func (s *site) steps(tr crashtest.Trace, tool string, args ...string) []crashtest.Step {
	s.Helper()
	cmd := s.command(tool, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	steps, err := tr.Steps(cmd)
	if err != nil || len(steps) == 0 {
		s.Fatalf("%s: %v, %d steps\n%s", cmd, err, len(steps), out.String())
	}
	return steps
}

// changes says whether a step changes what is there, or only makes it durable.
func changes(step crashtest.Step) bool { return !strings.Contains(step.Call, "sync") }

// choose gives the numbers of the steps to kill after: all, or the ones that change
// something and of those for which many is true, one for each file or directory, a few.
func choose(steps []crashtest.Step, few int, many func(crashtest.Step) bool) []int {
	var chosen, mass []int
	for i, step := range steps {
		switch {
		case everyStep:
			chosen = append(chosen, i+1)
		case many(step):
			mass = append(mass, i+1)
		case changes(step):
			chosen = append(chosen, i+1)
		}
	}
	for i := range min(few, len(mass)) {
		chosen = append(chosen, mass[(2*i+1)*len(mass)/(2*few)])
	}
	slices.Sort(chosen)
	return chosen
}

// TestCrashArchivePush: wherever archive-push is killed or a call of it fails, PostgreSQL's next
// try succeeds, and then the archive holds the file once and as it was.
func TestCrashArchivePush(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		codec string
		file  string // of a number
		more  map[string]string
	}{
		{"in a new directory", "lz4", "00000001%08X00000001", nil},
		{"in a directory that is there", "none", "0000000100000000%08X", nil},
		{"partial", "gz", "0000000100000000%08X.partial", nil},
		{"history", "zst", "%08X.history", nil},
		{"encrypted", "zst", "00000001%08X00000001", encrypted(nil)},
		{"encrypted history", "none", "%08X.history", encrypted(nil)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"archive_command": "true"}},
				merged(map[string]string{"compress-type": row.codec}, row.more))
			_, path, _ := s.segment()
			segment := []byte(s.read(path))
			s.pg.Stop(pgtest.Fast)
			wal := s.empty("wal")

			acknowledged := map[string]string{} // content by name
			number := 0xF0
			next := func() (path, content string) {
				number++
				name := fmt.Sprintf(row.file, number)
				content = fmt.Sprintf("%d\t0/%X\tcrash test\n", 1, number)
				if !strings.HasSuffix(name, ".history") {
					content = string(segment[:len(segment)-len(content)]) + content
				}
				path = filepath.Join(wal, name)
				s.write(path, content)
				return path, content
			}
			// settled pushes once more and looks at what is there.
			settled := func(at any, path, content string) {
				t.Helper()
				name := filepath.Base(path)
				if o := s.run(pgxPath(), "archive-push", path); o.code != 0 {
					t.Errorf("after %v: pushed again: exit %d\n%s", at, o.code, o.all())
					return
				}
				acknowledged[name] = content
				if found := s.archiveObjects(name); len(found) != 1 {
					t.Errorf("after %v: stored are %q", at, found)
				}
				s.gets(pgxPath(), name, content)
			}

			tr := crashtest.Trace{Under: s.repo, Writes: true}
			n := 0
			for reached := true; reached; {
				n++
				path, content := next()
				name := filepath.Base(path)
				var at crashtest.Step
				if at, reached = s.killAfter(tr, n, pgxPath(), "archive-push", path); !reached {
					acknowledged[name] = content
					break
				}
				switch found := s.archiveObjects(name); {
				case len(found) > 1:
					t.Errorf("after %v: stored are %q", at, found)
				case len(found) == 1:
					s.gets(pgxPath(), name, content)
				default:
					if o := s.run(pgxPath(), "archive-get", name, filepath.Join(s.dir, "got")); o.code != 1 {
						t.Errorf("after %v: archive-get: exit %d\n%s", at, o.code, o.all())
					}
				}
				settled(at, path, content)
			}
			if n < 6 {
				t.Errorf("only %d steps", n-1)
			}

			for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
				for n, reached := 1, true; reached; n++ {
					path, content := next()
					cmd := s.command(pgxPath(), "archive-push", path)
					var out bytes.Buffer
					cmd.Stdout, cmd.Stderr = &out, &out
					var at crashtest.Step
					var err error
					at, reached, err = tr.FailAt(cmd, n, errno)
					var exit *exec.ExitError
					switch {
					case !reached:
						if err != nil {
							t.Errorf("nothing fails: %v\n%s", err, out.String())
						}
					case !errors.As(err, &exit) || exit.ExitCode() < 1:
						t.Errorf("%v fails with %v: %v\n%s", at, errno, err, out.String())
					case !strings.Contains(out.String(), s.repo) || !strings.Contains(out.String(), errno.Error()):
						t.Errorf("%v fails with %v, but it says\n%s", at, errno, out.String())
					}
					if reached {
						if errno == syscall.ENOSPC && !strings.Contains(out.String(), "free space") {
							t.Errorf("%v fails with %v, without a hint:\n%s", at, errno, out.String())
						}
						if left := s.temporary("archive", filepath.Base(path)); len(left) > 0 {
							t.Errorf("%v fails with %v, left are %q", at, errno, left)
						}
					}
					settled(at, path, content)
				}
			}

			for name, content := range acknowledged {
				s.gets(pgtest.Reference(t), name, content)
			}
			s.verified()
		})
	}
}

// archiveObjects gives the objects under which a WAL file is in the repository.
func (s *site) archiveObjects(name string) []string {
	s.Helper()
	if filepath.Ext(name) != ".history" {
		return s.stored(name)
	}
	found, err := filepath.Glob(filepath.Join(s.repo, "archive", "demo", "*", name))
	if err != nil {
		s.Fatal(err)
	}
	return found
}

// gets makes sure that a tool finds a WAL file in the archive, and as it was.
func (s *site) gets(tool, name, content string) {
	s.Helper()
	to := filepath.Join(s.dir, "got")
	_ = os.Remove(to)
	if o := s.run(tool, "archive-get", name, to); o.code != 0 {
		s.Errorf("%s archive-get %s: exit %d\n%s", filepath.Base(tool), name, o.code, o.all())
	} else if s.read(to) != content {
		s.Errorf("%s archive-get %s gives other content", filepath.Base(tool), name)
	}
}

// temporary gives the temporary files below a directory of the repository whose names
// begin with prefix.
func (s *site) temporary(dir, prefix string) []string {
	s.Helper()
	var found []string
	for name := range tree(s.T, filepath.Join(s.repo, dir)) {
		if base := filepath.Base(name); strings.HasPrefix(base, prefix) && strings.HasSuffix(base, ".tmp") {
			found = append(found, name)
		}
	}
	return found
}

// verified makes sure that pgbackrest finds nothing wrong in the repository.
func (s *site) verified() {
	s.Helper()
	o := s.run(pgtest.Reference(s.T), "verify", "--output=text")
	if o.code != 0 || strings.TrimSpace(o.out) != "" {
		s.Errorf("pgbackrest verify: exit %d\n%s", o.code, o.all())
	}
}

// TestCrashStanzaCreate: wherever stanza-create is killed, running it again makes the stanza,
// also when the server has archived in between.
func TestCrashStanzaCreate(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"archive_command": "true"}}, nil)
	s.pg.Start()
	name, path, _ := s.segment()
	segment := filepath.Join(s.dir, name)
	s.cp(path, segment) // the server goes on writing to it
	for _, c := range []struct {
		archives bool
		global   map[string]string
	}{{false, nil}, {true, nil}, {true, encrypted(nil)}} {
		s.configure(c.global)
		for n := 1; ; n++ {
			if err := os.RemoveAll(s.repo); err != nil {
				t.Fatal(err)
			}
			at, reached := s.killAfter(crashtest.Trace{Under: s.dir}, n, pgxPath(), "stanza-create")
			if !reached {
				break
			}
			if c.archives && s.run(pgxPath(), "archive-push", segment).code != 0 {
				continue // there is no archive.info yet
			}
			o := s.run(pgxPath(), "stanza-create")
			if o.code != 0 {
				t.Errorf("killed after %v: exit %d\n%s", at, o.code, o.all())
				continue
			}
			s.must(pgtest.Reference(t), "stanza-create") // finds it valid
			s.must(pgxPath(), "archive-push", segment)
			if found := s.stored(filepath.Base(segment)); len(found) != 1 {
				t.Errorf("killed after %v: stored are %q", at, found)
			}
			if left := s.temporary("", ""); len(left) > 1 {
				t.Errorf("killed after %v: left are %q", at, left)
			}
		}
	}
}

// TestCrashPostgres: when PostgreSQL is killed while it is backed up, the backup ends soon,
// says why and is not listed; the next one works.
func TestCrashPostgres(t *testing.T) {
	t.Parallel()
	s := crashSite(t)
	before := s.backups(pgxPath())
	cmd := s.command(pgxPath(), "backup", "--type=full")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// It has saved the first manifest and is about to copy. Stopped, it gets no further
	// until the server is gone.
	for deadline := time.Now().Add(time.Minute); len(s.labelDirs()) == len(before); {
		if time.Now().After(deadline) {
			t.Fatalf("no backup begins\n%s", out.String())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.pg.Kill()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Errorf("the backup goes on without PostgreSQL")
		_ = cmd.Process.Kill()
		<-ended
	}
	got := s.message("ERROR", out.String())
	if code := cmd.ProcessState.ExitCode(); code < 1 || !strings.Contains(got, "PostgreSQL") && !strings.Contains(got, "connection") {
		t.Errorf("exit %d\n%s", code, out.String())
	}
	s.pg.Start()
	s.must(pgxPath(), "backup", "--type=full")
	if after := s.backups(pgxPath()); len(after) != len(before)+1 {
		t.Errorf("backups were %q, are %q", before, after)
	}
	s.tidy()
	s.verified()
}

// crashSite is a site with one backup and few files: it has no database but postgres, of
// which the configuration excludes the tables.
func crashSite(t *testing.T) *site {
	t.Helper()
	return crashSiteAs(t, nil)
}

// crashSiteAs is crashSite with more options.
func crashSiteAs(t *testing.T, more map[string]string) *site {
	t.Helper()
	s := newSite(t, pgtest.Options{WALSegSize: 1}, merged(map[string]string{"process-max": "1", "exclude": "base/5/"}, more))
	for _, name := range []string{"template0", "template1"} {
		s.pg.Exec("alter database " + name + " is_template false; drop database " + name)
	}
	if got := s.pg.QueryValue(`select string_agg(oid::text, ' ') from pg_database`); got != "5" {
		t.Fatalf("databases are %s", got)
	}
	s.must(pgxPath(), "backup", "--type=full")
	return s
}

// backups gives the labels that a tool lists, after checking that it sees no backup under way.
func (s *site) backups(tool string) []string {
	s.Helper()
	var stanzas []struct {
		Backup []struct{ Label string }
		Status struct {
			Message string
			Lock    struct{ Backup struct{ Held bool } }
		}
	}
	if err := json.Unmarshal([]byte(s.must(tool, "info", "--output=json")), &stanzas); err != nil {
		s.Fatal(err)
	}
	if len(stanzas) != 1 || stanzas[0].Status.Message != "ok" || stanzas[0].Status.Lock.Backup.Held {
		s.Errorf("%s info: %+v", filepath.Base(tool), stanzas)
	}
	var labels []string
	for _, b := range stanzas[0].Backup {
		labels = append(labels, b.Label)
	}
	return labels
}

// labelDirs gives the directories of backups in the repository, finished or not.
func (s *site) labelDirs() []string {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.repo, "backup", "demo", "????????-??????F*"))
	if err != nil {
		s.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}
