package posix

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Put writes Atomic and Exclusive objects through a temporary file and Staged ones
// straight under their name; the content of either is synced. See storage.Storage.
func (s *Storage) Put(ctx context.Context, name string, src io.Reader, how storage.Write) error {
	create := durable.Create
	if how == storage.Staged {
		create = durable.CreateInPlace
	}
	f, err := s.write(ctx, name, src, create)
	if err != nil {
		return err
	}
	defer f.Abort()
	if how == storage.Staged {
		return f.Commit(ctx)
	}
	// Directories first: an object that can be seen must also survive.
	if err := s.settle(name); err != nil {
		return err
	}
	if how == storage.Exclusive {
		return f.CommitNew(ctx)
	}
	return f.Commit(ctx)
}

// PutNamed writes an object whose name is known at its end. See storage.Namer.
func (s *Storage) PutNamed(ctx context.Context, about string, src io.Reader, name func() string) error {
	f, err := s.write(ctx, about, src, durable.Create)
	if err != nil {
		return err
	}
	defer f.Abort()
	final := name()
	if err := s.check(ctx, final, false); err != nil {
		return err
	}
	if path.Dir(final) != path.Dir(about) {
		return errs.New(errs.Assert, "'%s' is not in the directory of '%s'", final, about)
	}
	f.Become(path.Base(final))
	if err := s.settle(final); err != nil {
		return err
	}
	return f.Commit(ctx)
}

// Gather writes an object as Put does a Staged one and leaves the sync to a few at a time.
func (s *Storage) Gather(ctx context.Context, name string, src io.Reader) error {
	f, err := s.write(ctx, name, src, durable.CreateInPlace)
	if err != nil {
		return err
	}
	return f.CommitLater(ctx, &s.gathered)
}

// Flush makes durable what objects hold that were gathered.
func (s *Storage) Flush(context.Context) error { return s.gathered.Flush() }

// write writes what src gives to a new file, which is not committed yet.
func (s *Storage) write(ctx context.Context, name string, src io.Reader,
	create func(*os.Root, string, fs.FileMode) (*durable.File, error)) (*durable.File, error) {

	if err := s.check(ctx, name, false); err != nil {
		return nil, err
	}
	f, err := create(s.root, name, FileMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDir(path.Dir(name)); err != nil {
			return nil, err
		}
		f, err = create(s.root, name, FileMode)
	}
	if err != nil {
		return nil, s.explain(err, name)
	}
	f.Cold()
	if _, err := io.Copy(&writer{ended: ctx.Err, file: f}, src); err != nil {
		f.Abort()
		return nil, errs.Wrap(err, "unable to store '%s'", s.Path(name))
	}
	return f, nil
}

// writer stops when the context of its Put has ended, so that nothing is written after that.
type writer struct {
	ended func() error
	file  *durable.File
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.ended(); err != nil {
		return 0, err
	}
	return w.file.Write(p)
}

func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	read := func(p []byte) (int, error) {
		n, err := src.Read(p)
		if ended := w.ended(); ended != nil {
			return 0, ended
		}
		return n, err
	}
	var total int64
	for {
		if err := w.ended(); err != nil {
			return total, err
		}
		n, err := w.file.Take(read)
		total += int64(n)
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// MakeDir makes a directory and those above it.
func (s *Storage) MakeDir(ctx context.Context, name string) error {
	if err := s.check(ctx, name, false); err != nil {
		return err
	}
	return s.makeDir(name)
}

func (s *Storage) makeDir(name string) error {
	if name == "." {
		return nil
	}
	// Noted before it exists: whoever finds it finds the note too.
	s.mu.Lock()
	s.count++
	s.made[name] = s.count
	s.mu.Unlock()
	err := durable.Mkdir(s.root, name, DirMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDir(path.Dir(name)); err != nil {
			return err
		}
		err = durable.Mkdir(s.root, name, DirMode)
	}
	if errors.Is(err, fs.ErrExist) {
		info, err := s.root.Stat(name)
		if err == nil && !info.IsDir() {
			err = syscall.ENOTDIR
		}
		return s.fail(errs.PathCreate, err, "unable to create path '%s'", name)
	}
	return s.explain(err, name)
}

// settle makes the directories above name durable that this Storage made.
func (s *Storage) settle(name string) error {
	above := parents(name)
	for i := len(above) - 1; i >= 0; i-- {
		dir := above[i]
		s.mu.Lock()
		made, found := s.made[dir]
		s.mu.Unlock()
		if !found {
			continue
		}
		if err := durable.SyncDir(s.root, path.Dir(dir)); err != nil {
			return err
		}
		s.forget(dir, made)
	}
	return nil
}

// forget drops the note about a directory that is durable now, unless it was made anew.
func (s *Storage) forget(dir string, made uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made[dir] == made {
		delete(s.made, dir)
	}
}

// Symlink makes name a link to target; the link appears whole, replacing a link.
func (s *Storage) Symlink(ctx context.Context, target, name string) error {
	if err := s.check(ctx, name, false); err != nil {
		return err
	}
	const format = "unable to create link '%s'"
	if info, err := s.root.Lstat(name); err == nil && typeOf(info.Mode()) != storage.Link {
		return s.fail(errs.LinkExpected, fs.ErrExist, format, name)
	}
	temp := durable.TempName(name)
	err := s.root.Symlink(target, temp)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDir(path.Dir(name)); err != nil {
			return err
		}
		err = s.root.Symlink(target, temp)
	}
	if err == nil {
		if err = s.root.Rename(temp, name); err != nil {
			_ = s.root.Remove(temp) // the error is told; what is left is recognised by its name
		}
	}
	return s.fail(errs.FileWrite, err, format, name)
}

// Link gives a file a further name. One that exists is fs.ErrExist.
func (s *Storage) Link(ctx context.Context, old, name string) error {
	if err := errors.Join(s.check(ctx, old, false), s.check(ctx, name, false)); err != nil {
		return err
	}
	switch _, err := s.root.Lstat(old); {
	case errors.Is(err, fs.ErrNotExist):
		return s.fail(errs.FileMissing, err, "unable to link missing file '%s'", old)
	case err != nil:
		return s.fail(errs.FileInfo, err, "unable to get info for path/file '%s'", old)
	}
	err := s.root.Link(old, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDir(path.Dir(name)); err != nil {
			return err
		}
		err = s.root.Link(old, name)
	}
	if errors.Is(err, fs.ErrExist) {
		return s.fail(errs.FileExists, err, "unable to create link '%s'", name)
	}
	return s.fail(errs.FileWrite, err, "unable to create link '%s'", name)
}
