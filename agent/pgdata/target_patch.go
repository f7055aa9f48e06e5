package pgdata

import (
	"context"
	"crypto/sha1"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
)

// patchWindow is about how much of a file Patch has in memory: enough that the blocks of one window
// that are asked for together are worth a request, and few enough bytes for every worker.
const patchWindow = 16 << 20

// maxPatchBlock bounds the size of a block, of which one at least is in memory. A file in larger ones is put
// anew.
const maxPatchBlock = 64 << 20

// A Patch makes of a file that is there what the backup has, by writing the blocks of it that
// differ. It goes through the file once, from front to back and some megabytes at a time: what is
// there is read and compared with the block map, Needed tells the blocks that differ, Write
// takes their content, and the checksum of the whole is that of what the file then holds. It is
// an interface because the file may be on another host.
type Patch interface {
	// Needed gives the numbers of the blocks whose content Write takes next, ascending and never all that
	// will be needed. When there are none the file is what the backup has, and as durable as
	// after Match or Put.
	Needed() []int

	// Write takes the content of the blocks Needed gave, one after another, and goes on to the next
	// that differ. Content that the block map does not have is a Checksum error, and so is, at the
	// end, a file that has another checksum than the manifest says. After an error only Close is left to do.
	Write(ctx context.Context, src io.Reader) error

	// Close gives up a patch that is not at its end. The file is then neither what it was nor what the backup has,
	// and a later comparison finds that out.
	Close() error
}

// Patch begins to change a file that is there to what the backup has, as the block map m says. It is nil if
// there is nothing to change and Put has to write all of it. See Target for when it may be
// called; other files can be compared and written meanwhile.
func (t *Target) Patch(ctx context.Context, file TargetFile, m *block.Map) (Patch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if file.Zero || file.Size == 0 || file.Name == controlFile || m.BlockSize > maxPatchBlock {
		return nil, nil
	}
	if blocks := (file.Size-1)/m.BlockSize + 1; int64(len(m.Items)) != blocks {
		return nil, errs.New(errs.Format, "the block map of '%s' has %d blocks, and its size is that of %d", t.shown(file.Name), len(m.Items), blocks)
	}
	d, base, err := t.parent(file.Name)
	if err != nil {
		return nil, err
	}
	defer d.close()
	st, ok, err := d.stat(base)
	if err != nil || !ok || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Size == 0 {
		return nil, err
	}
	f, st, err := d.openFile(base, unix.O_RDWR)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil // Put replaces what cannot be written
	}
	if err != nil {
		return nil, err
	}
	p := &patch{target: t, file: file, blocks: m, f: f, st: st, sum: sha1.New()}
	p.take()
	if err := p.next(ctx); err != nil {
		_ = p.Close() // that error matters
		return nil, err
	}
	return p, nil
}

// patch is a Patch of this host.
type patch struct {
	target *Target
	file   TargetFile
	blocks *block.Map
	f      *os.File // nil at the end
	st     unix.Stat_t
	sum    hash.Hash

	buf     *[]byte
	at      int64  // where in the file the window begins, at the beginning of a block
	window  []byte // what is there, and what is to be
	needed  []int
	written int64
}

var patchBuffers = sync.Pool{New: func() any { return new([]byte) }}

// take gets memory for a window: whole blocks, or the whole file.
func (p *patch) take() {
	size := max(patchWindow/p.blocks.BlockSize, 1) * p.blocks.BlockSize
	size = min(size, p.file.Size)
	p.buf = patchBuffers.Get().(*[]byte)
	if int64(cap(*p.buf)) < size {
		*p.buf = make([]byte, size)
	}
	*p.buf = (*p.buf)[:size]
}

func (p *patch) Needed() []int { return p.needed }

// next goes on to the next window that has blocks that differ, or to the end.
func (p *patch) next(ctx context.Context) error {
	for p.at += int64(len(p.window)); p.at < p.file.Size; p.at += int64(len(p.window)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.window = (*p.buf)[:min(int64(len(*p.buf)), p.file.Size-p.at)]
		n, err := p.f.ReadAt(p.window, p.at)
		if err != nil && err != io.EOF {
			return errs.WrapAs(errs.FileRead, err, "unable to read '%s'", p.f.Name())
		}
		if p.compare(n); len(p.needed) > 0 {
			return nil
		}
		p.sum.Write(p.window)
	}
	return p.end()
}

// compare finds the blocks of the window that are not what they should be, there being n bytes.
func (p *patch) compare(n int) {
	p.needed = p.needed[:0]
	first := int(p.at / p.blocks.BlockSize)
	for i := range p.count() {
		if from, to := p.bounds(i); to > n || !p.right(first+i, p.window[from:to]) {
			p.needed = append(p.needed, first+i)
		}
	}
}

// count gives the number of blocks in the window.
func (p *patch) count() int { return (len(p.window)-1)/int(p.blocks.BlockSize) + 1 }

// bounds says where in the window its block i is.
func (p *patch) bounds(i int) (from, to int) {
	size := int(p.blocks.BlockSize)
	return i * size, min((i+1)*size, len(p.window))
}

// right says whether b is the content of that block.
func (p *patch) right(number int, b []byte) bool {
	sum := block.Sum(b)
	return string(sum[:p.blocks.SumSize]) == string(p.blocks.Items[number].Sum[:p.blocks.SumSize])
}

func (p *patch) Write(ctx context.Context, src io.Reader) error {
	if len(p.needed) == 0 {
		return errs.New(errs.Assert, "a patch of '%s' is given what it does not need", p.file.Name)
	}
	src = contextReader{ctx, src}
	first := int(p.at / p.blocks.BlockSize)
	for rest := p.needed; len(rest) > 0; {
		// Neighbours are written at once.
		n := 1
		for n < len(rest) && rest[n] == rest[0]+n {
			n++
		}
		from, _ := p.bounds(rest[0] - first)
		_, to := p.bounds(rest[n-1] - first)
		if _, err := io.ReadFull(src, p.window[from:to]); err != nil {
			return p.short(err)
		}
		for _, number := range rest[:n] {
			if a, b := p.bounds(number - first); !p.right(number, p.window[a:b]) {
				return errs.New(errs.Checksum, "error restoring '%s': block %d does not have the checksum of the block map",
					p.target.shown(p.file.Name), number)
			}
		}
		if _, err := p.f.WriteAt(p.window[from:to], p.at+int64(from)); err != nil {
			spoil(p.f)
			return writeError(err, p.f.Name())
		}
		p.written += int64(to - from)
		rest = rest[n:]
	}
	var more [1]byte
	switch n, err := io.ReadFull(src, more[:]); {
	case n > 0:
		return errs.New(errs.Checksum, "error restoring '%s': blocks have more content than the block map says", p.target.shown(p.file.Name))
	case err != io.EOF:
		return err
	}
	p.sum.Write(p.window)
	return p.next(ctx)
}

// short makes an error of content that ends too early; others are those of its source.
func (p *patch) short(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errs.New(errs.Checksum, "error restoring '%s': blocks have less content than the block map says", p.target.shown(p.file.Name))
	}
	return err
}

// end leaves the file to be made durable, with all that Match and Put say of it.
func (p *patch) end() error {
	f := p.f
	p.needed, p.f = nil, nil
	p.give()
	if sum := [20]byte(p.sum.Sum(nil)); sum != p.file.SHA1 {
		// Another restore shall not find the same blocks to be right.
		spoil(f)
		_ = f.Close() // that error matters
		return errs.New(errs.Checksum, "error restoring '%s': actual checksum '%x' does not match expected checksum '%x'",
			p.target.shown(p.file.Name), sum, p.file.SHA1)
	}
	err := p.fit(f)
	if p.written == 0 {
		if err == nil {
			err = keep(f, p.st, p.file)
		}
		_ = f.Close() // what there was to write is synced
		return err
	}
	if err == nil {
		err = give(f, perm(p.file.Mode), p.target.owners.of(p.file.User, p.file.Group))
	}
	if err != nil {
		_ = f.Close() // that error matters
		return err
	}
	mtime := timespec(p.file.ModTime)
	return p.target.written.Add(f, p.written, func() error { return secure(f, &mtime) })
}

// fit cuts, durably, what the file has grown by since the backup.
func (p *patch) fit(f *os.File) error {
	if p.st.Size <= p.file.Size {
		return nil
	}
	return cut(f, p.file.Size)
}

// give returns the memory.
func (p *patch) give() {
	if p.buf != nil {
		patchBuffers.Put(p.buf)
		p.buf, p.window = nil, nil
	}
}

func (p *patch) Close() error {
	p.give()
	if p.f == nil {
		return nil
	}
	f := p.f
	p.f = nil
	return f.Close()
}
