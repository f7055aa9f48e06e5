package pgdata_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
)

// A cluster in small: a few directories and files, to be restored to dir.
type small struct {
	t       *testing.T
	dir     string
	log     bytes.Buffer
	target  *pgdata.Target
	layout  pgdata.Layout
	content map[string]string
}

var backupTime = time.Unix(1700000000, 0)

func newSmall(t *testing.T) *small {
	t.Helper()
	s := &small{t: t, dir: filepath.Join(t.TempDir(), "data"), content: map[string]string{
		"pg_data/PG_VERSION":      "15\n",
		"pg_data/base/1/2600":     strings.Repeat("page", 4096),
		"pg_data/base/1/empty":    "",
		"pg_data/postgresql.conf": "port = 1\n",
	}}
	names := []string{"pg_data", "pg_data/base", "pg_data/base/1", "pg_data/global", "pg_data/pg_tblspc"}
	for _, name := range names {
		s.layout.Dirs = append(s.layout.Dirs, pgdata.TargetDir{Name: name, Mode: 0o700, User: userName(t), Group: groupName(t)})
	}
	s.layout.Users, s.layout.Groups = []string{userName(t)}, []string{groupName(t)}
	s.layout.File = func(name string) (pgdata.TargetFile, bool) {
		content, ok := s.content[name]
		return s.file(name, content), ok
	}
	s.open()
	return s
}

func (s *small) open() {
	s.target = pgdata.NewTarget(pgdata.TargetConfig{
		Path: s.dir, Log: slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	s.t.Cleanup(func() { _ = s.target.Close() })
}

func (s *small) file(name, content string) pgdata.TargetFile {
	return pgdata.TargetFile{
		Name: name, User: userName(s.t), Group: groupName(s.t), Mode: 0o600,
		Size: int64(len(content)), ModTime: backupTime, SHA1: sha1.Sum([]byte(content)),
	}
}

func (s *small) begin() error {
	return s.target.Begin(s.t.Context(), s.layout, func(w io.Writer) error {
		_, err := io.WriteString(w, "marker")
		return err
	})
}

func (s *small) put(name string) error {
	return s.target.Put(s.t.Context(), s.file(name, s.content[name]), strings.NewReader(s.content[name]))
}

// matches is Match of one file.
func (s *small) matches(ctx context.Context, file pgdata.TargetFile, how pgdata.Compare) (bool, error) {
	all, err := s.target.Match(ctx, []pgdata.TargetFile{file}, how)
	return slices.Equal(all, []bool{true}), err
}

func (s *small) write(name, content string) {
	s.t.Helper()
	must(s.t, os.MkdirAll(filepath.Dir(s.dir+"/"+name), 0o700))
	must(s.t, os.WriteFile(s.dir+"/"+name, []byte(content), 0o600))
}

func (s *small) exists(name string) bool {
	_, err := os.Lstat(s.dir + "/" + name)
	return err == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code errs.Code, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", code)
	}
	if errs.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("got [%03d] %v\nwant [%03d] %s", errs.CodeOf(err), err, code, text)
	}
}

func TestRestoresIntoNothing(t *testing.T) {
	s := newSmall(t)
	recognised, err := s.target.Check(t.Context())
	if err != nil || recognised {
		t.Fatalf("check gave %v, %v", recognised, err)
	}
	must(t, s.begin())
	if !s.exists("backup.manifest") {
		t.Error("no marker")
	}
	for name := range s.content {
		must(t, s.put(name))
	}
	must(t, s.target.Write(t.Context(), "recovery.signal", nil))
	must(t, s.target.Finish(t.Context(), false))
	if s.exists("backup.manifest") {
		t.Error("the marker is still there")
	}
	for name, want := range s.content {
		at := s.dir + strings.TrimPrefix(name, "pg_data")
		got, err := os.ReadFile(at)
		must(t, err)
		if string(got) != want {
			t.Errorf("%s has other content", name)
		}
		info, err := os.Stat(at)
		must(t, err)
		if !info.ModTime().Equal(backupTime) || info.Mode() != 0o600 {
			t.Errorf("%s has time %v and mode %v", name, info.ModTime(), info.Mode())
		}
	}
	if !strings.Contains(s.log.String(), "backup does not contain 'global/pg_control' -- cluster will not start") {
		t.Error("no warning of the missing pg_control")
	}
}

func TestPreconditions(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(s *small)
		code    errs.Code
		message string
	}{
		{"running", func(s *small) { s.write("postmaster.pid", "1") }, errs.PgRunning,
			"unable to restore while PostgreSQL is running\n" +
				"HINT: presence of 'postmaster.pid' in 'DIR' indicates PostgreSQL is running.\n" +
				"HINT: remove 'postmaster.pid' only if PostgreSQL is not running."},
		{"not empty", func(s *small) { s.write("something", "") }, errs.PathNotEmpty,
			"unable to restore to path 'DIR' because it contains files\n" +
				"HINT: try using --delta if this is what you intended."},
		{"marker alone", func(s *small) { s.write("backup.manifest", "") }, 0, ""},
		{"marker is a directory", func(s *small) { s.write("backup.manifest/x", "") }, errs.PathNotEmpty, "contains files"},
		{"no permission", func(s *small) { must(s.t, os.Mkdir(s.dir, 0o500)) }, errs.PathOpen,
			"unable to restore to path 'DIR' without rwx permissions"},
		{"file in the way", func(s *small) { must(s.t, os.WriteFile(s.dir, nil, 0o700)) }, errs.FileInfo, "not a directory"},
		{"linked file", func(s *small) {
			dir := s.t.TempDir()
			must(s.t, os.WriteFile(dir+"/hba", nil, 0o600))
			s.layout.Roots = []pgdata.TargetRoot{{Name: "pg_data/hba", Path: dir, File: "hba"}}
		}, errs.FileExists, "because it already exists\nHINT: try using --delta if this is what you intended."},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSmall(t)
			c.prepare(s)
			_, err := s.target.Check(t.Context())
			if err == nil {
				err = s.begin()
			}
			if c.code == 0 {
				must(t, err)
				return
			}
			wantCode(t, err, c.code, strings.ReplaceAll(c.message, "DIR", s.dir))
			if s.exists("backup.manifest") && c.name != "marker is a directory" {
				t.Error("the target was changed")
			}
		})
	}
}

func TestNamesNeverLeaveTheTarget(t *testing.T) {
	for _, name := range []string{
		"", "/etc/passwd", "..", "../x", "pg_data/../x", "pg_data/../../etc/passwd", "pg_data//x", "pg_data/./x",
		"pg_data/x/..", "pg_data/", "other/x", "pg_data\x00", "pg_tblspc/../x", "pg_tblspc/abc/x", "pg_dataX/x",
		"pg_data/backup.manifest", "pg_data/global/pg_control.pgbackrest.tmp", "pg_data/postmaster.pid",
	} {
		wantCode(t, pgdata.CheckName(name), errs.Format, "manifest holds the name")
		s := newSmall(t)
		s.layout.Dirs = append(s.layout.Dirs, pgdata.TargetDir{Name: name, Mode: 0o700})
		wantCode(t, s.begin(), errs.Format, "manifest holds the name")
		if s.exists("") {
			t.Errorf("'%s': the target was changed", name)
		}
	}
	s := newSmall(t)
	must(t, s.begin())
	for _, name := range []string{"pg_data/../x", "other/x", "pg_tblspc/1/x", "pg_data/base/../../x", "pg_data/base/../PG_VERSION"} {
		if err := s.target.Put(t.Context(), s.file(name, "x"), strings.NewReader("x")); err == nil {
			t.Errorf("'%s' was written", name)
		}
		if _, err := s.matches(t.Context(), s.file(name, "x"), pgdata.Compare{}); err == nil {
			t.Errorf("'%s' was compared", name)
		}
	}
	for _, bad := range []pgdata.TargetRoot{
		{Name: "pg_tblspc/1", Path: "relative", Version: "PG_15_1"},
		{Name: "pg_tblspc/1", Path: "/x", Version: ".."},
		{Name: "pg_data/hba", Path: "/x", File: "../hba"},
		{Name: "pg_data/../x", Path: "/x"},
	} {
		s := newSmall(t)
		s.layout.Roots = []pgdata.TargetRoot{bad}
		if err := s.begin(); errs.CodeOf(err) != errs.Format {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

// A link planted while a restore runs is not followed, whatever it replaces.
func TestPlantedLinks(t *testing.T) {
	for _, c := range []struct{ name, planted, to string }{
		{"file", "base/1/2600", "secret"},
		{"directory", "base/1", "."},
		{"upper directory", "base", "."},
		{"inside the target", "base/1", "INSIDE"},
		{"pg_control", "global/pg_control.pgbackrest.tmp", "secret"},
		{"recovery.signal", "recovery.signal", "secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSmall(t)
			must(t, s.begin())
			outside := t.TempDir()
			must(t, os.MkdirAll(outside+"/1", 0o700))
			must(t, os.WriteFile(outside+"/secret", []byte("secret"), 0o600))
			to := filepath.Join(outside, c.to)
			if c.to == "INSIDE" {
				to = s.dir
			}
			must(t, os.RemoveAll(s.dir+"/"+c.planted))
			must(t, os.Symlink(to, s.dir+"/"+c.planted))

			// Those behind a link fail, those in the place of one replace it.
			_ = s.put("pg_data/base/1/2600")
			_, _ = s.matches(t.Context(), s.file("pg_data/base/1/2600", "secret"), pgdata.Compare{})
			_ = s.target.Put(t.Context(), s.file("pg_data/global/pg_control", "c"), strings.NewReader("c"))
			_ = s.target.Write(t.Context(), "recovery.signal", nil)
			_ = s.target.Finish(t.Context(), true)

			got, err := os.ReadFile(outside + "/secret")
			must(t, err)
			if string(got) != "secret" {
				t.Errorf("the file outside now holds '%s'", got)
			}
			for _, dir := range []string{outside, outside + "/1"} {
				entries, err := os.ReadDir(dir)
				must(t, err)
				for _, e := range entries {
					if e.Name() != "secret" && e.Name() != "1" {
						t.Errorf("'%s' was written outside", e.Name())
					}
				}
			}
			if c.to == "INSIDE" && s.exists("2600") {
				t.Error("a link inside the target was followed")
			}
		})
	}
}

// Content that another name leads to, as pg_upgrade --link leaves it, stays as it is.
func TestHardLinksAreNotWrittenThrough(t *testing.T) {
	s := newSmall(t)
	s.layout.Clean = true
	s.write("PG_VERSION", "15\n")
	s.write("base/1/2600", s.content["pg_data/base/1/2600"]+"grown")
	other := t.TempDir() + "/other"
	must(t, os.Link(s.dir+"/base/1/2600", other))
	must(t, s.begin())
	f := s.file("pg_data/base/1/2600", s.content["pg_data/base/1/2600"])
	matched, err := s.matches(t.Context(), f, pgdata.Compare{})
	must(t, err)
	if matched {
		t.Error("a file with another name was kept")
	}
	must(t, s.put(f.Name))
	got, err := os.ReadFile(other)
	must(t, err)
	if !strings.HasSuffix(string(got), "grown") {
		t.Error("the other name's content was changed")
	}
}

func TestClean(t *testing.T) {
	s := newSmall(t)
	s.layout.Clean = true
	tblspc, gone := t.TempDir(), t.TempDir()
	s.layout.Roots = []pgdata.TargetRoot{{Name: "pg_tblspc/9", Path: tblspc, Version: "PG_15_1"}}
	for _, name := range []string{"pg_tblspc", "pg_tblspc/9", "pg_tblspc/9/PG_15_1"} {
		s.layout.Dirs = append(s.layout.Dirs, pgdata.TargetDir{Name: name, Mode: 0o700, User: userName(t), Group: groupName(t)})
	}
	s.layout.Links = []pgdata.TargetLink{
		{Name: "pg_data/pg_tblspc/9", Destination: tblspc, User: userName(t), Group: groupName(t)}}

	s.write("PG_VERSION", "15\n")
	s.write("global/pg_control", "control")
	s.write("base/1/2600", "old")
	s.write("base/1/9999", "not in the backup")
	s.write("base/77/1", "not in the backup")
	s.write("postgresql.conf/in the way", "")
	s.write("pg_tblspc/x", "")
	must(t, os.Symlink(gone, s.dir+"/pg_tblspc/9"))
	must(t, os.Symlink(gone, s.dir+"/link"))
	must(t, unix.Mkfifo(s.dir+"/fifo", 0o600))
	must(t, os.WriteFile(gone+"/kept", nil, 0o600))
	must(t, os.MkdirAll(tblspc+"/PG_15_1/5", 0o700))
	must(t, os.MkdirAll(tblspc+"/PG_14_1/5", 0o700))
	must(t, os.Chmod(s.dir+"/base", 0o755))
	must(t, s.begin())

	for _, name := range []string{"global/pg_control", "base/1/9999", "base/77", "postgresql.conf", "pg_tblspc/x", "link", "fifo"} {
		if s.exists(name) {
			t.Errorf("'%s' is still there", name)
		}
	}
	for _, path := range []string{s.dir + "/PG_VERSION", s.dir + "/base/1/2600", gone + "/kept", tblspc + "/PG_14_1/5", tblspc + "/PG_15_1"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(tblspc + "/PG_15_1/5"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the tablespace was not cleaned")
	}
	if dest, err := os.Readlink(s.dir + "/pg_tblspc/9"); err != nil || dest != tblspc {
		t.Errorf("the tablespace's link leads to '%s': %v", dest, err)
	}
	info, err := os.Stat(s.dir + "/base")
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("base has mode %v", info.Mode())
	}
	for _, line := range []string{
		"remove invalid files/links/paths from '" + s.dir + "'",
		"remove invalid files/links/paths from '" + tblspc + "/PG_15_1'",
		"remove 'global/pg_control' so cluster will not start if restore does not complete",
		"remove invalid file '" + s.dir + "/base/1/9999'",
		"remove invalid link '" + s.dir + "/link'",
		"remove invalid path '" + s.dir + "/base/77'",
		"remove special file '" + s.dir + "/fifo'",
		"remove link '" + s.dir + "/pg_tblspc/9' because destination changed",
		"update mode for '" + s.dir + "/base' to 0700",
	} {
		if !strings.Contains(s.log.String(), line) {
			t.Errorf("the log lacks: %s", line)
		}
	}
	if err := s.target.Put(t.Context(), s.file("pg_tblspc/9/other/1", "x"), strings.NewReader("x")); err == nil {
		t.Error("a file was written beside the tablespace's directory")
	}
}

func TestMatch(t *testing.T) {
	const name = "pg_data/base/1/2600"
	before := pgdata.Compare{Times: true, Before: backupTime.Add(time.Second)}
	for _, c := range []struct {
		what    string
		content func(want string) string
		time    time.Time
		how     pgdata.Compare
		want    bool
	}{
		{"same", func(w string) string { return w }, time.Now(), pgdata.Compare{}, true},
		{"grown", func(w string) string { return w + "more" }, time.Now(), pgdata.Compare{}, true},
		{"shorter", func(w string) string { return w[1:] }, backupTime, pgdata.Compare{}, false},
		{"other", func(w string) string { return "x" + w[1:] }, backupTime, pgdata.Compare{}, false},
		{"force: same", func(w string) string { return w }, backupTime, before, true},
		{"force: content is not read", func(w string) string { return "x" + w[1:] }, backupTime, before, true},
		{"force: other time", func(w string) string { return w }, time.Now(), before, false},
		{"force: grown", func(w string) string { return w + "more" }, backupTime, before, false},
		{"force: changed while copied", func(w string) string { return w }, backupTime,
			pgdata.Compare{Times: true, Before: backupTime}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newSmall(t)
			s.layout.Clean = true
			s.write("PG_VERSION", "15\n")
			s.write("base/1/2600", c.content(s.content[name]))
			must(t, os.Chtimes(s.dir+"/base/1/2600", c.time, c.time))
			must(t, s.begin())
			got, err := s.matches(t.Context(), s.file(name, s.content[name]), c.how)
			must(t, err)
			if got != c.want {
				t.Fatalf("matches: %v", got)
			}
			info, err := os.Stat(s.dir + "/base/1/2600")
			must(t, err)
			if got && (info.Size() != int64(len(s.content[name])) || !info.ModTime().Equal(backupTime)) {
				t.Errorf("kept with size %d, time %v", info.Size(), info.ModTime())
			}
		})
	}
}

// TestMatchOfHoles: a file of which a selective restore has kept the size only is not taken for whole by its time. One with holes
// is, as it may be on a file system that compresses.
func TestMatchOfHoles(t *testing.T) {
	const name, size = "pg_data/base/1/2600", 1 << 20
	for _, c := range []struct {
		what string
		at   int64 // of the only page, if not below 0
		want bool
	}{{"nothing but a hole", -1, false}, {"a page in front", 0, true}, {"a page at the end", size - 8192, true}} {
		s := newSmall(t)
		s.layout.Clean = true
		s.write("PG_VERSION", "15\n")
		content := make([]byte, size)
		s.write("base/1/2600", "")
		path := s.dir + "/base/1/2600"
		must(t, os.Truncate(path, size))
		if c.at >= 0 {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			copy(content[c.at:], bytes.Repeat([]byte("page"), 2048))
			_, err = f.WriteAt(content[c.at:c.at+8192], c.at)
			must(t, errors.Join(err, f.Sync(), f.Close()))
		}
		must(t, os.Chtimes(path, backupTime, backupTime))
		must(t, s.begin())
		got, err := s.matches(t.Context(), s.file(name, string(content)), pgdata.Compare{Times: true, Before: backupTime.Add(time.Second)})
		if err != nil || got != c.want {
			t.Errorf("%s: it matches: %v, %v", c.what, got, err)
		}
		if got, err := s.matches(t.Context(), s.file(name, string(content)), pgdata.Compare{}); err != nil || !got {
			t.Errorf("%s: by its content it matches: %v, %v", c.what, got, err)
		}
	}
}

func TestPutRefusesAnotherSize(t *testing.T) {
	s := newSmall(t)
	must(t, s.begin())
	f := s.file("pg_data/base/1/2600", "content")
	wantCode(t, s.target.Put(t.Context(), f, strings.NewReader("conte")), errs.Checksum, "does not match expected size 7")
	wantCode(t, s.target.Put(t.Context(), f, strings.NewReader("content and more")), errs.Checksum, "longer than the size")
	info, err := os.Stat(s.dir + "/base/1/2600")
	if err == nil && info.Size() > f.Size {
		t.Errorf("%d bytes were written", info.Size())
	}
}

func TestZeroFileIsAHole(t *testing.T) {
	s := newSmall(t)
	must(t, s.begin())
	f := pgdata.TargetFile{Name: "pg_data/base/1/2600", Mode: 0o600, Size: 1 << 30, ModTime: backupTime, Zero: true}
	must(t, s.target.Put(t.Context(), f, nil))
	var st unix.Stat_t
	must(t, unix.Stat(s.dir+"/base/1/2600", &st))
	if st.Size != 1<<30 || st.Blocks > 64 {
		t.Errorf("size %d takes %d blocks", st.Size, st.Blocks)
	}
}

func TestCancelledPut(t *testing.T) {
	s := newSmall(t)
	must(t, s.begin())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.target.Put(ctx, s.file("pg_data/base/1/2600", "x"), strings.NewReader("x"))
	if !errors.Is(err, context.Canceled) || s.exists("base/1/2600") {
		t.Errorf("got %v", err)
	}
}

// A full file system is told with what to do, and pg_control is not there.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system of its own")
	}
	s := newSmall(t)
	must(t, os.Mkdir(s.dir, 0o700))
	if err := unix.Mount("tmpfs", s.dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("cannot mount here:", err)
	}
	defer func() { _ = unix.Unmount(s.dir, unix.MNT_DETACH) }()
	must(t, s.begin())
	must(t, s.target.Put(t.Context(), s.file("pg_data/global/pg_control", "c"), strings.NewReader("c")))
	big := strings.Repeat("x", 1<<20)
	err := s.target.Put(t.Context(), s.file("pg_data/base/1/2600", big), strings.NewReader(big))
	wantCode(t, err, errs.FileWrite, "unable to write '"+s.dir+"/base/1/2600': no space left on device\n"+
		"HINT: make room on the file system of '"+s.dir+"/base/1/2600'.\n"+
		"HINT: the cluster cannot be started until a restore completes: run it again with --delta.")
	if s.exists("global/pg_control") {
		t.Error("the cluster can start")
	}
	must(t, s.target.Close())
}
