package backup_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// TestPriorMapDamaged: a backup that needs a block map that is damaged or missing says which, and that a full backup helps, as it
// does.
func TestPriorMapDamaged(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	files := map[string]int{"base/5/99991": 100_000, "base/5/99992": 3 << 20} // in a bundle, and on its own
	for name, size := range files {
		if err := os.WriteFile(filepath.Join(s.PGDATA, name), bytes.Repeat([]byte("content "), size/8), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	no, blocks := false, backup.DefaultBlocks()
	cfg := s.bundled()
	cfg.ChecksumPage, cfg.Blocks = &no, &blocks
	full, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := s.manifest(full.Label)
	var stored []string
	for name := range files {
		f, _ := m.Files.Find("pg_data/" + name)
		if f.BlockMapSize == 0 {
			t.Fatalf("%+v", f)
		}
		at := m.Stored("demo", f)
		path := filepath.Join(s.dir, at.Path)
		sound, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(s.PGDATA, name), now, now); err != nil {
			t.Fatal(err)
		}
		for what, damaged := range map[string][]byte{
			"cut off": sound[:at.MapOffset+1],
			"wrong":   append(append(bytes.Clone(sound[:at.MapOffset]), bytes.Repeat([]byte{0xff}, int(at.MapLength))...), sound[at.MapOffset+at.MapLength:]...),
			"missing": nil,
		} {
			if err = os.WriteFile(path, damaged, 0o600); damaged == nil {
				err = os.Remove(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			incr := cfg
			incr.Type = format.Incr
			_, err := backup.Run(t.Context(), incr)
			code := errs.Format
			if damaged == nil {
				code = errs.FileMissing
			}
			if text := fmt.Sprint(err); errs.CodeOf(err) != code || !strings.Contains(text, name) && !strings.Contains(text, path) || strings.Count(text, "HINT") != 1 ||
				!strings.HasSuffix(text, "\nHINT: a backup that this one would go on with is damaged: take a full backup, which does without it (pgx backup --type=full).") {
				t.Errorf("%s, %s: [%d] %s", name, what, errs.CodeOf(err), text)
			}
		}
		if err := os.WriteFile(path, sound, 0o600); err != nil {
			t.Fatal(err)
		}
		stored = append(stored, path)
	}
	for _, path := range stored {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := backup.Run(t.Context(), cfg); err != nil {
		t.Errorf("the full backup: %v", err)
	}
}
