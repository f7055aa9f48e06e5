package backup_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// TestBlocksChanging changes files that are stored in blocks between the time they are listed and the time they are
// copied, those in bundles and those on their own.
func TestBlocksChanging(t *testing.T) {
	s := newSite(t, pgtest.Options{Checksums: true})
	path := func(name string) string { return filepath.Join(s.PGDATA, strings.TrimPrefix(name, "pg_data/")) }
	random := rand.NewChaCha8([32]byte{})
	const small, large = 100_000, 3<<20 + 5
	kinds := []string{"same", "changed", "back", "shrinks", "emptied", "gone"}
	name := func(what string) string {
		kind, size, _ := strings.Cut(what, " ")
		return fmt.Sprintf("pg_data/base/5/9999%d.%d", slices.Index(kinds, kind)+1, len(size))
	}
	names := map[string]int64{}
	for _, kind := range kinds {
		names[kind+" small"], names[kind+" at large"] = small, large
	}
	for what, size := range names {
		content := make([]byte, size)
		random.Read(content)
		if err := os.WriteFile(path(name(what)), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	no, blocks := false, backup.DefaultBlocks()
	cfg := s.bundled()
	cfg.ChecksumPage, cfg.Blocks, cfg.Compress, cfg.CompressLevel = &no, &blocks, compress.Zstd, 3
	full, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := s.manifest(full.Label)
	for what, size := range names {
		f, _ := before.Files.Find(name(what))
		if f.Size != size || f.BlockSize != 8192 || f.BlockMapSize == 0 || (f.Bundle != 0) != (size == small) {
			t.Errorf("%s: %+v", what, f)
		}
		if strings.HasPrefix(what, "back") {
			err = os.Truncate(path(name(what)), size+8192)
		} else {
			err = os.Chtimes(path(name(what)), unix(before.CopyStart+10), unix(before.CopyStart+10))
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	cfg.Type, cfg.Delta = format.Incr, true
	cfg.Progress = func(p progress.State) {
		if p.FilesDone > 0 || p.BytesDone > 0 {
			return
		}
		var err error
		for what, size := range names {
			at := path(name(what))
			switch kind, _, _ := strings.Cut(what, " "); kind {
			case "changed":
				f, e := os.OpenFile(at, os.O_WRONLY, 0)
				if e == nil {
					_, e = f.WriteAt([]byte("changed"), 5*8192)
					e = errors.Join(e, f.Close())
				}
				err = errors.Join(err, e)
			case "back":
				err = errors.Join(err, os.Truncate(at, size))
			case "shrinks":
				err = errors.Join(err, os.Truncate(at, 3*8192))
			case "emptied":
				err = errors.Join(err, os.Truncate(at, 0))
			case "gone":
				err = errors.Join(err, os.Remove(at))
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
	incr, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := s.manifest(incr.Label)
	for what, size := range names {
		f, found := m.Files.Find(name(what))
		old, _ := before.Files.Find(name(what))
		kind, _, _ := strings.Cut(what, " ")
		right := found
		switch kind {
		case "same":
			right = f.Reference == full.Label && f.Size == size && f.RepoChecksum == old.RepoChecksum && f.OriginalSize == size
		case "back":
			right = f.Reference == full.Label && f.Size == size && f.RepoChecksum == old.RepoChecksum && f.OriginalSize == size+8192
		case "changed":
			right = f.Reference == "" && f.Size == size && f.BlockMapSize > 0 && f.RepoSize < 8192+f.BlockMapSize+50 && (f.Bundle != 0) == (size == small)
		case "shrinks": // there is a map and nothing else
			right = f.Reference == "" && f.Size == 3*8192 && f.BlockMapSize > 0 && f.RepoSize == f.BlockMapSize && f.OriginalSize == size
		case "emptied":
			right = f.Reference == "" && f.Size == 0 && f.RepoSize == 0 && f.BlockMapSize == 0 && f.BlockSize == 0 && f.Bundle == 0
		case "gone":
			right = !found
		}
		if !right {
			t.Errorf("%s: %+v, before %+v", what, f, old)
		}
		_, err := os.Stat(filepath.Join(s.dir, "backup/demo", string(incr.Label), name(what)+format.BlockExt))
		if there := size == large && (kind == "changed" || kind == "shrinks"); (err == nil) != there {
			t.Errorf("%s: %v", what, err)
		}
	}
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}
	s.restored(incr.Label)
}
