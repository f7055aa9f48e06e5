package backup_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza/backup"
)

func TestUnfinished(t *testing.T) {
	s := newSite(t, pgtest.Options{Checksums: true})
	s.Start()
	s.fill()

	// Cancelled in the middle of copying.
	ctx, cancel := context.WithCancel(t.Context())
	cfg := s.config()
	cfg.SaveThreshold = 1
	cfg.Progress = func(p progress.State) {
		if p.FilesDone > 20 {
			cancel()
		}
	}
	if _, err := backup.Run(ctx, cfg); !errors.Is(err, context.Canceled) || errs.CodeOf(err) != errs.Term {
		t.Fatalf("error is %v", err)
	}
	s.outOfBackup()
	labels, err := s.repo.Labels(t.Context())
	if err != nil || len(labels) != 1 {
		t.Fatalf("labels are %v, error %v", labels, err)
	}
	if whole, err := s.repo.Complete(t.Context(), labels[0]); err != nil || whole {
		t.Errorf("complete %v, %v", whole, err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "backup/demo", string(labels[0]), "backup.manifest.copy")); err != nil {
		t.Error(err)
	}
	s.pgbackrest("info")

	// The session is lost.
	lost := s.config()
	lost.AliveEvery = time.Millisecond
	lost.Progress = func(p progress.State) {
		if p.FilesDone == 20 {
			s.Exec("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgBackRest%'")
		}
	}
	if _, err := backup.Run(t.Context(), lost); errs.CodeOf(err) != errs.DbQuery || !strings.Contains(err.Error(), "connection") {
		t.Fatalf("error is %v", err)
	}
	resumes := func(label format.Label) string {
		return fmt.Sprintf("resumable backup %s of same type exists -- invalid files will be removed then the backup will resume", label)
	}
	if !slices.Contains(s.log.at(slog.LevelWarn), resumes(labels[0])) {
		t.Errorf("warnings are %q", s.log.at(slog.LevelWarn))
	}
	s.outOfBackup()

	// The next backup goes on with what is there; what is damaged is stored again.
	dir := filepath.Join(s.dir, "backup/demo", string(labels[0]))
	left := s.manifest(labels[0])
	var known []string
	for f := range left.Files.All() {
		if _, err := os.Stat(filepath.Join(dir, f.Name+".gz")); err == nil && f.Size > 0 && f.Checksum != (manifest.SHA1{}) && strings.Contains(f.Name, "/base/") {
			known = append(known, f.Name)
		}
	}
	if len(known) < 10 {
		t.Fatalf("only %d files are stored", len(known))
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, known[0]+".gz"), []byte("damaged"), 0o600), os.Remove(filepath.Join(dir, known[1]+".gz")),
		os.MkdirAll(filepath.Join(dir, "bundle"), 0o700), os.WriteFile(filepath.Join(dir, "bundle/1"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "pg_data/stray.gz"), nil, 0o600), os.WriteFile(filepath.Join(dir, "pg_data/PG_VERSION"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.log.clear()
	res, err := backup.Run(t.Context(), s.config())
	if err != nil {
		t.Fatal(err)
	}
	if now, err := s.repo.Labels(t.Context()); err != nil || res.Label != labels[0] || !slices.Equal(now, labels) {
		t.Errorf("labels are %v, ours is %s, that of the interrupted one %s", now, res.Label, labels[0])
	}
	warned := s.log.at(slog.LevelWarn)
	if len(warned) != 2 || warned[0] != resumes(labels[0]) || !strings.HasPrefix(warned[1], "resumed backup file "+known[0]+" did not have expected checksum ") {
		t.Errorf("warnings are %q", warned)
	}
	taken := 0
	for _, line := range s.log.at(logging.LevelDetail) {
		if strings.HasPrefix(line, "checksum resumed file "+s.PGDATA+"/base/") {
			taken++
		}
	}
	if taken != len(known)-2 {
		t.Errorf("%d of %d files were taken as they are", taken, len(known)-2)
	}
	for _, want := range []string{
		"remove path '" + dir + "/bundle' from resumed backup",
		"remove file '" + dir + "/pg_data/stray.gz' from resumed backup (missing in manifest)",
		"remove file '" + dir + "/pg_data/PG_VERSION' from resumed backup (mismatched compression type)",
	} {
		if !slices.Contains(s.log.at(logging.LevelDetail), want) {
			t.Errorf("nothing says '%s'", want)
		}
	}
	for _, name := range []string{"bundle", "pg_data/stray.gz", "pg_data/PG_VERSION"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("'%s' is still there: %v", name, err)
		}
	}
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}
	s.restored(res.Label)
}

// TestNotResumed: what cannot be resumed is removed, and the log says why.
func TestNotResumed(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	for _, c := range []struct {
		name   string
		of     format.BackupType // of the next backup
		leave  func(dir string) error
		change func(*backup.Config)
		want   string
		level  slog.Level
	}{
		{"disabled", format.Full, nil, func(c *backup.Config) { c.Resume = false }, "resume is disabled", slog.LevelInfo},
		{"compression", format.Full, nil, func(c *backup.Config) { c.Compress, c.CompressLevel = compress.LZ4, 1 }, "new compression 'lz4' does not match resumable compression 'gz'", slog.LevelWarn},
		{"without manifest", format.Full, func(dir string) error { return os.Remove(dir + "/backup.manifest.copy") }, nil, "partially deleted by prior resume or invalid", slog.LevelWarn},
		{"damaged manifest", format.Full, func(dir string) error { return os.WriteFile(dir+"/backup.manifest.copy", []byte("[x]\n"), 0o600) }, nil, "unable to read DIR/backup.manifest.copy", slog.LevelWarn},
		{
			"another program", format.Full, nil, func(c *backup.Config) {
				c.Repo = repo.New(s.repo.Storage(), repo.Config{Key: 1, Stanza: "demo", Program: "9.9", Poll: time.Millisecond})
			},
			"new pgBackRest version '9.9' does not match resumable pgBackRest version '2.60.0pgx'", slog.LevelWarn,
		},
		{"incr", format.Incr, nil, nil, "resume only valid for full backup", slog.LevelInfo},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.of == format.Incr {
				first := s.config()
				first.Online = false
				if _, err := backup.Run(t.Context(), first); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(s.PGDATA, "note"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cut := s.config()
			cut.Online, cut.SaveThreshold = false, 1
			cut.Progress = func(p progress.State) {
				if p.FilesDone > 20 {
					cancel()
				}
			}
			if _, err := backup.Run(ctx, cut); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			labels, err := s.repo.Labels(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			interrupted := labels[len(labels)-1]
			dir := filepath.Join(s.dir, "backup/demo", string(interrupted))
			if c.leave != nil {
				if err := c.leave(dir); err != nil {
					t.Fatal(err)
				}
			}
			s.log.clear()
			cfg := s.config()
			cfg.Online, cfg.Type = false, c.of
			if c.change != nil {
				c.change(&cfg)
			}
			res, err := backup.Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("backup '%s' cannot be resumed: %s", interrupted, strings.ReplaceAll(c.want, "DIR", dir))
			if !slices.Contains(s.log.at(c.level), want) {
				t.Errorf("the log is %q", s.log.lines)
			}
			for f := range s.manifest(res.Label).Files.All() {
				if f.Reference == interrupted {
					t.Errorf("'%s' refers to what was removed", f.Name)
				}
			}
			if res.Label != interrupted {
				if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("'%s' is still there: %v", dir, err)
				}
			}
			if err := s.repo.RemoveBackup(t.Context(), res.Label); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestResumedByContent: what an interrupted run was to compare by content, and did not come to,
// the next does not take for compared because its time is the same.
func TestResumedByContent(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	path, at := filepath.Join(s.PGDATA, "note"), time.Now().Add(-time.Hour)
	write := func(content byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, bytes.Repeat([]byte{content}, 32<<20), 0o644), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second)
	}
	cut := func(delta bool, files int) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		cfg := s.config()
		cfg.Online, cfg.Delta, cfg.SaveThreshold, cfg.ProcessMax = false, delta, 1, 1
		cfg.Progress = func(p progress.State) {
			if p.FilesDone >= files {
				cancel()
			}
		}
		if _, err := backup.Run(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	write('a')
	cut(false, 20) // the largest file is first
	write('b')
	cut(true, 0)
	cfg := s.config()
	cfg.Online = false
	res, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.log.at(slog.LevelWarn), "backup "+string(res.Label)+" was interrupted with delta checksum, enabling delta checksum") {
		t.Errorf("warnings are %q", s.log.at(slog.LevelWarn))
	}
	f, _ := s.manifest(res.Label).Files.Find("pg_data/note")
	if want := sha1.Sum(bytes.Repeat([]byte{'b'}, 32<<20)); f.Checksum != want {
		t.Errorf("the backup has an old content: %+v", f)
	}
	taken := slices.ContainsFunc(s.log.at(logging.LevelDetail), func(l string) bool { return strings.HasPrefix(l, "checksum resumed file ") })
	if !taken {
		t.Error("nothing was resumed")
	}
}
