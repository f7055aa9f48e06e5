package pgdata

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"sync"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Read says which file Open reads and how.
type Read struct {
	Name  string // as List gives it
	Limit int64  // bytes to read at most, -1 for all there is

	Compress compress.Type
	Level    int
	Cipher   cipher.Pass // none: what is stored is not encrypted
	Raw      bool        // whole files in the raw forms of both, for what goes into a bundle

	Blocks *Blocks // nil: the file is stored whole

	Pages *Pages // nil: page checksums are not looked at

	// Expected is what the file held when it was last stored; nil when that does not matter. If
	// it still does, Open gives ErrUnchanged and nothing to be stored. With a prior map of blocks the file is not read
	// for that: see Kept.
	Expected *Expected
}

// Blocks says how a file is stored in blocks, see block.Spec. If nothing of it is to be stored, though it has bytes,
// it is as the prior map says.
type Blocks struct {
	Size      int64  // of a block, bytes
	SumSize   int    // bytes of a checksum that are kept
	SuperSize int64  // of a super block, bytes
	Prior     []byte // the map of the backup before, decrypted; nil: all blocks are stored
	Reference int    // the position of this backup in its list of references
	Bundle    uint32 // the bundle the file goes into, 0 for none
	Offset    int64  // of the file in the bundle, bytes
}

// blocks gives what a pipeline has to know of a file that is stored in blocks.
func (r Read) blocks() (*block.Spec, error) {
	b := r.Blocks
	s := &block.Spec{
		BlockSize: b.Size, SumSize: b.SumSize, SuperSize: b.SuperSize, Reference: b.Reference, Bundle: b.Bundle, Offset: b.Offset,
	}
	if b.Prior != nil {
		size := int64(-1)
		if r.Expected != nil {
			size = r.Expected.Size
		}
		prior, err := block.Parse(b.Prior, size, b.Size, b.SumSize)
		if err != nil {
			return nil, errs.WithHint(errs.Wrap(err, "unable to read the prior block map of '%s'", r.Name),
				"a backup that this one would go on with is damaged: take a full backup, which does without it (pgx backup --type=full).")
		}
		s.Prior = prior
	}
	return s, nil
}

// Kept says whether a file that was read so is as the prior map of its blocks says, so that nothing is to be stored of
// it. It is a Checksum error if it is not what was expected then: of some block only the checksum is the same. That
// nothing is to be stored of other files that have bytes cannot be, and is an Assert error.
func (r Read) Kept(res pipeline.Result) (bool, error) {
	if res.RepoSize > 0 || res.Size == 0 {
		return false, nil
	}
	if r.Blocks == nil || r.Blocks.Prior == nil {
		return false, errs.New(errs.Assert, "file '%s' has %d bytes, of which nothing came to be stored", r.Name, res.Size)
	}
	if e := r.Expected; e != nil && (e.Size != res.Size || e.SHA1 != res.SHA1) {
		return false, errs.WithHint(errs.New(errs.Checksum, "file '%s' has changed, but no checksum of its blocks has", r.Name),
			"a full backup stores all of it.")
	}
	return true, nil
}

// Expected is the content that a file had before.
type Expected struct {
	Size int64 // bytes
	SHA1 [20]byte

	// Always is for a file that is likely to be the same: it is read for that alone, and a
	// second time if it is not. Without it only a file that fits into one buffer is compared.
	Always bool
}

// ErrUnchanged is what Open gives for a file that holds what was expected.
var ErrUnchanged = errors.New("the file holds what was expected")

// Pages says how the pages of a file are checked.
type Pages struct {
	Size    int    // of a page, bytes
	Segment uint32 // pages in a full segment of a relation, see postgres.Control
	Header  bool   // a page counts as new by its header, else by its missing checksum
}

// Reading is a file on its way into a repository: reading it gives the bytes to be
// stored. It must be closed.
type Reading struct {
	*pipeline.Store
	ctx  context.Context
	file io.Closer // nil for what is in memory
}

// Read gives the bytes to be stored, until the context ends.
func (r *Reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Store.Read(p)
}

// WriteTo hands over the bytes to be stored, until the context ends.
func (r *Reading) WriteTo(w io.Writer) (int64, error) {
	return r.Store.WriteTo(&untilDone{r.ctx, w})
}

type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u *untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// Close lets go of the file.
func (r *Reading) Close() error {
	err := r.Store.Close()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

// Open opens a file of the data directory. One that is not there any more is
// fs.ErrNotExist, and so is one that List had not yet known as that of an unlogged relation; one that
// is as r.Expected says ErrUnchanged. pg_control is read at once, whole, and as a backup stores it. Nothing can
// be opened that is not in the data directory, in a tablespace or behind a link that List
// would follow, whatever the name is and whatever moves meanwhile.
//
// A page that fails its checksum is read again from the file: PostgreSQL may have been
// writing it.
func (d *Files) Open(ctx context.Context, r Read) (*Reading, error) {
	spec := pipeline.StoreSpec{Compress: r.Compress, Level: r.Level, Cipher: r.Cipher, Raw: r.Raw, Limit: r.Limit}
	if r.Blocks != nil {
		blocks, err := r.blocks()
		if err != nil {
			return nil, err
		}
		spec.Blocks = blocks
	}
	if r.Name == controlFile {
		content, _, err := d.source.readControl(ctx)
		if err != nil {
			return nil, err
		}
		spec.Limit = -1
		content = postgres.ClearControl(content)
		if e := r.Expected; e != nil && e.Size == int64(len(content)) && e.SHA1 == sha1.Sum(content) {
			return nil, ErrUnchanged
		}
		store, err := pipeline.NewStore(bytes.NewReader(content), spec)
		if err != nil {
			return nil, err
		}
		return &Reading{Store: store, ctx: ctx}, nil
	}

	f, err := d.open(r.Name)
	if err != nil {
		return nil, err
	}
	if err := d.logged(r.Name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if r.Expected != nil && (r.Blocks == nil || r.Blocks.Prior == nil) {
		same, err := r.Expected.matches(ctx, f, r.Limit)
		if err == nil && same {
			err = ErrUnchanged
		}
		if err != nil {
			_ = f.Close() // only read
			return nil, err
		}
	}
	if r.Pages != nil {
		spec.Pages = &pipeline.PageSpec{
			PageSize: r.Pages.Size, FirstBlock: postgres.FirstBlock(r.Name, r.Pages.Segment), HeaderCheck: r.Pages.Header,
			Reread: func(offset int64, page []byte) error {
				_, err := f.ReadAt(page, offset)
				return err
			},
		}
	}
	store, err := pipeline.NewStore(named{ctx, f}, spec)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Reading{Store: store, ctx: ctx, file: f}, nil
}

// Open opens one file, as Files does.
func (s *Source) Open(ctx context.Context, r Read) (*Reading, error) {
	d := s.Files()
	defer d.Close()
	return d.Open(ctx, r)
}

// matches says whether the first limit bytes of f, or all if limit is negative, are what was
// expected. If not, f is at its beginning again.
func (e *Expected) matches(ctx context.Context, f *file, limit int64) (bool, error) {
	size := f.size
	if limit >= 0 {
		size = min(size, limit)
	}
	if size != e.Size || !e.Always && size > compareSize {
		return false, nil
	}
	if limit < 0 {
		limit = size + 1 // it may grow
	}
	buf := compareBuffers.Get().(*[compareSize]byte)
	defer compareBuffers.Put(buf)
	sum := sha1.New()
	n, err := io.CopyBuffer(sum, io.LimitReader(named{ctx, f}, limit), buf[:])
	if err != nil {
		return false, err
	}
	if n == e.Size && [sha1.Size]byte(sum.Sum(nil)) == e.SHA1 {
		return true, nil
	}
	return false, errs.WrapAs(errs.FileRead, f.rewind(), "unable to read '%s' from its beginning", f.Name())
}

// compareSize is the size of the buffer by which a file is compared, and how large a file can be
// that is worth comparing though it has probably changed.
const compareSize = 1 << 20

var compareBuffers = sync.Pool{New: func() any { return new([compareSize]byte) }}

// named reads a file until the context ends, also where nothing of what is read is given on. It says which file an
// error is about, and gives it its code.
type named struct {
	ctx context.Context
	*file
}

func (n named) Read(p []byte) (int, error) {
	if err := n.ctx.Err(); err != nil {
		return 0, err
	}
	got, err := n.file.Read(p)
	if err != nil && err != io.EOF {
		err = errs.WrapAs(errs.FileRead, err, "unable to read '%s'", n.Name())
	}
	return got, err
}
