package agent

import (
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

// headSize is how much of a file a Bundle has looked at before it gives any of it: only then it
// is known that there is something to be stored. Small files are given from there as a whole.
const headSize = 32 << 10

// OpenBundle opens files for one object of a repository.
func (l *Local) OpenBundle(ctx context.Context, files []pgdata.Read) (Bundle, error) {
	if len(files) > MaxBundle {
		return nil, tooMany(len(files))
	}
	return &localBundle{ctx: ctx, files: files, from: l.files.Files(), results: make([]FileResult, 0, len(files))}, nil
}

func tooMany(files int) error {
	return errs.New(errs.ParamInvalid, "a bundle cannot have %d files, only %d", files, MaxBundle)
}

// localBundle is a Bundle of files of this machine.
type localBundle struct {
	ctx   context.Context // of the Bundle, which is one call
	files []pgdata.Read   // those that are not done
	from  *pgdata.Files

	in      *pgdata.Reading // the first of files; nil if it is not open
	buf     []byte
	head    []byte // of it, to be given first; a part of buf
	offset  int64  // where it begins
	results []FileResult
	err     error
}

func (b *localBundle) Results() []FileResult { return b.results }

// Read gives what is to be stored of the files.
func (b *localBundle) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.next() {
		if len(b.head) > 0 {
			n := copy(p, b.head)
			b.head = b.head[n:]
			return n, nil
		}
		n, err := b.in.Read(p)
		if err != nil {
			b.end(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// WriteTo hands over what is to be stored of the files.
func (b *localBundle) WriteTo(w io.Writer) (total int64, err error) {
	for b.next() {
		n, err := w.Write(b.head)
		b.head = b.head[n:]
		total += int64(n)
		if err != nil {
			return total, err
		}
		more, err := b.in.WriteTo(w)
		total += more
		if err != nil {
			b.fail(err)
			return total, b.err
		}
		b.end(io.EOF)
	}
	if b.err == io.EOF {
		return total, nil
	}
	return total, b.err
}

// next opens the next file of which something is to be stored, if none is open, and says
// whether there is one.
func (b *localBundle) next() bool {
	for b.in == nil && b.err == nil {
		if len(b.files) == 0 {
			b.err = io.EOF
			break
		}
		b.begin()
	}
	return b.err == nil
}

// begin opens the first of the files, and reads until there is something to be stored or it is done.
func (b *localBundle) begin() {
	if err := b.ctx.Err(); err != nil {
		b.fail(err)
		return
	}
	read := b.files[0]
	if read.Blocks != nil {
		blocks := *read.Blocks
		blocks.Offset = b.offset
		read.Blocks = &blocks
	}
	in, err := b.from.Open(b.ctx, read)
	switch {
	case errors.Is(err, pgdata.ErrUnchanged):
		b.done(FileResult{Fate: Unchanged})
		return
	case errors.Is(err, fs.ErrNotExist):
		b.done(FileResult{Fate: Vanished})
		return
	case err != nil:
		b.fail(err)
		return
	}
	b.in = in
	if b.buf == nil {
		b.buf = make([]byte, headSize)
	}
	n, err := in.Read(b.buf)
	b.head = b.buf[:n]
	switch {
	case in.Result().Size == 0 && (err == nil || err == io.EOF):
		// Nothing of it was read, and there is nothing.
		b.head = nil
		if b.close() {
			none := sha1.Sum(nil)
			b.done(FileResult{Result: pipeline.Result{SHA1: none, RepoSHA1: none, Pages: in.Result().Pages}})
		}
	case err != nil:
		b.end(err)
	}
}

// end ends the file that is open: with io.EOF it is done.
func (b *localBundle) end(err error) {
	if err != io.EOF {
		b.fail(err)
		return
	}
	r := b.in.Result()
	if !b.close() {
		return
	}
	switch kept, err := b.files[0].Kept(r); {
	case err != nil:
		b.fail(err)
	case kept:
		b.done(FileResult{Fate: Unchanged})
	default:
		b.done(FileResult{Offset: b.offset, Result: r})
		b.offset += r.RepoSize
	}
}

// close closes the file that is open.
func (b *localBundle) close() bool {
	err := b.in.Close()
	b.in = nil
	if err != nil {
		b.fail(err)
	}
	return err == nil
}

func (b *localBundle) done(r FileResult) {
	b.results = append(b.results, r)
	b.files = b.files[1:]
}

// fail ends the Bundle with an error about the first of the files.
func (b *localBundle) fail(err error) {
	b.err = err
	if b.ctx.Err() == nil {
		b.err = errs.Wrap(err, "copy '%s'", b.files[0].Name)
	}
}

// Close lets go of the file that is open, and of the data directory.
func (b *localBundle) Close() error {
	b.files = nil
	b.from.Close()
	if b.err == nil {
		b.err = errs.New(errs.Assert, "a bundle is read after it was closed")
	}
	if b.in == nil {
		return nil
	}
	in := b.in
	b.in = nil
	return in.Close()
}
