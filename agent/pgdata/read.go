package pgdata

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

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

	Pages *Pages // nil: page checksums are not looked at
}

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
// fs.ErrNotExist. pg_control is read at once, whole, and as a backup stores it. Nothing can
// be opened that is not in the data directory, in a tablespace or behind a link that List
// would follow, whatever the name is and whatever moves meanwhile.
//
// A page that fails its checksum is read again from the file: PostgreSQL may have been
// writing it.
func (s *Source) Open(ctx context.Context, r Read) (*Reading, error) {
	spec := pipeline.StoreSpec{Compress: r.Compress, Level: r.Level, Limit: r.Limit}
	if r.Name == controlFile {
		content, _, err := s.readControl(ctx)
		if err != nil {
			return nil, err
		}
		spec.Limit = -1
		store, err := pipeline.NewStore(bytes.NewReader(postgres.ClearControl(content)), spec)
		if err != nil {
			return nil, err
		}
		return &Reading{Store: store, ctx: ctx}, nil
	}

	f, err := s.open(r.Name)
	if err != nil {
		return nil, err
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
	store, err := pipeline.NewStore(named{f}, spec)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Reading{Store: store, ctx: ctx, file: f}, nil
}

// named says which file an error of reading is about, and gives it its code.
type named struct{ *os.File }

func (n named) Read(p []byte) (int, error) {
	got, err := n.File.Read(p)
	if err != nil && err != io.EOF {
		err = errs.WrapAs(errs.FileRead, err, "unable to read '%s'", n.Name())
	}
	return got, err
}
