package repo

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Framing says how stored bytes are to be read.
type Framing struct {
	Compress compress.Type
	Cipher   cipher.Pass
	Raw      bool
}

// OpenFile gives the stored bytes of a file of the backup m, wherever they are, and how
// they are framed. Of a file that is stored in blocks it gives the content.
func (r *Repo) OpenFile(ctx context.Context, m *manifest.Manifest, f manifest.File) (io.ReadCloser, Framing, error) {
	at := m.Stored(r.stanza, f)
	switch at.Kind {
	case manifest.Block:
		in, err := r.openInBlocks(ctx, m, f)
		return in, Framing{Compress: compress.None}, err
	case manifest.Nothing:
		return io.NopCloser(bytes.NewReader(nil)), Framing{Compress: compress.None}, nil
	}
	codec, err := compress.ParseType(m.Options.CompressType)
	if err != nil {
		return nil, Framing{}, err
	}
	where := storage.Range{Offset: at.Offset}
	if at.Kind == manifest.Bundled {
		where.Length = at.Length
	}
	in, err := r.storage.Open(ctx, at.Path, where)
	return in, Framing{Compress: codec, Cipher: cipher.NewPass(m.CipherPass), Raw: at.Raw}, err
}

// smallBlocks is how much may be stored of a file in blocks that is read with its map, in bytes. Of a larger
// one the map comes first: much of what is stored may not be needed any more.
const smallBlocks = 512 << 10

// openInBlocks gives the content of a file that is stored in blocks.
func (r *Repo) openInBlocks(ctx context.Context, m *manifest.Manifest, f manifest.File) (io.ReadCloser, error) {
	at := m.Stored(r.stanza, f)
	if at.Length > smallBlocks {
		text, err := r.BlockMap(ctx, m, f)
		if err != nil {
			return nil, err
		}
		return r.readBlocks(ctx, m, f, text, r.superBlocks(m, f))
	}
	stored, err := r.readPart(ctx, at.Path, at.Offset, at.Length)
	if err != nil {
		return nil, err
	}
	return r.readHeld(ctx, m, f, stored, r.superBlocks(m, f))
}

// readHeld gives the content of a file that is stored in blocks. What is stored of it in its own backup is there already, the rest
// is elsewhere.
func (r *Repo) readHeld(ctx context.Context, m *manifest.Manifest, f manifest.File, stored []byte, elsewhere block.Open) (io.ReadCloser, error) {
	at := m.Stored(r.stanza, f)
	if int64(len(stored)) < at.Length {
		return nil, r.cutOff(at.Path, at.Length, len(stored))
	}
	text, err := openMap(m, stored[at.MapOffset-at.Offset:])
	if err != nil {
		return nil, r.badMap(err, f, at)
	}
	return r.readBlocks(ctx, m, f, text,
		func(ctx context.Context, reference int, bundle uint32, offset, length int64) (io.ReadCloser, error) {
			here := reference < len(m.References) && m.References[reference] == at.Label && bundle == f.Bundle
			if start := offset - at.Offset; here && start >= 0 && start+length <= int64(len(stored)) {
				return io.NopCloser(bytes.NewReader(stored[start : start+length])), nil
			}
			return elsewhere(ctx, reference, bundle, offset, length)
		})
}

// readBlocks gives the content of a file whose map, decrypted, is text.
func (r *Repo) readBlocks(ctx context.Context, m *manifest.Manifest, f manifest.File, text []byte, open block.Open) (io.ReadCloser, error) {
	codec, err := compress.ParseType(m.Options.CompressType)
	if err != nil {
		return nil, err
	}
	of, err := block.Parse(text, f.Size, f.BlockSize, f.BlockChecksumSize)
	if err != nil {
		return nil, r.badMap(err, f, m.Stored(r.stanza, f))
	}
	in, err := block.NewReader(ctx, of, f.Size, open, codec, cipher.NewPass(m.CipherPass))
	if err != nil {
		return nil, r.badMap(err, f, m.Stored(r.stanza, f))
	}
	return in, nil
}

// OpenBlocks gives the content of some blocks, ascending, of a file that is stored in blocks. of is what its
// BlockMap is parsed to.
func (r *Repo) OpenBlocks(ctx context.Context, m *manifest.Manifest, f manifest.File, of *block.Map, blocks []int) (*block.Reader, error) {
	codec, err := compress.ParseType(m.Options.CompressType)
	if err != nil {
		return nil, err
	}
	in, err := block.NewBlockReader(ctx, of, f.Size, blocks, r.superBlocks(m, f), codec, cipher.NewPass(m.CipherPass))
	if err != nil {
		return nil, r.badMap(err, f, m.Stored(r.stanza, f))
	}
	return in, nil
}

// superBlocks gives where the super blocks of a file are.
func (r *Repo) superBlocks(m *manifest.Manifest, f manifest.File) block.Open {
	return func(ctx context.Context, reference int, bundle uint32, offset, length int64) (io.ReadCloser, error) {
		if reference >= len(m.References) {
			return nil, errs.New(errs.Format, "block map of '%s' refers to backup %d, but there are only %d", f.Name, reference, len(m.References))
		}
		name := r.superBlock(m.References[reference], f, bundle)
		return r.storage.Open(ctx, name, storage.Range{Offset: offset, Length: length})
	}
}

// superBlock gives the name of the object that holds super blocks of a file.
func (r *Repo) superBlock(label format.Label, f manifest.File, bundle uint32) string {
	if bundle != 0 {
		return format.BundlePath(r.stanza, label, bundle)
	}
	return format.FilePath(r.stanza, label, f.Name, format.BlockExt)
}

// BlockMap gives the map of a file that is stored in blocks, decrypted: what block.Parse reads.
func (r *Repo) BlockMap(ctx context.Context, m *manifest.Manifest, f manifest.File) ([]byte, error) {
	at := m.Stored(r.stanza, f)
	if at.Kind != manifest.Block {
		return nil, errs.New(errs.Assert, "file '%s' is not stored in blocks", f.Name)
	}
	text, err := r.readPart(ctx, at.Path, at.MapOffset, at.MapLength)
	if err == nil {
		text, err = openMap(m, text)
	}
	if err != nil {
		return nil, r.badMap(err, f, at)
	}
	return text, nil
}

// openMap decrypts a map, if it is encrypted.
func openMap(m *manifest.Manifest, unit []byte) ([]byte, error) {
	pass := cipher.NewPass(m.CipherPass)
	if !pass.Given() {
		return unit, nil
	}
	plain := cipher.NewRawReader(bytes.NewReader(unit), pass)
	text, err := io.ReadAll(plain)
	return text, errors.Join(err, plain.Close())
}

// badMap says which map cannot be read.
func (r *Repo) badMap(err error, f manifest.File, at manifest.Stored) error {
	return errs.Wrap(err, "unable to read block map for '%s' from '%s' at offset %d size %d",
		f.Name, r.storage.Path(at.Path), at.MapOffset, at.MapLength)
}

// readPart gives a part of an object, all of it or an error.
func (r *Repo) readPart(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	in, err := r.storage.Open(ctx, name, storage.Range{Offset: offset, Length: length})
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read
	part, err := readUpTo(in, length)
	if err == nil && int64(len(part)) < length {
		err = r.cutOff(name, length, len(part))
	}
	return part, err
}

// readUpTo reads length bytes, or what there is if that is less.
func readUpTo(in io.Reader, length int64) ([]byte, error) {
	// A length that is not true takes no more memory than there are bytes.
	part := bytes.NewBuffer(make([]byte, 0, min(length, bundleBlocks)+bytes.MinRead))
	_, err := io.Copy(part, io.LimitReader(in, length))
	return part.Bytes(), err
}

func (r *Repo) cutOff(name string, want int64, got int) error {
	return errs.New(errs.Format, "'%s' is cut off: expected %d byte(s) but read %d", r.storage.Path(name), want, got)
}
