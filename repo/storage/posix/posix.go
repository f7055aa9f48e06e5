// Package posix keeps a repository in a directory of a local or mounted file system.
//
// Everything goes through an os.Root: the repository path may itself be a symbolic link,
// but no name and no link below it leads out of it. Files are 0640 and directories
// 0750 whatever the umask, as pgBackRest makes them.
package posix

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Modes of what is made in a repository (pgBackRest src/storage/storage.intern.h).
const (
	FileMode fs.FileMode = 0o640
	DirMode  fs.FileMode = 0o750
)

// Missing says what New does when the repository path is not there.
type Missing int

// With Refuse the error is fs.ErrNotExist: a file system that is not mounted must not look
// like a new repository. Create is for commands that start one.
const (
	Refuse Missing = iota
	Create
)

// Storage is a storage.Storage in a directory.
type Storage struct {
	root *os.Root

	// New directories become durable with the next Atomic Put below them or the next
	// Sync. Until then they are here, so that neither has to sync directories that
	// were there before, and so that of two writers in a directory one of them just
	// made, both wait until it is durable.
	// The number tells a directory from one of that name made later.
	mu    sync.Mutex
	made  map[string]uint64
	count uint64

	gathered durable.Batch
}

var (
	_ storage.Storage  = (*Storage)(nil)
	_ storage.Gatherer = (*Storage)(nil)
)

// New opens the repository in the directory repoPath, absolute. Close it after use.
func New(repoPath string, missing Missing) (*Storage, error) {
	root, err := os.OpenRoot(repoPath)
	if errors.Is(err, fs.ErrNotExist) && missing == Create {
		if err := durable.MkdirPath(repoPath, DirMode); err != nil {
			return nil, err
		}
		root, err = os.OpenRoot(repoPath)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.WithHint(durable.Wrap(errs.PathMissing, err, "unable to open repository path '%s'", repoPath),
			"is the file system of the repository mounted?")
	}
	if err != nil {
		return nil, durable.Wrap(errs.PathOpen, err, "unable to open repository path '%s'", repoPath)
	}
	return &Storage{root: root, made: map[string]uint64{}}, nil
}

// Close gives the directory handle back. Nothing may be under way.
func (s *Storage) Close() error { return errors.Join(s.gathered.Flush(), s.root.Close()) }

// Path gives the absolute path of an object.
func (s *Storage) Path(name string) string { return durable.Path(s.root, name) }

// Features: a file system has everything but versions.
func (s *Storage) Features() storage.Features {
	return storage.Features{Dirs: true, Symlinks: true, Links: true}
}

// fail is durable.Wrap for what could not be done with the object name.
func (s *Storage) fail(code errs.Code, err error, format, name string) error {
	return s.explain(durable.Wrap(code, err, format, s.Path(name)), name)
}

// explain says of a name refused by os.Root why it is, and what to do.
func (s *Storage) explain(err error, name string) error {
	if err == nil || !strings.HasSuffix(errs.Message(err), "path escapes from parent") { // os exports no value to compare with
		return err
	}
	return &errs.Error{
		Code: errs.Access, Message: "'" + s.Path(name) + "' leads out of the repository through a link", Err: err,
		Hints: []string{"links below the repository path must be relative and stay in it: mount the other file system there instead"},
	}
}

// check is what every method does first. dirOK is for names that may be "", the
// repository itself.
func (s *Storage) check(ctx context.Context, name string, dirOK bool) error {
	if err := ctx.Err(); err != nil {
		return errs.Wrap(err, "unable to access '%s'", s.Path(name))
	}
	if dirOK && name == "" || name != "." && fs.ValidPath(name) && !strings.ContainsRune(name, 0) {
		return nil
	}
	return errs.New(errs.ParamInvalid, "'%s' is not a name of an object in '%s': %w", name, s.root.Name(), fs.ErrInvalid)
}

// Open reads an object through its file, which is only ever replaced and never
// changed by an Atomic Put, so what is read is of one piece.
func (s *Storage) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	if err := s.check(ctx, name, false); err != nil {
		return nil, err
	}
	switch {
	case at.Version != "":
		return nil, errs.New(errs.FeatureNotSupported, "'%s' has no versions: %w", s.Path(name), errors.ErrUnsupported)
	case at.Offset < 0 || at.Length < 0:
		return nil, errs.New(errs.ParamInvalid, "range %d+%d of '%s': %w", at.Offset, at.Length, s.Path(name), fs.ErrInvalid)
	}
	// O_NONBLOCK: a FIFO somebody left here must be an error, not a wait.
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &errs.Error{Code: errs.FileMissing, Message: "unable to open missing file '" + s.Path(name) + "' for read", Err: err}
	}
	if err == nil {
		err = readable(f, at.Offset)
	}
	if err != nil {
		if f != nil {
			_ = f.Close() // only read
		}
		return nil, s.fail(errs.FileOpen, err, "unable to open file '%s' for read", name)
	}
	return &reader{ended: ctx.Err, file: f, path: s.Path(name), left: at.Length, limited: at.Length > 0, from: at.Offset}, nil
}

func readable(f *os.File, offset int64) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return syscall.EINVAL
	case offset > 0:
		_, err = f.Seek(offset, io.SeekStart)
	}
	return err
}

// reader reads a part of a file until the context of its Open has ended.
type reader struct {
	ended   func() error
	file    *os.File
	path    string
	left    int64
	limited bool
	from    int64 // offset of the first byte
	read    int64 // bytes
}

// What was read of a large object is taken out of the page cache every passWindow bytes, for
// hardly anybody reads it again soon, and what is read next gets the same pages, see
// durable.Drain. Objects of up to passKept bytes stay: several may fetch the same WAL.
const (
	passWindow = 4 << 20
	passKept   = 16 << 20
)

// pass counts n more bytes as read.
func (r *reader) pass(n int) {
	before := r.read / passWindow
	r.read += int64(n)
	if r.read > passKept && r.read/passWindow > before {
		_ = unix.Fadvise(int(r.file.Fd()), r.from, r.read, unix.FADV_DONTNEED) // an advice
	}
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ended(); err != nil {
		return 0, errs.Wrap(err, "unable to read '%s'", r.path)
	}
	if r.limited {
		if r.left == 0 {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), r.left)]
	}
	n, err := r.file.Read(p)
	r.left -= int64(n)
	r.pass(n)
	if err != nil && err != io.EOF {
		err = durable.Wrap(errs.FileRead, err, "unable to read '%s'", r.path)
	}
	return n, err
}

func (r *reader) Close() error {
	return durable.Wrap(errs.FileClose, r.file.Close(), "unable to close file '%s' after read", r.path)
}

// Stat describes what is under name; a link is described, not followed.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Object, error) {
	if err := s.check(ctx, name, false); err != nil {
		return storage.Object{}, err
	}
	info, err := s.root.Lstat(name)
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist // what is above is a file: the name is as missing as it can be
	}
	if errors.Is(err, fs.ErrNotExist) {
		return storage.Object{}, s.fail(errs.FileMissing, err, "unable to get info for missing path/file '%s'", name)
	}
	if err != nil {
		return storage.Object{}, s.fail(errs.FileInfo, err, "unable to get info for path/file '%s'", name)
	}
	return s.describe(name, info)
}

func (s *Storage) describe(name string, info fs.FileInfo) (storage.Object, error) {
	o := storage.Object{Name: name, Type: typeOf(info.Mode()), ModTime: info.ModTime()}
	switch o.Type {
	case storage.File:
		o.Size = info.Size()
	case storage.Link:
		var err error
		if o.Target, err = s.root.Readlink(name); err != nil {
			return o, s.fail(errs.FileInfo, err, "unable to get info for path/file '%s'", name)
		}
	}
	return o, nil
}

func typeOf(mode fs.FileMode) storage.Type {
	switch {
	case mode.IsRegular():
		return storage.File
	case mode.IsDir():
		return storage.Dir
	case mode&fs.ModeSymlink != 0:
		return storage.Link
	}
	return storage.Special
}

// clean gives the form os.Root wants: "." for the repository itself.
func clean(name string) string { return filepath.Clean(name) }

// within says whether name is the directory dir or below it.
func within(name, dir string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}

func parents(name string) []string {
	var list []string
	for name != "." {
		name = path.Dir(name)
		list = append(list, name)
	}
	return list
}
