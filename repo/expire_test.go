package repo_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// TestWithdrawIsAllOrNothing: whatever goes wrong a backup that is withdrawn is whole or none, and
// never looks like one under way; after success it does not come back.
func TestWithdrawIsAllOrNothing(t *testing.T) {
	storagetest.EachFault(t,
		func(t *testing.T, st storage.Storage) {
			if err := errors.Join(open(st).Init(t.Context(), control), store(t, st, firstLabel), store(t, st, secondLabel)); err != nil {
				t.Fatal(err)
			}
		},
		func(t *testing.T, st storage.Storage) error {
			r := open(st)
			list, err := r.BackupInfo(t.Context())
			if err != nil {
				return err
			}
			list.Remove(secondLabel)
			if err := r.SaveBackupInfo(t.Context(), list); err != nil {
				return err
			}
			if err := r.Withdraw(t.Context(), secondLabel); err != nil {
				return err
			}
			return r.RemoveWithdrawn(t.Context(), secondLabel)
		},
		func(t *testing.T, st storage.Storage, err error) {
			got := listed(t, st)
			if !slices.Contains(got, firstLabel) {
				t.Errorf("another backup is lost: %v", got)
			}
			if err == nil && slices.Contains(got, secondLabel) {
				t.Errorf("it is still there: %v", got)
			}
			if under, err := open(st).Interrupted(t.Context(), secondLabel); err != nil || under {
				t.Errorf("it looks as if it were under way: %t, %v", under, err)
			}
		})
}

func TestBackupInfoSettled(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	if err := errors.Join(r.Init(t.Context(), control), store(t, st, firstLabel)); err != nil {
		t.Fatal(err)
	}
	main, copied := format.BackupInfoPath("demo"), format.BackupInfoPath("demo")+format.CopySuffix
	is := func(want bool) {
		t.Helper()
		if got, err := r.BackupInfoSettled(t.Context()); got != want || err != nil {
			t.Errorf("settled %t, %v", got, err)
		}
	}
	is(true)
	for _, name := range []string{main, copied} {
		if err := st.Put(t.Context(), name, strings.NewReader("other"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
		is(false)
		if err := st.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		is(false)
		if list, err := r.BackupInfo(t.Context()); err != nil || r.SaveBackupInfo(t.Context(), list) != nil {
			t.Fatal(err)
		}
		is(true)
	}
}

func TestInterrupted(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	if err := errors.Join(r.Init(t.Context(), control), store(t, st, firstLabel)); err != nil {
		t.Fatal(err)
	}
	is := func(label format.Label, want bool) {
		t.Helper()
		if got, err := r.Interrupted(t.Context(), label); got != want || err != nil {
			t.Errorf("%s: %t, %v", label, got, err)
		}
	}
	is(firstLabel, false)
	is(secondLabel, false) // is not there
	if err := r.NewBackup(secondLabel).SavePartial(t.Context(), small(t, secondLabel)); err != nil {
		t.Fatal(err)
	}
	is(secondLabel, true)
}

func TestLatest(t *testing.T) {
	st, err := posix.New(t.TempDir(), posix.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r := open(st)
	is := func(want string) {
		t.Helper()
		if got, err := r.Latest(t.Context()); got != want || err != nil {
			t.Errorf("latest is %q, %v, want %q", got, err, want)
		}
	}
	is("")
	if err := errors.Join(r.Init(t.Context(), control), store(t, st, firstLabel), store(t, st, secondLabel)); err != nil {
		t.Fatal(err)
	}
	is(string(secondLabel))
	if err := r.SetLatest(t.Context(), firstLabel); err != nil {
		t.Fatal(err)
	}
	is(string(firstLabel))
	for range 2 {
		if err := r.SetLatest(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		is("")
	}
	// What is no link is nobody's business.
	if err := st.Put(t.Context(), format.LatestPath("demo"), strings.NewReader("x"), storage.Atomic); err != nil {
		t.Fatal(err)
	}
	is("")
}

// TestExpireArchive: what is listed of an archive can be removed, and nothing else goes.
func TestExpireArchive(t *testing.T) {
	dir := t.TempDir()
	st, err := posix.New(dir, posix.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	ctx, r := t.Context(), open(st)
	old := format.ArchiveID{Version: "14", ID: 2}
	const sum = "-0123456789012345678901234567890123456789"
	for _, name := range []string{
		"archive/demo/15-1/0000000100000000/000000010000000000000007" + sum + ".gz",
		"archive/demo/15-1/0000000100000000/000000010000000000000007.00000028.backup",
		"archive/demo/15-1/0000000100000000/000000010000000000000008.partial" + sum,
		"archive/demo/15-1/0000000100000000/000000010000000000000009" + sum + ".0123456789abcdef.pgbackrest.tmp",
		"archive/demo/15-1/0000000100000000/note",
		"archive/demo/15-1/0000000100000001/000000010000000100000000" + sum,
		"archive/demo/15-1/00000002.history",
		"archive/demo/15-1/00000003.history.0123456789abcdef.pgbackrest.tmp",
		"archive/demo/15-1/other/x",
		"archive/demo/14-2/0000000100000000/000000010000000000000007" + sum,
		"backup/demo/backup.info.0123456789abcdef.pgbackrest.tmp",
		"backup/demo/20260101-000000F/backup.manifest.0123456789abcdef.pgbackrest.tmp",
		"backup/demo/backup.history/2025/20250101-000000F.manifest.gz",
		"backup/demo/backup.history/2026/20260101-000000F.manifest.gz",
		"backup/demo/backup.history/2026/20260102-000000F.manifest.gz",
		"backup/demo/backup.history/2026/x.0123456789abcdef.pgbackrest.tmp",
		"backup/demo/backup.history/20x6/x", "backup/demo/backup.history/1999/x", "backup/demo/backup.history/2026x/x",
	} {
		if err := st.Put(ctx, name, strings.NewReader("x"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
	}

	dirs, histories, err := r.Contents(ctx, id)
	if err != nil || !slices.Equal(dirs, []string{"0000000100000000", "0000000100000001"}) || !slices.Equal(histories, []postgres.Timeline{2}) {
		t.Errorf("contents %q %v, %v", dirs, histories, err)
	}
	names, err := r.WALNames(ctx, id, dirs[0])
	if err != nil || !slices.Equal(names, []string{
		"000000010000000000000007" + sum + ".gz", "000000010000000000000007.00000028.backup", "000000010000000000000008.partial" + sum,
	}) {
		t.Errorf("names %q, %v", names, err)
	}
	for _, known := range []struct {
		id   format.ArchiveID
		want bool
	}{{id, true}, {old, true}, {format.ArchiveID{Version: "13", ID: 3}, false}} {
		if got, err := r.HasArchive(ctx, known.id); got != known.want || err != nil {
			t.Errorf("%s is there: %t, %v", known.id, got, err)
		}
	}
	years, err := r.HistoryYears(ctx)
	if err != nil || !slices.Equal(years, []string{"2025", "2026"}) {
		t.Errorf("years %q, %v", years, err)
	}
	labels, err := r.HistoryLabels(ctx, "2026")
	if err != nil || !slices.Equal(labels, []format.Label{firstLabel, secondLabel}) {
		t.Errorf("labels %q, %v", labels, err)
	}
	if left, err := r.Leftovers(ctx, time.Now().Add(-time.Hour)); left != nil || err != nil {
		t.Errorf("left already: %q, %v", left, err)
	}
	left, err := r.Leftovers(ctx, time.Now().Add(time.Hour))
	if err != nil || len(left) != 4 || slices.ContainsFunc(left, func(n string) bool { return strings.Contains(n, "manifest") }) {
		t.Errorf("left %q, %v", left, err)
	}

	if err := errors.Join(
		r.RemoveWAL(ctx, id, dirs[0], names[0], names[2]), r.RemoveWAL(ctx, id, dirs[1]), r.RemoveTimeline(ctx, id, 2), r.RemoveArchive(ctx, old),
		r.RemoveHistory(ctx, firstLabel), r.RemoveHistoryYear(ctx, "2025"), r.RemoveLeftovers(ctx, left),
	); err != nil {
		t.Fatal(err)
	}
	var remain []string
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			remain = append(remain, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	want := []string{
		"archive/demo/15-1/0000000100000000/000000010000000000000007.00000028.backup",
		"archive/demo/15-1/0000000100000000/note",
		"archive/demo/15-1/other/x",
		"backup/demo/20260101-000000F/backup.manifest.0123456789abcdef.pgbackrest.tmp",
		"backup/demo/backup.history/1999/x", "backup/demo/backup.history/2026/20260102-000000F.manifest.gz",
		"backup/demo/backup.history/2026x/x", "backup/demo/backup.history/20x6/x",
	}
	if slices.Sort(remain); err != nil || !slices.Equal(remain, want) {
		t.Errorf("there remain\n%s\nwant\n%s\n%v", strings.Join(remain, "\n"), strings.Join(want, "\n"), err)
	}
}
