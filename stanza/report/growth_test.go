package report_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
	"github.com/pgx-backup/pgx/stanza/report"
)

// catalogues are repositories of some hundred backups: with all WAL, with what the backups
// need, and with many timelines.
var catalogues = map[string]expiretest.Large{
	"whole":     {Fulls: 50, Incrs: 3, Segments: 3, Timelines: 1},
	"thinned":   {Fulls: 50, Incrs: 3, Segments: 3, Timelines: 1, Thin: true},
	"timelines": {Fulls: 50, Incrs: 3, Segments: 3, Timelines: 20, Thin: true},
}

func reportAll(t testing.TB, st storage.Storage, now time.Time, locks lock.Dir) error {
	open := func(name string) *repo.Repo {
		return repo.New(st, repo.Config{Key: 1, Stanza: name, Program: "pgx-test"})
	}
	q := report.Query{
		Now: now, Locks: locks,
		Dropped: func(string) ([]repo.Drop, error) {
			return []repo.Drop{{From: "000000010000000000000001", To: "000000010000000000000009", At: now.Add(-30 * time.Hour)}}, nil
		},
	}
	all, err := report.Collect(t.Context(), q, []report.Source{{Key: 1, Cipher: "none", Open: open, Storage: st}})
	if err == nil && len(all) != 1 || len(all[0].Backup) < 100 || len(all[0].Warning) > 0 {
		t.Errorf("%d stanzas: %v", len(all), all)
	}
	return errors.Join(err, report.Text(io.Discard, all, false, time.UTC), report.JSON(io.Discard, all))
}

// TestGrowth: info takes no more for each backup when there are many.
func TestGrowth(t *testing.T) {
	now := time.Now()
	locks := lock.Dir{Path: t.TempDir()}
	for name, l := range catalogues {
		t.Run(name, func(t *testing.T) {
			expiretest.Grows(t, l, now, map[string]func(storage.Storage) error{
				"info": func(st storage.Storage) error { return reportAll(t, st, now, locks) },
			})
		})
	}
}

// BenchmarkInfo reports on 10,000 backups with what WAL they need, each lacking all that follows.
func BenchmarkInfo(b *testing.B) {
	now, dir := time.Now(), b.TempDir()
	l := expiretest.Large{Fulls: 100, Diffs: 9, Incrs: 9, Segments: 9, Timelines: 20, Thin: true}
	if err := l.Make(now).Store(dir); err != nil {
		b.Fatal(err)
	}
	st, err := posix.New(dir, posix.Refuse)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	locks := lock.Dir{Path: b.TempDir()}
	for b.Loop() {
		if err := reportAll(b, st, now, locks); err != nil {
			b.Fatal(err)
		}
	}
}
