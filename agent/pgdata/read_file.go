package pgdata

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// file is a regular file that is open to be read. It is no os.File because that asks the kernel of each how it was
// opened and whether one can wait for it, which a small file is read in the time of.
type file struct {
	fd   int
	path string
	size int64 // when it was opened
}

func (f *file) Name() string { return f.path }

// Read reads on.
func (f *file) Read(p []byte) (n int, err error) {
	err = retry(func() error {
		n, err = unix.Read(f.fd, p)
		return err
	})
	return f.got(n, len(p), err)
}

// ReadAt reads what is at an offset.
func (f *file) ReadAt(p []byte, at int64) (total int, err error) {
	for total < len(p) {
		var n int
		err := retry(func() error {
			n, err = unix.Pread(f.fd, p[total:], at+int64(total))
			return err
		})
		n, err = f.got(n, len(p)-total, err)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// got makes of what the kernel says what a Reader says.
func (f *file) got(n, wanted int, err error) (int, error) {
	switch {
	case err != nil:
		return 0, err
	case n == 0 && wanted > 0:
		return 0, io.EOF
	}
	return n, nil
}

// rewind goes back to the beginning.
func (f *file) rewind() error {
	_, err := unix.Seek(f.fd, 0, io.SeekStart)
	return err
}

// Close closes the file. A second time it is an error, and closes nothing that was opened since.
func (f *file) Close() error {
	if f.fd < 0 {
		return os.ErrClosed
	}
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}
