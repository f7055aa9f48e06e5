package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

// OpenBundle opens files for one object of a repository.
func (c *Client) OpenBundle(ctx context.Context, files []pgdata.Read) (Bundle, error) {
	if len(files) > MaxBundle {
		return nil, tooMany(len(files))
	}
	in, err := c.pool.Exchange(ctx, callReadFiles, nil, &fileRecords{files: files})
	if err != nil {
		return nil, err
	}
	b := &remoteBundle{
		in: in, buf: bufio.NewReaderSize(in, headSize), untold: maxTold, results: make([]FileResult, 0, len(files)), asked: make([]asked, len(files)),
	}
	for i, f := range files {
		b.asked[i] = askedOf(f)
	}
	return b, nil
}

// maxChunk bounds a chunk, which nobody has in memory.
const maxChunk = 1 << 40

// remoteBundle is a Bundle that comes from an agent.
type remoteBundle struct {
	in    *protocol.Stream
	buf   *bufio.Reader // of in
	asked []asked       // of each file

	left     int64 // of a chunk
	untold   int   // how many bytes records may still have
	received int64 // of the file that is not done
	offset   int64 // where that begins
	results  []FileResult
	err      error
}

func (b *remoteBundle) Results() []FileResult { return b.results }

// chunk comes to the next bytes to be stored, and says whether there are any.
func (b *remoteBundle) chunk() bool {
	for b.left == 0 && b.err == nil {
		b.err = b.header()
	}
	return b.err == nil
}

// header reads what is between chunks.
func (b *remoteBundle) header() error {
	size, err := readLength(b.buf, maxChunk)
	switch {
	case err == io.EOF && len(b.results) == len(b.asked):
		return io.EOF
	case err != nil:
		return cutRecord(err)
	case len(b.results) == len(b.asked):
		return errs.New(errs.Protocol, "more was sent than %d files", len(b.asked))
	case size > 0:
		b.left = int64(size)
		b.received += b.left
		return nil
	}
	var w readFilesResult
	told, err := readRecord(b.buf, min(maxRecord, b.untold), &w)
	if err != nil {
		return cutRecord(err)
	}
	b.untold -= told
	r, err := w.fileResult(b.offset, b.received, b.asked[len(b.results)])
	if err != nil {
		return err
	}
	b.results = append(b.results, r)
	b.offset += b.received
	b.received = 0
	return nil
}

// Read gives what is to be stored of the files.
func (b *remoteBundle) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !b.chunk() {
		return 0, b.err
	}
	n, err := b.buf.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil {
		b.err = cutRecord(err)
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// WriteTo hands over what comes as it comes.
func (b *remoteBundle) WriteTo(w io.Writer) (total int64, err error) {
	for b.chunk() {
		if b.buf.Buffered() == 0 {
			if _, err := b.buf.Peek(1); err != nil {
				b.err = cutRecord(err)
				continue
			}
		}
		there, _ := b.buf.Peek(int(min(int64(b.buf.Buffered()), b.left)))
		n, err := w.Write(there)
		_, _ = b.buf.Discard(n) // which are there
		b.left -= int64(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	if b.err == io.EOF {
		return total, nil
	}
	return total, b.err
}

// Close lets go of the files; what was not read is cancelled.
func (b *remoteBundle) Close() error {
	if b.err == nil {
		b.err = errs.New(errs.Assert, "a bundle is read after it was closed")
	}
	return b.in.Close()
}

// readFiles is callReadFiles.
func (s *backupService) readFiles(ctx context.Context, c *protocol.Call) (any, error) {
	files, err := readFileRecords(c.In())
	if err != nil {
		return nil, err
	}
	b, err := s.host.OpenBundle(ctx, files)
	if err != nil {
		return nil, err
	}
	out := &bundleWriter{out: c.Out(), bundle: b}
	_, err = b.WriteTo(out)
	if err == nil {
		err = out.tell()
	}
	return nil, errors.Join(err, b.Close())
}

// bundleWriter makes of what a Bundle gives what a remoteBundle reads.
type bundleWriter struct {
	out    io.Writer
	bundle Bundle
	told   int // of its results
	buf    []byte
}

func (w *bundleWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.tell(); err != nil {
		return 0, err
	}
	w.buf = binary.AppendUvarint(w.buf[:0], uint64(len(p)))
	if _, err := w.out.Write(w.buf); err != nil {
		return 0, err
	}
	return w.out.Write(p)
}

// tell tells of the files that are done.
func (w *bundleWriter) tell() error {
	for all := w.bundle.Results(); w.told < len(all); w.told++ {
		var err error
		if w.buf, err = appendRecord(append(w.buf[:0], 0), packFileResult(all[w.told])); err != nil {
			return err
		}
		if _, err := w.out.Write(w.buf); err != nil {
			return err
		}
	}
	return nil
}
