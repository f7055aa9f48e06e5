package block

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Open gives length bytes from offset on of an object: of a bundle, or if bundle is 0 of the one that
// holds nothing but the file, in the backup of that place in the list of references.
type Open func(ctx context.Context, reference int, bundle uint32, offset, length int64) (io.ReadCloser, error)

// Unreadable is an error of reading that names what cannot be read, as Open was asked for it.
type Unreadable struct {
	Reference      int
	Bundle         uint32
	Offset, Length int64

	err error
}

// Error gives the error alone: who knows the backups can say more.
func (u *Unreadable) Error() string { return u.err.Error() }

// Unwrap gives the error.
func (u *Unreadable) Unwrap() error { return u.err }

// Reader gives the content of a file, or of some of its blocks, one after the other. Nothing vouches for it: the
// manifest has the checksum of the file, and of a block there is Sum.
//
// Super blocks that are next to one another are asked for at once. Of each backup one of them is held; if there are
// several backups also what came with it, up to 8 MiB in all. Only one request is open at a time: who waits for another
// while it holds one could wait for itself.
type Reader struct {
	ctx   context.Context
	m     *Map
	size  int64
	todo  []int // blocks, ascending
	open  Open
	codec compress.Type
	pass  cipher.Pass

	sources map[int]*source
	rest    []byte // of the current block
	err     error
}

// source is a backup that holds blocks.
type source struct {
	requests []request // that were not made yet
	ahead    bool      // what is asked for is read at once, as there are other backups

	in   io.ReadCloser // the answer to the last one, nil if nothing more is wanted of it
	at   int64         // where in is in the object
	todo []super       // of the request, not read yet

	current super // whose content is held; its size is 0 before the first
	content []byte
}

// NewReader reads a file of size bytes. It is a Format error if the map cannot be that of such a file. Errors of reading are Unreadable; they are besides those
// of open
//
//   - a Crypto error if a super block cannot be decrypted;
//   - a Format error if one is damaged or cut off.
func NewReader(ctx context.Context, m *Map, size int64, open Open, codec compress.Type, pass cipher.Pass) (*Reader, error) {
	all := make([]int, len(m.Items))
	for i := range all {
		all[i] = i
	}
	return NewBlockReader(ctx, m, size, all, open, codec, pass)
}

// NewBlockReader is NewReader for some blocks of the file only, ascending, by their number.
func NewBlockReader(
	ctx context.Context, m *Map, size int64, blocks []int, open Open, codec compress.Type, pass cipher.Pass,
) (*Reader, error) {
	if len(m.Items) != Count(size, m.BlockSize) {
		return nil, errs.New(errs.Format, "block map has %d blocks of %d bytes for a file of %d", len(m.Items), m.BlockSize, size)
	}
	for i, b := range blocks {
		if b < 0 || b >= len(m.Items) || i > 0 && b <= blocks[i-1] {
			return nil, errs.New(errs.Assert, "block %d is asked for out of order, of %d", b, len(m.Items))
		}
		item := &m.Items[b]
		start := int64(item.Index) * m.BlockSize
		if start+m.length(b, size) > item.SuperSize {
			return nil, errs.New(errs.Format, "block map is damaged: super block of %d bytes has no block of %d at %d",
				item.SuperSize, m.length(b, size), start)
		}
	}
	requests, err := m.plan(blocks)
	if err != nil {
		return nil, err
	}
	r := &Reader{ctx: ctx, m: m, size: size, todo: blocks, open: open, codec: codec, pass: pass, sources: make(map[int]*source, len(requests))}
	for reference, of := range requests {
		r.sources[reference] = &source{requests: of, ahead: len(requests) > 1}
	}
	return r, nil
}

// length gives how many bytes a block of a file of that size has.
func (m *Map) length(block int, size int64) int64 {
	return min(m.BlockSize, size-int64(block)*m.BlockSize)
}

// Read gives the next bytes of the content.
func (r *Reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(r.rest) == 0 && !r.next() {
			break
		}
		c := copy(p[n:], r.rest)
		r.rest = r.rest[c:]
		n += c
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, r.err
}

// WriteTo writes the content into w, without copying it.
func (r *Reader) WriteTo(w io.Writer) (total int64, err error) {
	for len(r.rest) > 0 || r.next() {
		n, err := w.Write(r.rest)
		r.rest = r.rest[n:]
		total += int64(n)
		if err == nil && len(r.rest) > 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
	if r.err == io.EOF {
		return total, nil
	}
	return total, r.err
}

// next makes the next block rest, and with it those that follow it in its super block too, and tells whether there is one.
func (r *Reader) next() bool {
	if r.err == nil {
		r.err = r.ctx.Err()
	}
	if r.err == nil && len(r.todo) == 0 {
		r.err = io.EOF
	}
	if r.err != nil {
		return false
	}
	first := r.todo[0]
	item := &r.m.Items[first]
	s := r.sources[item.Reference]
	if s.current.size == 0 || s.current.offset != item.Offset {
		if r.err = r.load(s, item); r.err != nil {
			return false
		}
	}
	start := int64(item.Index) * r.m.BlockSize
	end := start + r.m.length(first, r.size)
	r.todo = r.todo[1:]
	for len(r.todo) > 0 && r.todo[0] == first+1 {
		following := &r.m.Items[first+1]
		if following.Offset != item.Offset || following.Reference != item.Reference || following.Index != item.Index+1 {
			break
		}
		first, item = first+1, following
		end += r.m.length(first, r.size)
		r.todo = r.todo[1:]
	}
	r.rest = s.content[start:end]
	return true
}

// load reads the next super block of a backup, which is that of item.
func (r *Reader) load(s *source, item *Item) error {
	if len(s.todo) == 0 {
		if err := r.request(s, item); err != nil {
			return err
		}
	}
	s.current, s.todo = s.todo[0], s.todo[1:]
	if skip := s.current.offset - s.at; skip > 0 {
		if _, err := io.CopyN(io.Discard, s.in, skip); err != nil {
			return item.unreadable(s.at, s.current.offset+s.current.size-s.at, cutOff(err))
		}
	}
	if err := r.decode(s); err != nil {
		return item.unreadable(s.current.offset, s.current.size, errs.Wrap(err, "super block at %d", s.current.offset))
	}
	s.at = s.current.offset + s.current.size
	if len(s.todo) > 0 {
		return nil
	}
	in := s.in
	s.in = nil
	return in.Close()
}

// request asks for the next super blocks of a backup.
func (r *Reader) request(s *source, item *Item) error {
	q := s.requests[0]
	s.requests = s.requests[1:]
	in, err := r.open(r.ctx, item.Reference, item.Bundle, q.offset, q.length)
	if err != nil {
		return item.unreadable(q.offset, q.length, err)
	}
	if s.ahead {
		// A length that is not true takes no more memory than there are bytes.
		stored := bytes.NewBuffer(make([]byte, 0, min(q.length, aheadSize)+bytes.MinRead))
		_, err := io.CopyN(stored, in, q.length)
		if err := errors.Join(cutOff(err), in.Close()); err != nil {
			return item.unreadable(q.offset, q.length, err)
		}
		in = io.NopCloser(stored)
	}
	s.in, s.at, s.todo = in, q.offset, q.supers
	return nil
}

// unreadable names what cannot be read of the object that holds the block.
func (i *Item) unreadable(offset, length int64, err error) error {
	return &Unreadable{Reference: i.Reference, Bundle: i.Bundle, Offset: offset, Length: length, err: err}
}

// cutOff says what it means that there are fewer bytes than were asked for.
func cutOff(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errs.New(errs.Format, "what is stored is cut off")
	}
	return err
}

// decode reads the content of the current super block.
func (r *Reader) decode(s *source) error {
	stored := io.LimitedReader{R: s.in, N: s.current.size}
	var src io.Reader = &stored
	if r.pass.Given() {
		plain := cipher.NewRawReader(src, r.pass)
		defer func() { _ = plain.Close() }() // it has nothing to say
		src = plain
	}
	dec, err := compress.NewRawReader(r.codec, src)
	if err != nil {
		return err
	}
	s.content, err = readAll(s.content[:0], dec, s.current.superSize)
	err = errors.Join(err, dec.Close())
	switch {
	case errs.CodeOf(err) == errs.Format && len(s.content) == 0 && r.pass.Given():
		err = errs.New(errs.Crypto, "what was decrypted is not of compress type '%s': %w", r.codec, err)
		return errs.WithHint(err, "the content is damaged, or the passphrase is not the one it was encrypted with")
	case err != nil:
		return err
	}
	// A decoder may know where its input ends without looking, but the end of a unit has to be looked at.
	_, err = io.Copy(io.Discard, src)
	return err
}

// readAll reads into buf all that src has, which must be size bytes. What the map says is not believed before it
// is there.
func readAll(buf []byte, src io.Reader, size int64) ([]byte, error) {
	const atOnce = 4 << 20
	for {
		if len(buf) == cap(buf) { // and it has room for a byte more, to see the end
			buf = append(make([]byte, 0, min(size, int64(len(buf))+atOnce)+1), buf...)
		}
		n, err := src.Read(buf[len(buf):min(int64(cap(buf)), size+1)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > size, err == io.EOF && int64(len(buf)) < size:
			return buf, errs.New(errs.Format, "content is not of the expected %d bytes", size)
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return buf, err
		}
	}
}

// Close ends the reading.
func (r *Reader) Close() error {
	if r.err == nil {
		r.err = errs.New(errs.Assert, "a file in blocks is read after it was closed")
	}
	r.rest = nil
	var err error
	for _, s := range r.sources {
		if s.in != nil {
			err = errors.Join(err, s.in.Close())
		}
	}
	r.sources = nil
	return err
}
