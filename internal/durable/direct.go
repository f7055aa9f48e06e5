package durable

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// pieceSize is how many bytes are gathered before they are written.
	pieceSize = 1 << 20
	// pieceAlign is what O_DIRECT may ask of an address: no disk has larger sectors.
	pieceAlign = 4096
)

type piece [pieceSize]byte

// pieces is memory to read into and to write from, aligned for O_DIRECT.
var pieces = sync.Pool{New: func() any {
	b := make([]byte, pieceSize+pieceAlign)
	at := -uintptr(unsafe.Pointer(&b[0])) % pieceAlign
	return (*piece)(b[at:])
}}

// direct writes a file in pieces past the page cache, for which the kernel would have to find a page
// for each 4 kB, copy them, write them later and let go of the page. What remains at the end is
// no whole piece and goes through the cache, as all does where the file system has no other way.
type direct struct {
	file  *os.File
	held  int // bytes gathered in buf
	buf   *piece
	large bool // a piece has been written
	past  bool // O_DIRECT is set
}

// space is where more is gathered, at least a byte.
func (d *direct) space() []byte {
	if d.buf == nil {
		d.buf = pieces.Get().(*piece)
	}
	return d.buf[d.held:]
}

// gathered says that there are n more bytes at the beginning of space. An error is of the file.
func (d *direct) gathered(n int) error {
	if d.held += n; d.held < pieceSize {
		return nil
	}
	d.held = 0
	if !d.large {
		d.large = true
		_ = d.set(true) // or else through the cache
	}
	n, err := d.file.Write(d.buf[:])
	if d.past && errors.Is(err, syscall.EINVAL) { // not in these pieces, or not at all
		if err = d.set(false); err == nil {
			_, err = d.file.Write(d.buf[n:])
		}
	}
	return err
}

func (d *direct) write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		c := copy(d.space(), p[n:])
		err = d.gathered(c)
		n += c
	}
	return n, err
}

// finish writes what is left.
func (d *direct) finish() error {
	if d.held == 0 {
		return nil
	}
	if d.past {
		if err := d.set(false); err != nil {
			return err
		}
	}
	_, err := d.file.Write(d.buf[:d.held])
	d.held = 0
	return err
}

// set changes whether the file is written past the page cache.
func (d *direct) set(past bool) error {
	fd := d.file.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if past {
		flags |= unix.O_DIRECT
	}
	if _, err := unix.FcntlInt(fd, unix.F_SETFL, flags); err != nil {
		return err
	}
	d.past = past
	return nil
}

// release gives the memory back.
func (d *direct) release() {
	if d.buf != nil {
		pieces.Put(d.buf)
		d.buf = nil
	}
}
