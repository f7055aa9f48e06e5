package repo_test

import (
	"crypto/sha1"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

var control = postgres.Control{SystemID: 7, Version: 15, ControlVersion: 1300, CatalogVersion: 202209061}

const (
	firstLabel  = format.Label("20260101-000000F")
	secondLabel = format.Label("20260102-000000F")
)

// small makes the manifest of a full backup of one file.
func small(t *testing.T, label format.Label) *manifest.Manifest {
	t.Helper()
	yes := true
	m := &manifest.Manifest{
		CopyStart: 11, Start: 10, Stop: 12,
		Cluster: format.Cluster{ID: 1, SystemID: 7, Version: "15", CatalogVersion: 202209061, ControlVersion: 1300},
		Options: manifest.Options{CompressType: "none", ChecksumPage: &yes},
	}
	m.SetLabel(label, nil)
	m.Targets.Add(manifest.Target{Name: "pg_data", Path: "/pg"})
	attr := manifest.Attributes{Owner: manifest.Owner{User: "postgres", Group: "postgres"}, Mode: 0o700}
	m.Paths.Add(manifest.Path{Name: "pg_data", Attributes: attr})
	if err := m.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	attr.Mode = 0o600
	content := string(label)
	if err := m.Files.Add(manifest.File{
		Name: "pg_data/PG_VERSION", Attributes: attr, Size: int64(len(content)), RepoSize: int64(len(content)),
		Checksum: sha1.Sum([]byte(content)), Timestamp: 5,
	}); err != nil {
		t.Fatal(err)
	}
	return m
}

// store makes a whole backup.
func store(t *testing.T, st storage.Storage, label format.Label) error {
	r := open(st)
	list, err := r.BackupInfo(t.Context())
	if err != nil {
		return err
	}
	if _, _, err := r.Reconstruct(t.Context(), list); err != nil {
		return err
	}
	m := small(t, label)
	w := r.NewBackup(label)
	if err := w.SavePartial(t.Context(), m); err != nil {
		return err
	}
	if err := w.MakeDir(t.Context(), "pg_data"); err != nil {
		return err
	}
	if err := w.PutFile(t.Context(), "pg_data/PG_VERSION", "", strings.NewReader(string(label))); err != nil {
		return err
	}
	return w.Finish(t.Context(), m, list)
}

// listed gives the backups that there are, after checking that each of them is whole.
func listed(t *testing.T, st storage.Storage) []format.Label {
	t.Helper()
	r := open(st)
	list, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatalf("backup.info: %v", err)
	}
	if _, _, err := r.Reconstruct(t.Context(), list); err != nil {
		t.Fatalf("reconstruct: %v", err)
	}
	var all []format.Label
	for _, e := range list.Entries() {
		all = append(all, e.Label)
		m, err := r.Manifest(t.Context(), e.Label)
		if err != nil {
			t.Errorf("manifest of %s: %v", e.Label, err)
			continue
		}
		for f := range m.Files.All() {
			in, _, err := r.OpenFile(t.Context(), m, f)
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
				continue
			}
			got, err := io.ReadAll(in)
			if err := errors.Join(err, in.Close()); err != nil || string(got) != string(e.Label) {
				t.Errorf("%s holds %q: %v", f.Name, got, err)
			}
		}
	}
	return all
}

// TestBackupIsAllOrNothing: after any trouble the backups that are listed are whole, those
// made before are among them, and the next backup works.
func TestBackupIsAllOrNothing(t *testing.T) {
	storagetest.EachFault(t,
		func(t *testing.T, st storage.Storage) {
			if err := errors.Join(open(st).Init(t.Context(), control), store(t, st, firstLabel)); err != nil {
				t.Fatal(err)
			}
		},
		func(t *testing.T, st storage.Storage) error { return store(t, st, secondLabel) },
		func(t *testing.T, st storage.Storage, err error) {
			got := listed(t, st)
			if !slices.Contains(got, firstLabel) {
				t.Errorf("the backup made before is lost: %v", got)
			}
			if err == nil && !slices.Contains(got, secondLabel) {
				t.Errorf("the backup is lost: %v", got)
			}
			r := open(st)
			if labels, err := r.Labels(t.Context()); err != nil {
				t.Error(err)
			} else {
				for _, l := range labels {
					if !slices.Contains(got, l) { // what an interrupted one left
						if err := r.RemoveBackup(t.Context(), l); err != nil {
							t.Errorf("remove %s: %v", l, err)
						}
					}
				}
			}
			const third = format.Label("20260103-000000F")
			if err := store(t, st, third); err != nil {
				t.Fatalf("the next backup: %v", err)
			}
			if got := listed(t, st); !slices.Contains(got, third) || !slices.Contains(got, firstLabel) {
				t.Errorf("after the next backup: %v", got)
			}
		})
}

func TestInfoFallsBackToItsCopy(t *testing.T) {
	damage := func(name, content string) func(*testing.T, storage.Storage) {
		return func(t *testing.T, st storage.Storage) {
			var err error
			if content == "" {
				err = st.Remove(t.Context(), name)
			} else {
				err = st.Put(t.Context(), name, strings.NewReader(content), storage.Atomic)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	main, copied := format.BackupInfoPath("demo"), format.BackupInfoPath("demo")+format.CopySuffix
	for name, test := range map[string]struct {
		damage []func(*testing.T, storage.Storage)
		code   errs.Code
		says   []string
	}{
		"main missing":  {damage: []func(*testing.T, storage.Storage){damage(main, "")}},
		"main damaged":  {damage: []func(*testing.T, storage.Storage){damage(main, "[db]\n")}},
		"copy missing":  {damage: []func(*testing.T, storage.Storage){damage(copied, "")}},
		"both missing":  {[]func(*testing.T, storage.Storage){damage(main, ""), damage(copied, "")}, errs.FileMissing, []string{"backup.info.copy", "HINT: has a stanza-create been performed?"}},
		"both damaged":  {[]func(*testing.T, storage.Storage){damage(main, "x"), damage(copied, "y")}, errs.Format, []string{main, copied}},
		"one of a kind": {[]func(*testing.T, storage.Storage){damage(main, ""), damage(copied, "y")}, errs.Format, []string{"FileMissingError", copied}},
	} {
		t.Run(name, func(t *testing.T) {
			st := storagetest.NewMemory(time.Now)
			if err := open(st).Init(t.Context(), control); err != nil {
				t.Fatal(err)
			}
			for _, d := range test.damage {
				d(t, st)
			}
			b, err := open(st).BackupInfo(t.Context())
			if errs.CodeOf(err) != test.code {
				t.Fatalf("got %v", err)
			}
			if err == nil && b.Current().SystemID != 7 {
				t.Errorf("it is of %d", b.Current().SystemID)
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}

func TestReconstruct(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	if err := errors.Join(r.Init(t.Context(), control), store(t, st, firstLabel), store(t, st, secondLabel)); err != nil {
		t.Fatal(err)
	}
	// One has lost its manifest, another is not listed any more.
	if err := st.Remove(t.Context(), format.ManifestPath("demo", firstLabel)); err != nil {
		t.Fatal(err)
	}
	list, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list.Remove(secondLabel)
	dropped, added, err := r.Reconstruct(t.Context(), list)
	if err != nil || !slices.Equal(dropped, []format.Label{firstLabel}) || !slices.Equal(added, []format.Label{secondLabel}) {
		t.Fatalf("dropped %v, added %v, %v", dropped, added, err)
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	for name, want := range map[string]string{
		"backup/demo/x":  "backup directory not empty",
		"archive/demo/x": "archive directory not empty",
	} {
		st := storagetest.NewMemory(time.Now)
		if err := st.Put(t.Context(), name, strings.NewReader("x"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
		err := open(st).Init(t.Context(), control)
		if errs.CodeOf(err) != errs.PathNotEmpty || errs.Message(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	if err := r.Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	have, err := r.InfoFiles(t.Context())
	if err != nil || have != (repo.InfoFiles{Archive: true, ArchiveCopy: true, Backup: true, BackupCopy: true}) {
		t.Fatalf("%+v, %v", have, err)
	}
}

// TestInitIsCompleted: whatever interrupts it, making the stanza again ends well.
func TestInitIsCompleted(t *testing.T) {
	storagetest.EachFault(t, func(*testing.T, storage.Storage) {},
		func(t *testing.T, st storage.Storage) error { return open(st).Init(t.Context(), control) },
		func(t *testing.T, st storage.Storage, err error) {
			r := open(st)
			have, err2 := r.InfoFiles(t.Context())
			if err2 != nil {
				t.Fatal(err2)
			}
			if err == nil && (!have.Archive || !have.Backup) {
				t.Fatalf("success, and there is %+v", have)
			}
			switch {
			case !have.Archive && !have.ArchiveCopy && !have.Backup && !have.BackupCopy:
				err2 = r.Init(t.Context(), control)
			case !have.Backup && !have.BackupCopy:
				var done bool
				if done, err2 = r.CompleteInit(t.Context(), control); !done && err2 == nil {
					t.Fatal("not completed")
				}
			default:
				_, err2 = r.MendInfo(t.Context(), have)
			}
			if err2 != nil {
				t.Fatal(err2)
			}
			if _, err := r.BackupInfo(t.Context()); err != nil {
				t.Error(err)
			}
		})
	// What belongs to another cluster, or has been used, is not completed.
	other := control
	other.SystemID = 8
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	if err := errors.Join(r.Init(t.Context(), control), st.Remove(t.Context(), format.BackupInfoPath("demo"), format.BackupInfoPath("demo")+format.CopySuffix)); err != nil {
		t.Fatal(err)
	}
	if done, err := r.CompleteInit(t.Context(), other); done || err != nil {
		t.Fatalf("of another cluster: %t, %v", done, err)
	}
	if err := st.MakeDir(t.Context(), format.LabelDir("demo", firstLabel)); err != nil {
		t.Fatal(err)
	}
	if done, err := r.CompleteInit(t.Context(), control); done || err != nil {
		t.Fatalf("with a backup: %t, %v", done, err)
	}
	if err := st.RemoveAll(t.Context(), format.LabelDir("demo", firstLabel)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutWAL(t.Context(), id, wal(segment, []byte("x"), "none")); err != nil {
		t.Fatal(err)
	}
	if done, err := r.CompleteInit(t.Context(), control); !done || err != nil {
		t.Fatalf("with WAL only: %t, %v", done, err)
	}
}
