package repo

import (
	"bufio"
	"context"
	"io"

	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
)

// bundleBuffer gathers the files of a bundle, which may have a few bytes each.
const bundleBuffer = 256 << 10

// PutBundle stores what src gives as the bundle of that number, which counts from 1. It is durable
// when Finish or Sync has returned. Nothing is stored of a bundle that is empty.
func (w *BackupWriter) PutBundle(ctx context.Context, number uint32, src io.Reader) error {
	return w.putSome(ctx, format.BundlePath(w.repo.stanza, w.label, number), src)
}

// PutChanged is PutFile for a file of which src gives what has changed. Nothing is stored if that is nothing.
func (w *BackupWriter) PutChanged(ctx context.Context, name, ext string, src io.Reader) error {
	return w.putSome(ctx, w.name(name, ext), src)
}

// putSome stores what src gives, unless it is nothing.
func (w *BackupWriter) putSome(ctx context.Context, name string, src io.Reader) error {
	in := &bundleSource{src: src, head: make([]byte, bundleBuffer)}
	if err := in.begin(); err == io.EOF {
		return nil
	} else if err != nil {
		return err
	}
	if many, ok := w.repo.storage.(storage.Gatherer); ok {
		return many.Gather(ctx, name, in)
	}
	return w.repo.storage.Put(ctx, name, in, storage.Staged)
}

// bundleSource is a source of which the beginning was read to see whether there is any.
type bundleSource struct {
	src  io.Reader
	head []byte
	err  error // after head
}

// begin reads the beginning. It is io.EOF when the source is empty.
func (b *bundleSource) begin() error {
	n := 0
	for n == 0 && b.err == nil {
		n, b.err = b.src.Read(b.head)
	}
	b.head = b.head[:n]
	if n > 0 {
		return nil
	}
	return b.err
}

func (b *bundleSource) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.src.Read(p)
}

// WriteTo hands over what the source hands over, small pieces together.
func (b *bundleSource) WriteTo(w io.Writer) (int64, error) {
	to := counter{w: w}
	gathered := bufio.NewWriterSize(&to, bundleBuffer)
	_, err := gathered.Write(b.head)
	b.head = nil
	if err == nil && b.err == nil {
		if _, err = io.Copy(gathered, b.src); err == nil {
			b.err = io.EOF
		}
	}
	if err == nil && b.err != io.EOF {
		err = b.err
	}
	if err == nil {
		err = gathered.Flush()
	}
	return to.n, err
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
