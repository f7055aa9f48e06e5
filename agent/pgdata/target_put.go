package pgdata

import (
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Compare is how Match decides that a file need not be copied.
type Compare struct {
	// Times trusts size and modification time, and no content is read. The time must be
	// before Before, when the backup began to copy: a later one proves nothing. A file that is nothing but a hole does
	// not match: one that is Zero has the backup's time too.
	Times  bool
	Before time.Time
}

// Match says of each file whether it is there as the backup has it. One that has grown since
// is cut to size first. A file that matches gets the backup's modification time.
func (t *Target) Match(ctx context.Context, files []TargetFile, how Compare) ([]bool, error) {
	matches := make([]bool, len(files))
	for i, f := range files {
		var err error
		if matches[i], err = t.match(ctx, f, how); err != nil {
			return nil, err
		}
	}
	return matches, nil
}

func (t *Target) match(ctx context.Context, file TargetFile, how Compare) (bool, error) {
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
		if !same || !time.Unix(st.Mtim.Unix()).Before(how.Before) {
			return false, nil
		}
		hole, err := d.hole(base, st)
		return !hole, err
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
	return true, keep(f, st, file)
}

// hole says whether a file has a size and nothing on disk. Few files take less room than they have bytes, so few are opened.
func (d *dir) hole(base string, st unix.Stat_t) (bool, error) {
	const unit = 512 // of st.Blocks
	if st.Blocks >= (st.Size+unit-1)/unit {
		return false, nil
	}
	f, _, err := d.openFile(base, unix.O_RDONLY)
	if errors.Is(err, fs.ErrPermission) {
		return st.Blocks == 0, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	switch _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); {
	case errors.Is(err, unix.ENXIO): // no data behind the beginning
		return true, nil
	case err != nil: // a file system that cannot tell
		return st.Blocks == 0, nil
	}
	return false, nil
}

// keep makes sure that a file that holds what the backup has is durable and has the backup's time. st is
// from before it was cut to size, if it was, durably.
func keep(f *os.File, st unix.Stat_t, file TargetFile) error {
	// A restore that was killed may have written it and not synced it; of one with the
	// right time the sync came before, see secure.
	if st.Mtim.Sec != file.ModTime.Unix() {
		if err := syncFile(f); err != nil {
			return err
		}
	}
	mtime := timespec(file.ModTime)
	if st.Size == file.Size && st.Mtim == mtime {
		return nil // as most are: a million inodes need not be written
	}
	return setTime(f, mtime)
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
	return true, cut(f, size)
}

// cut makes a file shorter, durably.
func cut(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return errs.WrapAs(errs.FileWrite, err, "unable to truncate file '%s'", f.Name())
	}
	return syncFile(f)
}

// Put writes a file from src, which is nil for one that is empty or Zero and else must
// give an error in place of io.EOF when the content is not what it should be. The file
// becomes durable with others, at the latest in Finish; an error may be about one of
// those. After an error the file may be there in part; its modification time is set last,
// so no comparison takes it for whole.
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
	f, err := d.create(base)
	if errors.Is(err, fs.ErrExist) {
		// A new file takes the place of an old one: what others might still hold open, or
		// reach by another name, is not written to.
		if err = d.remove(base); err == nil {
			f, err = d.create(base)
		}
	}
	if err != nil {
		return err
	}
	if err = t.write(ctx, f, file, src); err == nil {
		err = give(f, perm(file.Mode), t.owners.of(file.User, file.Group))
	}
	if err != nil {
		spoil(f)
		_ = f.Close() // that error matters
		return err
	}
	mtime := timespec(file.ModTime)
	return t.written.Add(f, file.Size, func() error { return secure(f, &mtime) })
}

// PutAll is Put of one file after the other.
func (t *Target) PutAll(ctx context.Context, files iter.Seq2[TargetFile, io.Reader]) error {
	for f, src := range files {
		if err := t.Put(ctx, f, src); err != nil {
			return err
		}
	}
	return nil
}

// write fills a new file.
func (t *Target) write(ctx context.Context, f *os.File, file TargetFile, src io.Reader) error {
	var n int64
	switch {
	case file.Zero:
		if err := f.Truncate(file.Size); err != nil {
			return writeError(err, f.Name())
		}
		n = file.Size
	case src != nil:
		// The server that is started next wants what it can get from memory.
		to := &sink{f: f, flow: durable.Drain{File: f, Keep: true}, name: t.shown(file.Name), left: file.Size}
		var err error
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
	return nil
}

// sink remembers the error of writing, to tell it from one of reading, and takes no
// more than the file may hold: what a damaged stream unpacks to does not fill the disk.
type sink struct {
	f    *os.File
	flow durable.Drain
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
	if s.err == nil {
		s.err = s.flow.Wrote(n)
	}
	return n, s.err
}

// give gives a written file to its owner, with its mode.
func give(f *os.File, mode uint32, own owner) error {
	if own.set {
		if err := f.Chown(own.uid, own.gid); err != nil {
			return errs.New(errs.FileOwner, "unable to set ownership for '%s': %w", f.Name(), err)
		}
	}
	return errs.WrapAs(errs.FileMode, unix.Fchmod(int(f.Fd()), mode), "unable to set mode for '%s'", f.Name())
}

// settle gives a written file owner and mode, and secures it.
func settle(f *os.File, mode uint32, own owner, mtime *unix.Timespec) error {
	if err := give(f, mode, own); err != nil {
		return err
	}
	return secure(f, mtime)
}

// secure makes a file durable, sets its time, unless mtime is nil, and closes it.
func secure(f *os.File, mtime *unix.Timespec) error {
	err := syncFile(f)
	if err != nil {
		spoil(f)
	}
	// Not before: after a crash of the machine a comparison by time would take for whole
	// what never reached the disk. That the time itself may be lost does no harm.
	if err == nil && mtime != nil {
		err = setTime(f, *mtime)
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = writeError(cerr, f.Name())
	}
	return err
}

// spoil makes sure that no comparison takes a file for whole of which something did not reach the disk:
// the page cache may still have it, and no sync tells of that a second time.
func spoil(f *os.File) { _ = f.Truncate(0) }

func syncFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return writeError(err, f.Name())
	}
	return errs.WrapAs(errs.FileSync, err, "unable to sync file '%s' after write", f.Name())
}

func timespec(at time.Time) unix.Timespec { return unix.NsecToTimespec(at.UnixNano()) }

func setTime(f *os.File, at unix.Timespec) error {
	fd := int(f.Fd())
	err := unix.UtimesNanoAt(fd, "", []unix.Timespec{at, at}, unix.AT_EMPTY_PATH)
	if err != nil { // before Linux 5.8 only with a name, in /proc
		tv := unix.NsecToTimeval(at.Nano())
		err = unix.Futimes(fd, []unix.Timeval{tv, tv})
	}
	if err != nil {
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
