package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// command is what run runs, to be changed before it is given to exec or said.
func (s *site) command(tool string, args ...string) *exec.Cmd {
	s.Helper()
	args = append([]string{"--config=" + s.conf}, args...)
	if filepath.Base(tool) == "pgbackrest" && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--stanza") }) {
		args = append(args, "--stanza=demo")
	}
	return pgtest.Command(s.T, tool, args...)
}

// says runs pgx for a command that has to fail, and compares its exit code and the whole of
// its message, hints included, word for word.
func (s *site) says(code int, want string, args ...string) outcome {
	s.Helper()
	return s.said(code, want, s.command(pgxPath(), args...))
}

func (s *site) said(code int, want string, cmd *exec.Cmd) outcome {
	s.Helper()
	o := s.exec(cmd)
	if got := s.message("ERROR", o.all()); o.code != code || got != fmt.Sprintf("[%03d]: %s", code, want) {
		s.Errorf("%s: exit %d\n got %s\nwant [%03d]: %s\nall it said:\n%s",
			strings.Join(cmd.Args[1:], " "), o.code, got, code, want, o.all())
	}
	return o
}

// warns makes sure that one of the warnings of a command is this one.
func (s *site) warns(want string, o outcome) {
	s.Helper()
	var all []string
	for rest := o.all(); strings.Contains(rest, "WARN: "); _, rest, _ = strings.Cut(rest, "WARN: ") {
		if got := s.message("WARN", rest); !strings.HasPrefix(got, "option 'repo1-retention-full'") {
			all = append(all, got)
		}
	}
	if !slices.Contains(all, want) {
		s.Errorf("exit %d, warning\n got %s\nwant %s\nall it said:\n%s", o.code, strings.Join(all, "\n and "), want, o.all())
	}
}

var (
	continued = regexp.MustCompile(`^(?: +|HINT)`)
	sums      = regexp.MustCompile(`\b[0-9a-f]{40}\b`)
	crcs      = regexp.MustCompile(`\b0x[0-9a-f]{8}\b`)
	labels    = regexp.MustCompile(`\b\d{8}-\d{6}F\b`)
	segments  = regexp.MustCompile(`\b[0-9A-F]{24}\b`)
	relations = regexp.MustCompile(`base/5/\d+`)
	pids      = regexp.MustCompile(`\.\d+\.pgx\.tmp`)
	execID    = regexp.MustCompile(` exec-id=[0-9a-f-]+`)
)

// message gives the first message of a level as a person reads it: without time, process
// and indentation, and with what differs from run to run replaced by words.
func (s *site) message(level, text string) string {
	_, rest, found := strings.Cut(text, level+": ")
	if !found {
		return ""
	}
	lines := strings.Split(rest, "\n")
	n := 1
	for n < len(lines) && continued.MatchString(lines[n]) {
		lines[n] = strings.TrimLeft(lines[n], " ")
		n++
	}
	return s.words(execID.ReplaceAllString(strings.Join(lines[:n], "\n"), ""))
}

// words replaces what differs from run to run: the repository, the site's other files, the
// data directory, the socket's directory, the port; checksums, labels, names of
// segments, numbers of files.
func (s *site) words(text string) string {
	text = sums.ReplaceAllString(text, "SUM")
	text = crcs.ReplaceAllString(text, "CRC")
	text = labels.ReplaceAllString(text, "LABEL")
	text = segments.ReplaceAllString(text, "SEGMENT")
	text = relations.ReplaceAllString(text, "base/5/REL")
	text = pids.ReplaceAllString(text, ".PID.pgx.tmp")
	return strings.NewReplacer(
		s.repo, "REPO", s.dir, "DIR", s.pg.PGDATA, "PGDATA", s.pg.SocketDir, "SOCKETS", fmt.Sprint(s.pg.Port), "PORT",
		bin, "BIN",
	).Replace(text)
}

// closed makes a file or directory that the owner of the server cannot open.
func (s *site) closed(path string) {
	s.Helper()
	if err := os.Chown(path, 0, 0); err != nil {
		s.Fatal(err)
	}
	if err := os.Chmod(path, 0); err != nil {
		s.Fatal(err)
	}
}

// read gives the content of a file.
func (s *site) read(path string) string {
	s.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	return string(b)
}

// foreign gives everything below dir to root; everybody may read it.
func foreign(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return errors.Join(os.Lchown(path, 0, 0), os.Chmod(path, mode))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// inBackup makes sure that the server is, or is not, in a backup of ours: from PostgreSQL
// 15 on nothing but the session that began one tells.
func (s *site) inBackup(want bool) {
	s.Helper()
	got := s.pg.QueryValue(`select count(*) from pg_stat_activity where application_name like 'pgBackRest%'`) != "0"
	if got != want {
		s.Errorf("a session of a backup is there: %t, want %t", got, want)
	}
}
