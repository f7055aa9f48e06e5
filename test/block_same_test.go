package test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// TestSameBlocks: both tools make a full backup and two more of one stopped cluster, each in a repository
// of its own. Which files are stored in blocks, of what size, which blocks each backup stores and how they are gathered is
// the same; and so, nearly, is the space that takes.
func TestSameBlocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options map[string]string
	}{
		{name: "defaults"},
		{name: "own sizes", options: map[string]string{
			"repo1-block-size-map": "1B=8KiB\nrepo1-block-size-map=1MiB=128KiB", "repo1-block-age-map": "20=3\nrepo1-block-age-map=1=2",
			"repo1-block-checksum-size-map": "64KiB=16", "repo1-block-size-super": "32KiB", "repo1-block-size-super-full": "200KiB",
			"repo1-bundle-limit": "64KiB", "repo1-bundle-size": "1MiB",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Options{Checksums: true}, nil)
			s.fill()
			s.pg.Stop(pgtest.Fast)
			blocks := &blockFiles{site: s, random: rand.New(rand.NewPCG(1, 2)), clock: time.Now().Add(-time.Hour)}
			blocks.begin()

			ours, theirs := s.in(t, c.name+" ours"), s.in(t, c.name+" theirs")
			for _, one := range []*site{ours, theirs} {
				one.repo = filepath.Join(one.dir, "repo")
				one.configure(merged(map[string]string{
					"repo1-retention-full": "9", "repo1-bundle": "y", "repo1-block": "y", "compress-type": "zst",
				}, c.options))
				one.must(pgxPath(), "stanza-create", "--no-online")
			}
			kinds, labels := []string{"full", "diff", "incr"}, map[*site][]string{}
			for n, kind := range kinds {
				if n > 0 {
					blocks.change(n)
				}
				args := []string{"backup", "--type=" + kind, "--no-online", "--no-expire-auto"}
				ours.must(pgxPath(), args...)
				theirs.must(pgtest.Reference(t), args...)
				ours.sameBlocks(theirs, kind)
				for _, one := range []*site{ours, theirs} {
					labels[one] = append(labels[one], one.label())
				}
			}
			ours.verified()
			for n, kind := range kinds {
				restored := func(one *site, tool string) map[string]node {
					dir := one.restore(kind+filepath.Base(filepath.Dir(tool)), tool, "--set="+labels[one][n], "--type=none")
					defer os.RemoveAll(dir)
					return tree(t, dir)
				}
				want := restored(theirs, pgtest.Reference(t))
				same(t, restored(ours, pgtest.Reference(t)), want, nil)
				same(t, restored(ours, pgxPath()), want, nil)
			}
		})
	}
}

// blockFiles are files in a data directory that are stored in blocks.
type blockFiles struct {
	*site
	random *rand.Rand
	clock  time.Time
}

func (b *blockFiles) path(name string) string { return filepath.Join(b.pg.PGDATA, name) }

// put makes a file of a size and an age.
func (b *blockFiles) put(name string, size int, age time.Duration) {
	b.Helper()
	b.site.write(b.path(name), string(b.content(size)))
	b.aged(name, age)
}

// content gives bytes that compress as those of tables do.
func (b *blockFiles) content(size int) []byte {
	text := make([]byte, 0, size+40)
	for n := 0; len(text) < size; n++ {
		text = fmt.Appendf(text, "%08d row %016x\x00\x00\x00\x01", n, b.random.Uint64()>>16)
	}
	return text[:size]
}

func (b *blockFiles) aged(name string, age time.Duration) {
	b.Helper()
	if err := os.Chtimes(b.path(name), b.clock, b.clock.Add(-age)); err != nil {
		b.Fatal(err)
	}
}

// write changes a file at an offset; it is as new as can be then.
func (b *blockFiles) write(name string, offset int64, size int, n int) {
	b.Helper()
	content := b.content(size)
	if size == 2 {
		content[0] = 0x80 | byte(b.random.Uint32()) // in none of the content
	}
	f, err := os.OpenFile(b.path(name), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(content, offset)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.aged(name, -time.Duration(n)*time.Minute)
}

const day = 24 * time.Hour

// begin makes the files, in all sizes that matter.
func (b *blockFiles) begin() {
	for _, f := range []struct {
		name string
		size int
		age  time.Duration
	}{
		{"below", 16<<10 - 1, 0}, {"least", 16 << 10, 0}, {"odd", 100_001, 0}, {"untouched", 300_000, 0}, {"touched", 3 << 20, 0},
		{"small-touched", 200_000, 0}, {"larger", 11 << 20, 0}, {"largest", 43<<20 + 5, 0}, {"grows", 500_000, 0}, {"shrinks", 500_000, 0},
		{"vanishes", 500_000, 0}, {"less-than-block", 70_000, 8 * day}, {"week", 5 << 20, 8 * day}, {"fortnight", 3 << 20, 15 * day},
		{"month", 3 << 20, 29 * day}, {"whole-grows", 10_000, 0}, {"whole-month", 100_000, 29 * day}, {"empties", 50_000, 0}, {"fills", 0, 0},
	} {
		b.put(f.name, f.size, f.age)
	}
}

// change changes them before the nth backup.
func (b *blockFiles) change(n int) {
	for name, offsets := range map[string][]int64{
		"least": {8192 + 5}, "odd": {3 * 8192, 100_000}, "larger": {0, 5 << 20, 5<<20 + 100, 7<<20 + 8191},
		"largest": {int64(n) << 20, 20 << 20, 43 << 20}, "week": {1 << 20}, "fortnight": {2 << 20}, "month": {1 << 20},
		"grows": {500_000 + int64(n-1)*30_000}, "whole-grows": {10_000 + int64(n-1)*30_000}, "below": {5},
	} {
		for _, at := range offsets {
			size := 2
			if at >= 10_000 && (name == "grows" || name == "whole-grows") {
				size = 30_000
			}
			b.write(name, at, size, n)
		}
	}
	for name, size := range map[string]int64{"shrinks": 500_000 - int64(n)*8192, "less-than-block": int64(20_000 / n), "empties": 0, "whole-month": 100_000 - int64(n)} {
		if err := os.Truncate(b.path(name), size); err != nil {
			b.Fatal(err)
		}
		b.aged(name, -time.Duration(n)*time.Minute)
	}
	b.aged("touched", -time.Duration(n)*time.Minute)
	b.aged("small-touched", -time.Duration(n)*time.Minute)
	if n == 1 {
		b.put("new", 200_000, 0)
		b.put("fills", 60_000, -time.Minute)
		if err := os.Remove(b.path("vanishes")); err != nil {
			b.Fatal(err)
		}
	} else {
		b.put("vanishes", 500_000, 0)
	}
}

// sameBlocks compares the newest backup of two repositories.
func (s *site) sameBlocks(other *site, kind string) {
	s.Helper()
	ours, theirs := manifests(s.T, s.repo, "demo", []string{s.label()}, false)[0], manifests(s.T, other.repo, "demo", []string{other.label()}, false)[0]
	if !ours.Bundle || !ours.BlockIncr || !ours.BundleRaw {
		s.Errorf("%s: bundle %t, blocks %t, raw %t", kind, ours.Bundle, ours.BlockIncr, ours.BundleRaw)
	}
	inBlocks, own := 0, 0
	for want := range theirs.Files.All() {
		f, found := ours.Files.Find(want.Name)
		switch {
		case !found:
			s.Errorf("%s: '%s' is missing", kind, want.Name)
			continue
		case f.Size == 0 && want.Size == 0, strings.HasSuffix(f.Name, "/pg_control"):
			continue // the first is nowhere, the other always whole
		}
		got, want := s.blockRow(ours, f), other.blockRow(theirs, want)
		if got != want {
			s.Errorf("%s: '%s' is\n%s, not\n%s", kind, f.Name, got, want)
		}
		if f.BlockMapSize > 0 {
			inBlocks++
		}
		if f.Reference == "" {
			own++
		}
	}
	if ours.Files.Len() != theirs.Files.Len() || inBlocks < 200 {
		s.Errorf("%s: %d files, not %d, of them %d in blocks", kind, ours.Files.Len(), theirs.Files.Len(), inBlocks)
	}
	a, b := s.heldBytes(string(ours.Label)), other.heldBytes(string(theirs.Label))
	s.Logf("%s: %d files stored in %d bytes, %.3f times those of pgbackrest", kind, own, a, float64(a)/float64(b))
	if float64(a) > 1.05*float64(b) {
		s.Errorf("%s: %d bytes are stored, not %d", kind, a, b)
	}
}

// heldBytes gives the bytes of a backup in the repository, without manifests.
func (s *site) heldBytes(label string) (size int64) {
	s.Helper()
	for name, n := range tree(s.T, filepath.Join(s.repo, "backup/demo", label)) {
		if n.mode&fs.ModeType == 0 && filepath.Base(name) != "backup.manifest" && filepath.Base(name) != "backup.manifest.copy" {
			size += n.size
		}
	}
	return size
}

// blockRow says how a file is stored, without what depends on the compressor.
func (s *site) blockRow(m *manifest.Manifest, f manifest.File) string {
	s.Helper()
	row := fmt.Sprintf("%d bytes of %d, %x, changed at %d, held by backup %d, bundled %t, blocks of %d with %d, map %t", f.Size, f.OriginalSize, f.Checksum,
		f.Timestamp, slices.Index(m.References, f.Reference), f.Bundle != 0, f.BlockSize, f.BlockChecksumSize, f.BlockMapSize > 0)
	if f.BlockMapSize == 0 {
		return row
	}
	for n, item := range s.blockMap(m, f).Items {
		if n > 0 && n%8 == 0 {
			row += "\n"
		}
		row += fmt.Sprintf(" %d/%d/%d/%t", item.Reference, item.SuperSize, item.Index, item.Bundle != 0)
	}
	return row
}

// blockMap reads the block map of a file of an unencrypted repository.
func (s *site) blockMap(m *manifest.Manifest, f manifest.File) *block.Map {
	s.Helper()
	at := m.Stored("demo", f)
	in, err := os.Open(filepath.Join(s.repo, at.Path))
	if err != nil {
		s.Fatal(err)
	}
	defer in.Close()
	text := make([]byte, at.MapLength)
	if _, err := in.ReadAt(text, at.MapOffset); err != nil {
		s.Fatal(err)
	}
	blocks, err := block.Parse(text, -1, f.BlockSize, f.BlockChecksumSize)
	if err != nil {
		s.Fatalf("'%s': %v", f.Name, err)
	}
	return blocks
}
