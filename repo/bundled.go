package repo

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// bundleGap is how many bytes between two files of a bundle are read over rather than asked around: what
// comes while an object store thinks about another request.
const bundleGap = 256 << 10

// bundleBlocks is how much may be stored of a file in blocks that is read together with its neighbours, in bytes: its map,
// which comes last, is needed first.
const bundleBlocks = 4 << 20

// Bundled reads files of one bundle, those that lie together by one request. It must be closed.
type Bundled struct {
	repo    *Repo
	m       *manifest.Manifest
	path    string
	framing func() (Framing, error) // of whole files
	files   []manifest.File         // not given yet

	in   io.ReadCloser // nil before the first request
	at   int64         // how far in has been read
	end  int64         // of the request
	file *io.LimitedReader

	blocks io.Closer // the file, if it is stored in blocks
}

// OpenBundled prepares the reading of files that are all in one bundle. It is done with as few requests as
// it can if they are in the order of their offsets.
func (r *Repo) OpenBundled(m *manifest.Manifest, files []manifest.File) *Bundled {
	b := &Bundled{repo: r, m: m, files: slices.Clip(files)}
	if len(files) == 0 {
		return b
	}
	b.path = m.Stored(r.stanza, files[0]).Path
	b.framing = func() (Framing, error) {
		codec, err := compress.ParseType(m.Options.CompressType)
		return Framing{Compress: codec, Cipher: cipher.NewPass(m.CipherPass), Raw: m.BundleRaw}, err
	}
	return b
}

// Next gives the stored bytes of the next file, or of one that is stored in blocks the content, to be read before Next is
// called again, and how they are framed.
func (b *Bundled) Next(ctx context.Context) (io.Reader, Framing, error) {
	if len(b.files) == 0 {
		return nil, Framing{}, errs.New(errs.Assert, "more files of '%s' are read than were asked for", b.path)
	}
	framing, err := b.framing()
	if err != nil {
		return nil, framing, err
	}
	if b.file != nil { // a decoder need not read all that is stored
		if _, err := io.Copy(io.Discard, b.file); err != nil {
			return nil, framing, err
		}
	}
	f := b.files[0]
	if b.blocks != nil {
		err := b.blocks.Close()
		if b.blocks = nil; err != nil {
			return nil, framing, err
		}
	}
	if !together(f) {
		b.files = b.files[1:]
		return b.alone(ctx, f)
	}
	if b.in == nil || f.BundleOffset < b.at || f.BundleOffset+f.RepoSize > b.end {
		if err := b.request(ctx); err != nil {
			return nil, framing, err
		}
	}
	if _, err := io.CopyN(io.Discard, b.in, f.BundleOffset-b.at); err != nil && err != io.EOF {
		return nil, framing, err // what is cut off is found out by who reads the file
	}
	b.files = b.files[1:]
	b.at = f.BundleOffset + f.RepoSize
	b.file = &io.LimitedReader{R: b.in, N: f.RepoSize}
	if f.BlockMapSize > 0 {
		return b.inBlocks(ctx, f)
	}
	return b.file, framing, nil
}

// together says whether a file can be read together with its neighbours.
func together(f manifest.File) bool { return f.BlockMapSize == 0 || f.RepoSize <= bundleBlocks }

// alone gives a file by requests of its own.
func (b *Bundled) alone(ctx context.Context, f manifest.File) (io.Reader, Framing, error) {
	if err := b.Close(); err != nil {
		return nil, Framing{}, err
	}
	in, framing, err := b.repo.OpenFile(ctx, b.m, f)
	if err == nil {
		b.blocks = in
	}
	return in, framing, err
}

// inBlocks gives the content of a file that is stored in blocks.
func (b *Bundled) inBlocks(ctx context.Context, f manifest.File) (io.Reader, Framing, error) {
	stored, err := readUpTo(b.file, f.RepoSize)
	if err != nil {
		return nil, Framing{}, err
	}
	elsewhere := b.repo.superBlocks(b.m, f)
	in, err := b.repo.readHeld(ctx, b.m, f, stored,
		func(ctx context.Context, reference int, bundle uint32, offset, length int64) (io.ReadCloser, error) {
			// Who waits for another request while he holds one could wait for himself.
			if err := b.stop(); err != nil {
				return nil, err
			}
			return elsewhere(ctx, reference, bundle, offset, length)
		})
	if err != nil {
		return nil, Framing{}, err
	}
	b.blocks = in
	return in, Framing{Compress: compress.None}, nil
}

// request asks for the next file and those that lie close behind it.
func (b *Bundled) request(ctx context.Context) error {
	if err := b.stop(); err != nil {
		return err
	}
	first := b.files[0]
	b.at, b.end = first.BundleOffset, first.BundleOffset+first.RepoSize
	for _, f := range b.files[1:] {
		if !together(f) || f.BundleOffset < b.end || f.BundleOffset-b.end > bundleGap {
			break
		}
		b.end = f.BundleOffset + f.RepoSize
	}
	in, err := b.repo.storage.Open(ctx, b.path, storage.Range{Offset: b.at, Length: b.end - b.at})
	if err != nil {
		return err
	}
	b.in = in
	return nil
}

// stop ends the last request.
func (b *Bundled) stop() error {
	if b.in == nil {
		return nil
	}
	in := b.in
	b.in, b.file = nil, nil
	return in.Close()
}

// Close ends the reading.
func (b *Bundled) Close() error {
	err := b.stop()
	if b.blocks != nil {
		err = errors.Join(err, b.blocks.Close())
		b.blocks = nil
	}
	return err
}
