package pgdata

import (
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Compare is how Match decides that a file need not be copied.
type Compare struct {
	// Times trusts size and modification time, and no content is read. The time must be
	// before Before, when the backup began to copy: a later one proves nothing.
	Times  bool
	Before time.Time
}

// Match says whether the file is there as the backup has it. One that has grown since
// is cut to size first. A file that matches gets the backup's modification time.
func (t *Target) Match(ctx context.Context, file TargetFile, how Compare) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if file.Zero || file.Name == controlFile {
		return false, nil
	}
	d, base, err := t.parent(file.Name)
	if err != nil {
		return false, err
	}
	defer d.close()
	st, ok, err := d.stat(base)
	if err != nil || !ok || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return false, err
	}
	if how.Times {
		same := st.Size == file.Size && st.Mtim.Sec == file.ModTime.Unix()
		return same && time.Unix(st.Mtim.Unix()).Before(how.Before), nil
	}
	if st.Size < file.Size {
		return false, nil
	}

	f, st, err := d.openFile(base, unix.O_RDONLY)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil // Put replaces what cannot be read
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if file.Size != 0 {
		hash := sha1.New()
		n, err := copyContext(ctx, hash, io.LimitReader(f, file.Size))
		if err != nil {
			return false, errs.WrapAs(errs.FileRead, err, "unable to read '%s'", f.Name())
		}
		if n != file.Size || [20]byte(hash.Sum(nil)) != file.SHA1 {
			return false, nil
		}
	}
	if st.Size > file.Size {
		if ok, err := d.truncate(base, file.Size); err != nil || !ok {
			return false, err
		}
	}
	// A restore that was killed may have written it and not synced it; of one with the
	// right time the sync came before, see settle.
	if st.Mtim.Sec != file.ModTime.Unix() {
		if err := syncFile(f); err != nil {
			return false, err
		}
	}
	return true, setTime(f, timespec(file.ModTime))
}

// truncate cuts a file durably. One that may not be written is left, with ok false.
func (d *dir) truncate(base string, size int64) (ok bool, err error) {
	f, _, err := d.openFile(base, unix.O_RDWR)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(size); err != nil {
		return false, errs.WrapAs(errs.FileWrite, err, "unable to truncate file '%s'", f.Name())
	}
	return true, syncFile(f)
}

// Put writes a file from src, which is nil for one that is empty or Zero and else must
// give an error in place of io.EOF when the content is not what it should be. When Put
// returns nil the file is durable but for its name, which Finish sees to. After an
// error the file may be there in part; its modification time is set last, so no
// comparison takes it for whole.
func (t *Target) Put(ctx context.Context, file TargetFile, src io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, base, err := t.parent(file.Name)
	if err != nil {
		return err
	}
	defer d.close()
	if file.Name == controlFile {
		base = controlTemp
	}
	// A new file takes the place of an old one: what others might still hold open, or
	// reach by another name, is not written to.
	if err := d.remove(base); err != nil {
		return err
	}
	f, err := d.create(base)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()

	var n int64
	switch {
	case file.Zero:
		if err := f.Truncate(file.Size); err != nil {
			return writeError(err, f.Name())
		}
		n = file.Size
	case src != nil:
		to := &sink{f: f, name: t.shown(file.Name), left: file.Size}
		n, err = copyContext(ctx, to, src)
		if to.err != nil {
			return writeError(to.err, f.Name())
		}
		if err != nil {
			return err
		}
	}
	if n != file.Size {
		return errs.New(errs.Checksum, "error restoring '%s': actual size %d does not match expected size %d",
			t.shown(file.Name), n, file.Size)
	}
	mtime := timespec(file.ModTime)
	return settle(f, perm(file.Mode), t.owners.of(file.User, file.Group), &mtime)
}

// sink remembers the error of writing, to tell it from one of reading, and takes no
// more than the file may hold: what a damaged stream unpacks to does not fill the disk.
type sink struct {
	f    *os.File
	name string
	left int64
	err  error
}

func (s *sink) Write(p []byte) (n int, err error) {
	if int64(len(p)) > s.left {
		s.err = errs.New(errs.Checksum, "error restoring '%s': content is longer than the size in the manifest", s.name)
		return 0, s.err
	}
	n, s.err = s.f.Write(p)
	s.left -= int64(n)
	return n, s.err
}

// settle gives a written file owner and mode, makes it durable and sets its time.
func settle(f *os.File, mode uint32, own owner, mtime *unix.Timespec) error {
	if own.set {
		if err := f.Chown(own.uid, own.gid); err != nil {
			return errs.New(errs.FileOwner, "unable to set ownership for '%s': %w", f.Name(), err)
		}
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return errs.WrapAs(errs.FileMode, err, "unable to set mode for '%s'", f.Name())
	}
	if err := syncFile(f); err != nil {
		return err
	}
	// Not before: after a crash of the machine a comparison by time would take for whole
	// what never reached the disk. That the time itself may be lost does no harm.
	if mtime != nil {
		if err := setTime(f, *mtime); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return writeError(err, f.Name())
	}
	return nil
}

func syncFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return writeError(err, f.Name())
	}
	return errs.WrapAs(errs.FileSync, err, "unable to sync file '%s' after write", f.Name())
}

func timespec(at time.Time) unix.Timespec { return unix.NsecToTimespec(at.UnixNano()) }

func setTime(f *os.File, at unix.Timespec) error {
	tv := unix.NsecToTimeval(at.Nano())
	if err := unix.Futimes(int(f.Fd()), []unix.Timeval{tv, tv}); err != nil {
		return errs.WrapAs(errs.FileInfo, err, "unable to set time for '%s'", f.Name())
	}
	return nil
}

// writeError says which file could not be written, and what to do about a full disk.
func writeError(err error, path string) error {
	var own *errs.Error
	if errors.As(err, &own) || errors.Is(err, context.Canceled) {
		return err
	}
	var sys *os.PathError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	wrapped := errs.WrapAs(errs.FileWrite, err, "unable to write '%s'", path)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errs.WithHint(errs.WithHint(wrapped, "make room on the file system of '%s'.", path),
			"the cluster cannot be started until a restore completes: run it again with --delta.")
	}
	return wrapped
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// copyContext is io.Copy that ends when ctx does.
func copyContext(ctx context.Context, dst io.Writer, src io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{dst}, contextReader{ctx, src}, *buf)
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
