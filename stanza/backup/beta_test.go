package backup_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// TestBetaPrior: nothing goes on with the blocks of a release before 2.46, which had another format; but with what such a release has
// stored whole.
func TestBetaPrior(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	st, err := posix.New(s.dir, posix.Refuse)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	old := repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "2.45", Poll: 50 * time.Millisecond})
	blocks, runs := backup.DefaultBlocks(), 0
	run := func(in *repo.Repo, of format.BackupType, by *backup.Blocks) format.Label {
		t.Helper()
		runs++ // something has to change
		if err := os.WriteFile(filepath.Join(s.PGDATA, "note"), make([]byte, runs), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := s.bundled()
		cfg.Repo, cfg.Type, cfg.ChecksumPage, cfg.Blocks, cfg.Compress, cfg.CompressLevel = in, of, new(bool), by, compress.Zstd, 1
		s.log.clear()
		res, err := backup.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return res.Label
	}
	full := run(old, format.Full, nil)
	if m := s.manifest(run(s.repo, format.Incr, &blocks)); m.Type != format.Incr || m.Prior != full {
		t.Errorf("on files stored whole follows a %s backup on '%s'", m.Type, m.Prior)
	}
	for _, of := range []format.BackupType{format.Incr, format.Diff} {
		beta := run(old, format.Full, &blocks)
		m := s.manifest(run(s.repo, of, nil))
		want := "backup " + string(beta) + " has files in blocks (option repo-block) as only pgBackRest 2.45 stored them, " +
			string(of) + " backup has been changed to full"
		if said := s.log.at(slog.LevelWarn); m.Type != format.Full || m.Prior != "" || !slices.Contains(said, want) {
			t.Errorf("on blocks of 2.45 follows a %s backup on '%s': %q", m.Type, m.Prior, said)
		}
	}
}
