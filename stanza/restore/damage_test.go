package restore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/stanza/restore"
)

const noneFull = "20261121-015154F"

func stored(dir, label, name string) string { return dir + "/repo/backup/demo/" + label + "/" + name }

func TestDamagedFile(t *testing.T) {
	for _, c := range []struct {
		vector, label, file string
		damage              func([]byte) []byte
		code                errs.Code
		message             string
	}{
		{"none", noneFull, "pg_data/base/1/1255", func(b []byte) []byte { b[100] ^= 1; return b }, errs.Checksum,
			"error restoring 'PGDATA/base/1/1255': actual checksum '"},
		{"none", noneFull, "pg_data/base/1/1255", func(b []byte) []byte { return b[:len(b)-1] }, errs.Checksum, "error restoring 'PGDATA/base/1/1255': "},
		{"none", noneFull, "pg_data/base/1/1255", func(b []byte) []byte { return append(b, 0) }, errs.Checksum, "error restoring 'PGDATA/base/1/1255': "},
		{"none", noneFull, "pg_data/global/pg_control", func(b []byte) []byte { b[0] ^= 1; return b }, errs.Checksum,
			"error restoring 'PGDATA/global/pg_control': actual checksum '"},
		{"timeline-gz", first, "pg_data/base/1/1255.gz", func(b []byte) []byte { b[len(b)/2] ^= 0xff; return b }, errs.Format, "error restoring 'PGDATA/base/1/1255': "},
		{"timeline-gz", first, "pg_data/base/1/1255.gz", func(b []byte) []byte { return b[:len(b)/2] }, errs.Format, "error restoring 'PGDATA/base/1/1255': "},
		{"timeline-gz", first, "pg_data/base/1/1255.gz", func([]byte) []byte { return nil }, errs.Format, "error restoring 'PGDATA/base/1/1255': "},
	} {
		t.Run(c.vector+" "+filepath.Base(c.file), func(t *testing.T) {
			dir := vector(t, c.vector)
			at := stored(dir, c.label, c.file)
			b, err := os.ReadFile(at)
			must(t, err)
			must(t, os.WriteFile(at, c.damage(b), 0o640))
			j := newJob(t, dir+"/repo")
			j.Set, j.Type = c.label, restore.None
			_, err = j.run(t)
			wantError(t, err, c.code, strings.ReplaceAll(c.message, "PGDATA", j.PGPath))
			if j.startable() || !j.exists("backup.manifest") {
				t.Error("what is left could be started, or has no marker")
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		dir := vector(t, "none")
		must(t, os.Remove(stored(dir, noneFull, "pg_data/base/1/1255")))
		j := newJob(t, dir+"/repo")
		j.Set = noneFull
		_, err := j.run(t)
		wantError(t, err, errs.FileMissing, "error restoring '"+j.PGPath+"/base/1/1255'")
		if j.startable() {
			t.Error("what is left could be started")
		}
	})
}

func TestDamagedInfoAndManifest(t *testing.T) {
	dir := vector(t, "none")
	spoil := func(path string) { must(t, os.WriteFile(path, []byte("no info file"), 0o640)) }

	spoil(dir + "/repo/backup/demo/backup.info")
	spoil(stored(dir, noneFull, "backup.manifest"))
	j := newJob(t, dir+"/repo")
	j.Set, j.Type = noneFull, restore.None
	j.mustRun(t)

	spoil(stored(dir, noneFull, "backup.manifest.copy"))
	j = newJob(t, dir+"/repo")
	j.Set = noneFull
	if _, err := j.run(t); err == nil || !strings.Contains(err.Error(), "backup.manifest.copy") || j.exists("") {
		t.Errorf("got %v", err)
	}
	spoil(dir + "/repo/backup/demo/backup.info.copy")
	_, err := j.run(t)
	wantError(t, err, errs.BackupSetInvalid, "is not valid")
}

// A manifest that somebody made up cannot write anywhere else.
func TestHostileManifest(t *testing.T) {
	outside := t.TempDir()
	const file = `pg_data/postgresql.conf={`
	for _, c := range []struct {
		name   string
		change func(string) string
		linked bool
	}{
		{"parent", func(s string) string { return strings.Replace(s, file, `pg_data/../../evil={`, 1) }, false},
		{"absolute", func(s string) string { return strings.Replace(s, file, outside+`/evil={`, 1) }, false},
		{"other tree", func(s string) string { return strings.Replace(s, file, `pg_evil/x={`, 1) }, false},
		{"tablespace out of pg_tblspc", func(s string) string {
			return strings.ReplaceAll(s, "pg_tblspc/16384/PG_15_202209061/16385={}", "pg_tblspc/16384/../../16385={}")
		}, false},
		{"link without target", func(s string) string {
			return strings.Replace(s, "[target:link]\n", "[target:link]\npg_data/pg_stat={\"destination\":\""+outside+"\"}\n", 1)
		}, false},
		{"link elsewhere than its target", func(s string) string {
			return strings.Replace(s, `{"destination":"/srv/pgdemo/ts1"}`, `{"destination":"`+outside+`"}`, 1)
		}, true},
		{"path through a file", func(s string) string {
			return strings.Replace(s, "[target:path]\n", "[target:path]\npg_data/PG_VERSION={}\n", 1)
		}, false},
		{"tablespace with a path for a name", func(s string) string {
			return strings.Replace(s, `"tablespace-name":"ts1"`, `"tablespace-name":"../../evil"`, 1)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := small(t)
			edit(t, stored(dir, noneFull, "backup.manifest"), c.change)
			j := newJob(t, dir+"/repo")
			j.Set, j.Type, j.Delta = noneFull, restore.None, true
			if c.linked {
				j.TablespaceMapAll = ""
			}
			if _, err := j.run(t); err == nil {
				t.Error("it was restored")
			} else {
				t.Logf("[%03d] %v", errs.CodeOf(err), err)
			}
			if j.exists("") {
				t.Error("something was written")
			}
			entries, err := os.ReadDir(outside)
			must(t, err)
			if len(entries) > 0 {
				t.Errorf("'%s' was written outside", entries[0].Name())
			}
			if _, err := os.Lstat(j.dir + "/evil"); !errors.Is(err, fs.ErrNotExist) {
				t.Error("'evil' was written")
			}
		})
	}
}

// stopping ends a restore at its nth step of a kind, as a signal would.
type stopping struct {
	agent.Target
	left   atomic.Int64
	cancel context.CancelFunc
}

func (s *stopping) Match(ctx context.Context, files []pgdata.TargetFile, how pgdata.Compare) ([]bool, error) {
	var all []bool
	for i := range files {
		s.step()
		matches, err := s.Target.Match(ctx, files[i:i+1], how)
		if err != nil {
			return nil, err
		}
		all = append(all, matches...)
	}
	return all, nil
}

func (s *stopping) Write(ctx context.Context, name string, content []byte) error {
	s.step()
	return s.Target.Write(ctx, name, content)
}

func (s *stopping) Finish(ctx context.Context, online bool) error {
	s.step()
	return s.Target.Finish(ctx, online)
}

func (s *stopping) step() {
	if s.left.Add(-1) == 0 {
		s.cancel()
	}
}

// However a restore ends, what it leaves does not start and the next one completes it.
func TestInterruptedRestoreIsTakenUp(t *testing.T) {
	dir := vector(t, "none")
	want := load(t, dir)
	for _, at := range []int64{1, 900, 1288, 1290} {
		j := newJob(t, dir+"/repo")
		j.Set, j.Delta = noneFull, true
		must(t, os.MkdirAll(j.PGPath, 0o700))
		must(t, os.WriteFile(j.PGPath+"/PG_VERSION", []byte("15\n"), 0o600))
		must(t, os.Mkdir(j.PGPath+"/global", 0o700))
		must(t, os.WriteFile(j.PGPath+"/global/pg_control", []byte("old"), 0o600))

		ctx, cancel := context.WithCancel(t.Context())
		j.fresh()
		s := &stopping{Target: j.Target, cancel: cancel}
		s.left.Store(at)
		j.Target = s
		_, err := restore.Run(ctx, j.Config)
		cancel()
		_ = s.Close()
		wantError(t, err, errs.Term, "")
		if j.startable() {
			t.Fatalf("stopped at step %d it can be started", at)
		}
		j.Type = restore.None
		res := j.mustRun(t)
		if at > 800 && res.Matched < 500 {
			t.Errorf("only %d files were kept", res.Matched)
		}
		if j.exists("backup.manifest") {
			t.Error("the marker is still there")
		}
		compare(t, j, want, noneFull)
	}
}
