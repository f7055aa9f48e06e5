package posix

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/pgx-backup/pgx/repo/storage"
)

// entry is what is in a directory.
type entry struct {
	name string
	typ  storage.Type
}

// entries reads a directory. The directory itself says of what type its entries are: File.ReadDir
// of one that was opened below an os.Root looks at each of them once more (Go 1.26), and an archive has
// hundreds of thousands.
type entries struct {
	dir  *os.File
	raw  syscall.RawConn
	stat func(name string) (os.FileInfo, error) // for file systems that do not tell types
	buf  *[]byte
	rest []byte // of buf
}

// entriesBuffers holds *[]byte for what is read at once, some hundred segments.
var entriesBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func newEntries(dir *os.File, stat func(name string) (os.FileInfo, error)) (*entries, error) {
	raw, err := dir.SyscallConn()
	return &entries{dir: dir, raw: raw, stat: stat, buf: entriesBuffers.Get().(*[]byte)}, err
}

// release gives the memory back. There is no next after it.
func (r *entries) release() {
	entriesBuffers.Put(r.buf)
	r.buf, r.rest = nil, nil
}

// next gives the next entry, io.EOF behind the last. What is gone meanwhile is left out.
func (r *entries) next() (entry, error) {
	for {
		if len(r.rest) == 0 {
			if err := r.fill(); err != nil {
				return entry{}, err
			}
		}
		e, typ, err := r.parse()
		if err != nil {
			return entry{}, err
		}
		switch {
		case e.name == "." || e.name == "..":
			continue
		case typ == syscall.DT_REG:
		case typ == syscall.DT_DIR:
			e.typ = storage.Dir
		case typ == syscall.DT_LNK:
			e.typ = storage.Link
		case typ != syscall.DT_UNKNOWN:
			e.typ = storage.Special
		default:
			info, err := r.stat(e.name)
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return entry{}, err
			}
			e.typ = typeOf(info.Mode())
		}
		return e, nil
	}
}

// parse takes a struct linux_dirent64 off: inode and offset of 8 bytes, its own length of 2, the
// type of 1, the name with a NUL (getdents(2)).
func (r *entries) parse() (entry, byte, error) {
	const length, typ, name = 16, 18, 19
	if len(r.rest) > name {
		if n := int(binary.NativeEndian.Uint16(r.rest[length:])); n > name && n <= len(r.rest) {
			at := r.rest[:n]
			r.rest = r.rest[n:]
			if end := bytes.IndexByte(at[name:], 0); end > 0 {
				return entry{name: string(at[name : name+end])}, at[typ], nil
			}
		}
	}
	return entry{}, 0, syscall.EIO
}

func (r *entries) fill() error {
	var n int
	var err error
	cerr := r.raw.Control(func(fd uintptr) {
		for {
			if n, err = syscall.ReadDirent(int(fd), *r.buf); err != syscall.EINTR {
				return
			}
		}
	})
	switch {
	case cerr != nil:
		return cerr
	case n == 0 && err == nil, err == syscall.ENOENT: // the directory itself is gone
		return io.EOF
	case err != nil:
		return os.NewSyscallError("getdents64", err)
	}
	r.rest = (*r.buf)[:n]
	return nil
}
