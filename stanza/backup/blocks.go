package backup

import (
	"context"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Blocks says how files are stored in blocks, of which the next backups hold only those that have
// changed [repo-block and the options whose names begin so]. Of a list the first step counts that is
// reached, so the largest comes first. Sizes are bytes.
type Blocks struct {
	// BySize gives the size of the blocks by that of the file, a multiple of block.Unit; a file that reaches
	// no step is stored whole.
	BySize []Step

	// ByAge gives what that is multiplied by, by the seconds since the file was changed. 0 is for
	// files that are stored whole.
	ByAge []Step

	// Sums gives the size of a block's checksum by that of the blocks, below all steps it is the least.
	Sums []Step

	// Super is how much of a file is compressed together at least, SuperFull the same in full backups.
	Super, SuperFull int64
}

// Step is a row of a list: To counts from From on.
type Step struct{ From, To int64 }

// DefaultBlocks gives the lists of pgBackRest. Blocks grow with the file, so that the map of its blocks,
// which each backup has to read and write, does not outgrow a block; and with the time a file was left
// alone, as it will probably be left alone for longer.
func DefaultBlocks() Blocks {
	const kib, mib, day = 1 << 10, 1 << 20, 24 * 60 * 60
	return Blocks{
		BySize: []Step{
			{914 * mib, 88 * kib}, {740 * mib, 80 * kib}, {585 * mib, 72 * kib}, {448 * mib, 64 * kib},
			{329 * mib, 56 * kib}, {228 * mib, 48 * kib}, {146 * mib, 40 * kib}, {96 * mib, 32 * kib},
			{43 * mib, 24 * kib}, {11 * mib, 16 * kib}, {16 * kib, 8 * kib},
		},
		ByAge: []Step{{28 * day, 0}, {14 * day, 4}, {7 * day, 2}},
		Sums: []Step{
			{4 * mib, 12}, {2 * mib, 11}, {mib, 10}, {512 * kib, 9}, {128 * kib, 8}, {32 * kib, 7},
		},
		Super: 256 * kib, SuperFull: mib,
	}
}

// of gives the size of the blocks of a file, and of their checksums, by its size and the seconds since it was
// changed; 0 for a file that is stored whole.
func (b *Blocks) of(size, age int64) (blockSize int64, sumSize int) {
	blockSize, found := reached(b.BySize, size)
	if !found || size == 0 {
		return 0, 0
	}
	if factor, found := reached(b.ByAge, age); found {
		blockSize *= min(factor, block.MaxSize/blockSize)
	}
	if blockSize == 0 {
		return 0, 0
	}
	if n, found := reached(b.Sums, blockSize); found {
		return blockSize, int(n)
	}
	return blockSize, manifest.BlockChecksumSize
}

// reached gives the first step of a list that n reaches.
func reached(list []Step, n int64) (int64, bool) {
	for _, s := range list {
		if n >= s.From {
			return s.To, true
		}
	}
	return 0, false
}

// super gives how much is compressed together in a backup.
func (b *Blocks) super(t format.BackupType) int64 {
	if t == format.Full {
		return b.SuperFull
	}
	return b.Super
}

// follows says that f goes on with the blocks that the prior backup has of it as old: they cannot have
// another size in the same set. A file of less than one block would gain nothing.
func follows(f, old manifest.File) bool { return old.BlockMapSize > 0 && f.Size >= old.BlockSize }

// blocks is how a job stores its file in blocks.
type blocks struct {
	size int64
	sum  int

	// What the prior backup has of the file in blocks of that size, if mapSize is not 0.
	reference         format.Label
	bundle            uint32
	offset            int64
	repoSize, mapSize int64
	oldSize           int64
	old               manifest.SHA1
}

// blocksOf gives how a file of the manifest is stored in blocks, nil for one that is stored whole. One that has
// a map of blocks already goes on with it.
func blocksOf(f manifest.File) *blocks {
	// pg_control is not read as other files are, and of one block only.
	if f.BlockSize == 0 || f.Name == controlFile {
		return nil
	}
	b := &blocks{size: f.BlockSize, sum: f.BlockChecksumSize}
	if f.Reference != "" && f.BlockMapSize > 0 {
		b.reference, b.bundle, b.offset = f.Reference, f.Bundle, f.BundleOffset
		b.repoSize, b.mapSize = f.RepoSize, f.BlockMapSize
		b.oldSize, b.old = f.Size, f.Checksum
	}
	return b
}

// file gives what the prior backup has of the file of that name, as far as it takes to read the map.
func (b *blocks) file(name string) manifest.File {
	return manifest.File{
		Name: name, Reference: b.reference, Size: b.oldSize, Checksum: b.old,
		Bundle: b.bundle, BundleOffset: b.offset, RepoSize: b.repoSize,
		BlockSize: b.size, BlockChecksumSize: b.sum, BlockMapSize: b.mapSize,
	}
}

// inBlocks makes read that of a file in blocks, in that bundle if it is not 0. What the prior backup has of it is
// not compared before: that no block has changed is found on the way.
func (r *run) inBlocks(read *pgdata.Read, b *blocks, bundle uint32) {
	read.Blocks = &pgdata.Blocks{
		Size: b.size, SumSize: b.sum, SuperSize: r.Blocks.super(r.m.Type), Reference: len(r.m.References) - 1, Bundle: bundle,
	}
	if b.mapSize > 0 {
		read.Expected = &pgdata.Expected{Size: b.oldSize, SHA1: b.old}
	}
}

// readPriors reads the maps that the prior backup has of files into how these are read.
func (r *run) readPriors(ctx context.Context, files []file, reads []pgdata.Read) error {
	var mapped []manifest.File
	for _, f := range files {
		if f.blocks != nil && f.blocks.mapSize > 0 {
			mapped = append(mapped, f.blocks.file(f.name))
		}
	}
	maps, err := r.Repo.BlockMaps(ctx, r.m, mapped)
	if err != nil {
		return priorDamaged(err)
	}
	for i, f := range files {
		if f.blocks != nil && f.blocks.mapSize > 0 {
			reads[i].Blocks.Prior, maps = maps[0], maps[1:]
		}
	}
	return nil
}

// priorDamaged says what to do if what the prior backup holds is damaged or missing: each backup that goes on with it
// would end like this one.
func priorDamaged(err error) error {
	switch code := errs.CodeOf(err); code {
	case errs.Crypto:
		// Its hints ask for the passphrase, but with that backup.info was read, and through it the manifest, which has the one of the files.
		err = &errs.Error{Code: code, Message: errs.Message(err), Err: err}
	case errs.Checksum, errs.Format, errs.FileMissing:
	default:
		return err
	}
	return errs.WithHint(err, "a backup that this one would go on with is damaged: take a full backup, which does without it (pgx backup --type=full).")
}
