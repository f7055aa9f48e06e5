// Package durable makes files, directories and removals survive a crash of the
// machine: write under a temporary name, fsync, close, rename, fsync the directory.
//
// All names are slash-separated and relative to an os.Root, so that no name, and no
// link somebody planted, leads out of the directory a caller meant. Modes are
// set explicitly and do not depend on the umask.
//
// # Temporary names
//
// A temporary file is called "<name>.<16 hex digits>.pgbackrest.tmp" and is created with
// O_EXCL. The end of the name is pgBackRest's, so both tools skip it when they
// list. pgBackRest has no middle part: two of its processes that write one name at once
// share one temporary file. Here each writer has its own, which holds on every file
// system, NFS without locks included, and so does a pgBackRest beside us. The price is
// that a process killed in between leaves a file that the next writer of the name
// does not reuse. Such a file is never taken for what it was to become, starts
// with the name it was for (so pgBackRest's expire removes it together with
// that WAL segment), and goes when its directory is removed.
package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// TempSuffix ends the name of every file that is still being written, ours and
// pgBackRest's.
const TempSuffix = ".pgbackrest.tmp"

const maxName = 255 // NAME_MAX of every Linux file system that matters

// TempName gives a name beside name that nobody else uses and that IsTemp knows.
func TempName(name string) string {
	dir, base := path.Split(name)
	unique := fmt.Sprintf(".%016x%s", rand.Uint64(), TempSuffix)
	if len(base) > maxName-len(unique) {
		base = base[:maxName-len(unique)]
	}
	return dir + base + unique
}

// IsTemp says whether name is that of a file still being written, or left by a process
// that was killed while it wrote.
func IsTemp(name string) bool { return strings.HasSuffix(name, TempSuffix) }

// File is a file being written. It takes its name, or becomes durable under it,
// with Commit; until then Abort undoes it. Its methods are for one goroutine.
type File struct {
	root *os.Root // the caller's, for names in messages
	name string   // relative to root
	dir  *os.Root // the directory of name, held open so that all steps meet the same one
	file *os.File
	temp string  // in dir; "" when written in place or no longer there
	err  error   // the first write error: Commit must not publish a short file
	cold bool    // see Cold
	past *direct // of a cold file not written in place
	flow *Drain  // of a file written in place
}

// Create starts a file that will appear as name in root, with this mode, when it is
// committed. The directory must exist: if not the error is fs.ErrNotExist.
func Create(root *os.Root, name string, mode fs.FileMode) (*File, error) {
	return create(root, name, mode, false)
}

// CreateInPlace starts a file under its final name at once. A name that is there is
// unlinked first, never truncated: it may be a hard link to a file of another backup, or a
// symbolic link. Commit syncs the content only; the name is durable once
// the caller has synced the directory. Abort removes the file. Of a large one hardly anything
// stays in the page cache, see Drain.
func CreateInPlace(root *os.Root, name string, mode fs.FileMode) (*File, error) {
	return create(root, name, mode, true)
}

func create(root *os.Root, name string, mode fs.FileMode, inPlace bool) (*File, error) {
	f := &File{root: root, name: name}
	var err error
	if f.dir, err = root.OpenRoot(path.Dir(name)); err != nil {
		return nil, f.openError(err)
	}
	base, flags := path.Base(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL
	if inPlace {
		if f.file, err = f.dir.OpenFile(base, flags, mode); errors.Is(err, fs.ErrExist) {
			if err = unlink(f.dir, base); err == nil {
				f.file, err = f.dir.OpenFile(base, flags, mode)
			}
		}
	} else {
		f.temp = TempName(base)
		f.file, err = f.dir.OpenFile(f.temp, flags, mode)
	}
	if err != nil {
		f.temp = ""
		f.close()
		return nil, f.openError(err)
	}
	if err = setMode(f.file, mode); err != nil {
		f.Abort()
		return nil, Wrap(errs.FileMode, err, "unable to set mode of '%s'", Path(root, name))
	}
	if inPlace {
		f.flow = &Drain{File: f.file}
	}
	return f, nil
}

// unlink removes what is not a directory; Root.Remove would take an empty one too.
func unlink(dir *os.Root, base string) error {
	if info, err := dir.Lstat(base); err == nil && info.IsDir() {
		return syscall.EISDIR
	}
	return dir.Remove(base)
}

func (f *File) openError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return Wrap(errs.FileMissing, err, "unable to open file '%s' for write in missing path", Path(f.root, f.name))
	}
	return Wrap(errs.FileOpen, err, "unable to open file '%s' for write", Path(f.root, f.name))
}

// setMode undoes what the umask took away. Where the mode is right already nothing is
// called: some network file systems refuse chmod.
func setMode(f *os.File, mode fs.FileMode) error {
	info, err := f.Stat()
	if err != nil || info.Mode().Perm() == mode.Perm() {
		return err
	}
	return f.Chmod(mode)
}

// Write appends p. An error is FileWrite and names the file.
func (f *File) Write(p []byte) (int, error) {
	if f.past != nil {
		n, err := f.past.write(p)
		return n, f.wrote(err)
	}
	n, err := f.file.Write(p)
	if err != nil {
		return n, f.wrote(err)
	}
	if f.flow != nil {
		if err := f.flow.Wrote(n); err != nil {
			f.err = f.syncError(err)
			return n, f.err
		}
	}
	return n, nil
}

// Take appends what one call of read gives, which is lent memory to read into. An error of read
// comes back as it is, one of the file is as Write's.
func (f *File) Take(read func([]byte) (int, error)) (int, error) {
	if f.past != nil {
		n, err := read(f.past.space())
		if n > 0 {
			if err := f.wrote(f.past.gathered(n)); err != nil {
				return n, err
			}
		}
		return n, err
	}
	buf := pieces.Get().(*piece)
	defer pieces.Put(buf)
	n, err := read(buf[:])
	if n > 0 {
		if _, err := f.Write(buf[:n]); err != nil {
			return n, err
		}
	}
	return n, err
}

// wrote notes the error of a write.
func (f *File) wrote(err error) error {
	if err != nil {
		f.err = Wrap(errs.FileWrite, err, "unable to write '%s'", Path(f.root, f.name))
		return f.err
	}
	return nil
}

func (f *File) syncError(err error) error {
	return Wrap(errs.FileSync, err, "unable to sync file '%s' after write", Path(f.root, f.name))
}

// Become changes the name that a file not written in place will have to base, in the same directory.
func (f *File) Become(base string) { f.name = path.Join(path.Dir(f.name), base) }

// Cold says, before anything is written, that nobody will read the file soon if it is of any size: Commit
// leaves nothing of it in the page cache then, whose memory serves others better.
// A file that is not written in place mostly never gets there.
func (f *File) Cold() {
	f.cold = true
	if f.flow == nil {
		f.past = &direct{file: f.file}
	}
}

// Commit makes the file durable and lets it appear under its name, replacing what was
// there. When ctx has ended, or on an error before the rename, the name holds
// what it held and the temporary file is gone. When only the sync of the directory fails
// (PathSync), the name holds all of the new file but may lose it in a crash.
func (f *File) Commit(ctx context.Context) error { return f.commit(ctx, 0) }

// CommitNew is Commit for a name that must not exist yet: if it does the error is
// fs.ErrExist and the name is left as it is. Of several at once exactly one succeeds.
func (f *File) CommitNew(ctx context.Context) error { return f.commit(ctx, unix.RENAME_NOREPLACE) }

// CommitLater is Commit of a file that was created in place, but b makes it durable. When
// that fails the file stays.
func (f *File) CommitLater(ctx context.Context, b *Batch) error {
	if err := f.complete(ctx); err != nil {
		f.Abort()
		return err
	}
	file := f.file
	f.file = nil
	f.close()
	return b.Add(file, f.flow.at, func() error { return f.settle(file) })
}

// complete says whether all was written that was to be.
func (f *File) complete(ctx context.Context) error {
	if f.err != nil {
		return f.err
	}
	if f.past != nil && ctx.Err() == nil {
		if err := f.wrote(f.past.finish()); err != nil {
			return err
		}
	}
	return errs.Wrap(ctx.Err(), "unable to write '%s'", Path(f.root, f.name))
}

// settle makes the content durable and closes the file.
func (f *File) settle(file *os.File) error {
	if err := file.Sync(); err != nil {
		_ = file.Close() // that error matters
		return f.syncError(err)
	}
	if f.cold && f.large() {
		_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED) // an advice
	}
	return Wrap(errs.FileClose, file.Close(), "unable to close file '%s' after write", Path(f.root, f.name))
}

// large says whether the file is so large that Cold matters.
func (f *File) large() bool {
	if f.past != nil {
		return f.past.large
	}
	return f.flow != nil && f.flow.at >= pieceSize
}

func (f *File) commit(ctx context.Context, flags uint) error {
	defer f.Abort()
	if err := f.complete(ctx); err != nil {
		return err
	}
	full := Path(f.root, f.name)
	file := f.file
	f.file = nil
	if err := f.settle(file); err != nil {
		return err
	}
	if f.temp == "" {
		f.close()
		return nil
	}
	// The sync may have taken long: somebody who was told that this was cancelled must not
	// see the name change afterwards.
	if err := ctx.Err(); err != nil {
		return errs.Wrap(err, "unable to write '%s'", full)
	}
	dir, err := f.dir.Open(".")
	if err != nil {
		return Wrap(errs.PathOpen, err, "unable to open path '%s' for sync", path.Dir(full))
	}
	defer func() { _ = dir.Close() }() // only read
	if err := f.publish(int(dir.Fd()), flags); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return Wrap(errs.FileExists, err, "unable to create file '%s'", full)
		}
		return Wrap(errs.FileMove, err, "unable to move '%s' to '%s'", path.Join(path.Dir(full), f.temp), full)
	}
	f.temp = ""
	f.close()
	return syncDir(dir, path.Dir(full))
}

// publish gives the temporary file its name. Not every file system can rename without
// replacing (NFS cannot); link, which never replaces, does it there, at the
// price that a crash in between leaves the temporary name too.
func (f *File) publish(dir int, flags uint) error {
	base := path.Base(f.name)
	if flags == 0 {
		return f.dir.Rename(f.temp, base)
	}
	err := unix.Renameat2(dir, f.temp, dir, base, flags)
	if err == unix.EINVAL || err == unix.ENOSYS {
		if err = f.dir.Link(f.temp, base); err == nil {
			_ = f.dir.Remove(f.temp) // the file is in place; a second name of it does no harm
		}
	}
	return err
}

// Abort ends a file that is not wanted and removes it. After Commit it does nothing.
func (f *File) Abort() {
	if f.dir == nil {
		return
	}
	if f.temp != "" {
		_ = f.dir.Remove(f.temp) // what is left is recognised by its name
	} else {
		_ = f.dir.Remove(path.Base(f.name))
	}
	f.close()
}

func (f *File) close() {
	if f.past != nil {
		f.past.release()
	}
	if f.file != nil {
		_ = f.file.Close() // not wanted any more, or never written to
	}
	_ = f.dir.Close()
	f.file, f.dir = nil, nil
}

// WriteFile puts content under name as Create and Commit do. The directory must exist.
func WriteFile(ctx context.Context, root *os.Root, name string, mode fs.FileMode, content []byte) error {
	f, err := Create(root, name, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Commit(ctx)
}

// Remove removes a file, link or empty directory and makes that durable. A name that is
// not there is no error, and its directory is synced all the same: somebody
// else may have removed it a moment ago.
func Remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Wrap(errs.FileRemove, err, "unable to remove file '%s'", Path(root, name))
	}
	if err := SyncDir(root, path.Dir(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Path names a file as an operator would look for it.
func Path(root *os.Root, name string) string { return filepath.Join(root.Name(), name) }

// Wrap says what could not be done with a file and adds what to do where that is
// known. err is what the operating system said; the call and path Go puts into it are dropped,
// because format already says them. code is as for errs.WrapAs. It gives nil for nil.
func Wrap(code errs.Code, err error, format string, args ...any) error {
	var (
		inPath *fs.PathError
		inLink *os.LinkError
		inCall *os.SyscallError
	)
	switch cause := err; {
	case errors.As(cause, &inPath):
		err = inPath.Err
	case errors.As(cause, &inLink):
		err = inLink.Err
	case errors.As(cause, &inCall):
		err = inCall.Err
	}
	err = errs.WrapAs(code, err, format, args...)
	switch {
	case len(errs.Hints(err)) > 0:
		return err
	case errors.Is(err, syscall.ENOSPC):
		return errs.WithHint(err, "the file system is full: free space (or inodes) on it")
	case errors.Is(err, syscall.EDQUOT):
		return errs.WithHint(err, "the disk quota is used up: free space or raise the quota")
	case errors.Is(err, syscall.EROFS):
		return errs.WithHint(err, "the file system is mounted read-only: look for disk errors in the kernel log before it is mounted writable again")
	}
	return err
}
