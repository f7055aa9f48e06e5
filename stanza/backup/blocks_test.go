package backup

import (
	"testing"

	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

func TestBlocksOf(t *testing.T) {
	const kib, mib, day = 1 << 10, 1 << 20, 24 * 60 * 60
	own := DefaultBlocks()
	own.BySize = []Step{{8 * mib, 512 * kib}, {1, 8 * kib}}
	own.ByAge = []Step{{day, 1024}, {0, 3}}
	own.Sums = []Step{{8 * kib, 16}}
	for _, c := range []struct {
		by        Blocks
		size, age int64
		block     int64
		sum       int
	}{
		{DefaultBlocks(), 0, 0, 0, 0},
		{DefaultBlocks(), 16*kib - 1, 0, 0, 0},
		{DefaultBlocks(), 16 * kib, 0, 8 * kib, 6},
		{DefaultBlocks(), 11*mib - 1, 0, 8 * kib, 6},
		{DefaultBlocks(), 11 * mib, 0, 16 * kib, 6},
		{DefaultBlocks(), 43 * mib, 0, 24 * kib, 6},
		{DefaultBlocks(), 96 * mib, 0, 32 * kib, 7},
		{DefaultBlocks(), 1 << 30, 0, 88 * kib, 7},
		{DefaultBlocks(), 1 << 40, 0, 88 * kib, 7},
		{DefaultBlocks(), 1 << 30, 7*day - 1, 88 * kib, 7},
		{DefaultBlocks(), 1 << 30, 7 * day, 176 * kib, 8},
		{DefaultBlocks(), 1 << 30, 14 * day, 352 * kib, 8},
		{DefaultBlocks(), 1 << 30, 28*day - 1, 352 * kib, 8},
		{DefaultBlocks(), 1 << 30, 28 * day, 0, 0},
		{DefaultBlocks(), 16 * kib, 14 * day, 32 * kib, 7}, // a block may be larger than the file
		{DefaultBlocks(), 16 * kib, -5, 8 * kib, 6},        // changed after the backup began
		{own, 0, 0, 0, 0},
		{own, 1, 0, 24 * kib, 16},
		{own, 8 * mib, 2 * day, 512 * mib, 16},
		{Blocks{}, 1 << 30, 0, 0, 0},
	} {
		if block, sum := c.by.of(c.size, c.age); block != c.block || sum != c.sum {
			t.Errorf("%d bytes of age %d: blocks of %d with %d, want %d with %d", c.size, c.age, block, sum, c.block, c.sum)
		}
	}
	b := DefaultBlocks()
	if full, others := b.super(format.Full), b.super(format.Incr); full != mib || others != 256*kib || b.super(format.Diff) != others {
		t.Errorf("super blocks of %d, of a full backup %d", others, full)
	}
}

// TestQueueBlocks: which files are stored in blocks, and which of them go on with the blocks of the backup before.
func TestQueueBlocks(t *testing.T) {
	const size, other = 100_000, 90_000
	for _, c := range []struct {
		name     string
		now, old manifest.File // sizes, times and blocks; Size of old 0: it was not there
		delta    bool
		off      bool  // blocks
		copied   bool  // or compared
		block    int64 // its blocks
		goesOn   bool
		refers   bool
		expected bool
	}{
		{name: "new", now: fileOf(size, 2, 8192, 0), copied: true, block: 8192},
		{name: "new and small", now: fileOf(size, 2, 0, 0), copied: true},
		{name: "the same", now: fileOf(size, 1, 8192, 0), old: fileOf(size, 1, 16384, 20), refers: true},
		{name: "of the same size", now: fileOf(size, 2, 8192, 0), old: fileOf(size, 1, 16384, 20), copied: true, block: 16384, goesOn: true, refers: true, expected: true},
		{name: "by content", now: fileOf(size, 1, 8192, 0), old: fileOf(size, 1, 16384, 20), delta: true, copied: true, block: 16384, goesOn: true, refers: true, expected: true},
		{name: "of another size", now: fileOf(size, 2, 8192, 0), old: fileOf(other, 1, 16384, 20), copied: true, block: 16384, goesOn: true, refers: true},
		{name: "at the same time", now: fileOf(size, 1, 8192, 0), old: fileOf(other, 1, 16384, 20), copied: true, block: 16384, goesOn: true, refers: true},
		{name: "less than a block", now: fileOf(9000, 2, 8192, 0), old: fileOf(size, 1, 16384, 20), copied: true, block: 8192},
		{name: "less, of the same size", now: fileOf(9000, 2, 8192, 0), old: fileOf(9000, 1, 16384, 20), copied: true, block: 16384, goesOn: true, refers: true, expected: true},
		{name: "whole, of the same size", now: fileOf(size, 2, 8192, 0), old: fileOf(size, 1, 0, 0), copied: true, refers: true, expected: true},
		{name: "whole, of another size", now: fileOf(size, 2, 8192, 0), old: fileOf(other, 1, 0, 0), copied: true, block: 8192},
		{name: "in blocks no more", now: fileOf(size, 2, 0, 0), old: fileOf(other, 1, 16384, 20), off: true, copied: true},
		{name: "in blocks no more, of the same size", now: fileOf(size, 2, 0, 0), old: fileOf(size, 1, 16384, 20), off: true, copied: true, refers: true, expected: true},
		{name: "without a map", now: fileOf(size, 2, 8192, 0), old: fileOf(size, 1, 16384, 0), copied: true, block: 16384, refers: true, expected: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			always := manifest.File{Name: "pg_data/always", Size: 1}
			var prior *manifest.Manifest
			if c.old.Size > 0 {
				c.old.Checksum, c.old.RepoSize, c.old.Bundle, c.old.BundleOffset = manifest.SHA1{7}, 5000, 3, 600
				prior = planned(t, c.old)
				prior.SetLabel(fullLabel, nil)
			}
			m := planned(t, c.now, always)
			m.BlockIncr, m.Options.Delta = !c.off, &c.delta
			m.SetLabel(incrLabel, prior)
			q, err := newQueues(m, prior, false, bundling{on: true, limit: 1 << 20, size: 1 << 20}, nil)
			if err != nil {
				t.Fatal(err)
			}
			copied := false
			for j := range q.jobs() {
				for _, f := range j.files {
					if f.name != c.now.Name {
						continue
					}
					copied = true
					b := f.blocks
					if b == nil {
						b = &blocks{}
					}
					if b.size != c.block || (b.mapSize > 0) != c.goesOn || (f.expected != manifest.SHA1{}) != c.expected || f.size != c.now.Size {
						t.Errorf("%+v, expected %x, blocks %+v", f, f.expected, b)
					}
					if c.goesOn {
						at := b.file(f.name)
						if at.Reference != fullLabel || at.Bundle != 3 || at.BundleOffset != 600 || at.RepoSize != 5000 || at.BlockMapSize != 20 ||
							b.oldSize != c.old.Size || b.old != c.old.Checksum || f.place != 3 || f.at != 600 {
							t.Errorf("it goes on with %+v", at)
						}
					}
				}
			}
			if f, _ := m.Files.Find(c.now.Name); copied != c.copied || (f.Reference == fullLabel) != c.refers || f.OriginalSize != c.now.Size {
				t.Errorf("copied %t, %+v", copied, f)
			}
		})
	}
	if b := blocksOf(manifest.File{Name: controlFile, BlockSize: 8192, BlockChecksumSize: 6}); b != nil {
		t.Errorf("pg_control is stored in blocks: %+v", b)
	}
}

// fileOf makes a file of that size and time in blocks of another, with a map of so many bytes.
func fileOf(size, time, block, mapSize int64) manifest.File {
	f := manifest.File{Name: "pg_data/base/5/1", Size: size, Timestamp: time, BlockSize: block, BlockMapSize: mapSize}
	if block > 0 {
		f.BlockChecksumSize = 6
	}
	return f
}
