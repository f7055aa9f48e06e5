package posix

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// batch is how many directory entries are read at once.
const batch = 1024

// List reads directories as they are asked for, a part at a time. What is removed
// meanwhile is left out.
func (s *Storage) List(ctx context.Context, prefix string, what storage.Listing) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		err := s.check(ctx, prefix, true)
		if err == nil && !what.At.IsZero() {
			err = errs.New(errs.FeatureNotSupported, "'%s' has no versions: %w", s.Path(prefix), errors.ErrUnsupported)
		}
		if err == nil {
			err = s.walk(ctx, clean(prefix), func(dir string, e entry) error {
				return s.show(dir, e, what, yield)
			})
		}
		if err != nil && err != errStop {
			yield(storage.Object{}, err)
		}
	}
}

var (
	errStop    = errors.New("the caller has seen enough")
	errDescend = errors.New("look into this directory too")
)

func (s *Storage) show(dir string, e entry, what storage.Listing, yield func(storage.Object, error) bool) error {
	unfinished := durable.IsTemp(e.name) && e.typ != storage.Dir
	if unfinished && !what.Unfinished {
		return nil
	}
	if unfinished == what.Unfinished && (len(what.Only) == 0 || slices.Contains(what.Only, e.typ)) {
		name := join(dir, e.name)
		o := storage.Object{Name: name, Type: e.typ}
		var err error
		if !what.NamesOnly {
			var info fs.FileInfo
			if info, err = s.root.Lstat(name); err == nil {
				o, err = s.describe(name, info)
			}
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return s.fail(errs.FileInfo, err, "unable to get info for path/file '%s'", name)
		case !yield(o, nil):
			return errStop
		}
	}
	if e.typ == storage.Dir && what.Recurse {
		return errDescend
	}
	return nil
}

// join is path.Join of names that are clean.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// walk calls visit for each entry of the directory dir and, where visit gives
// errDescend, for what is below. Links are not followed except dir itself. A directory that is
// not there has no entries.
func (s *Storage) walk(ctx context.Context, dir string, visit func(dir string, e entry) error) error {
	f, err := s.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return s.fail(errs.PathOpen, err, "unable to list file info for path '%s'", dir)
	}
	defer func() { _ = f.Close() }() // only read
	list, err := newEntries(f, func(name string) (fs.FileInfo, error) { return s.root.Lstat(join(dir, name)) })
	defer list.release()
	for n := 0; err == nil; n++ {
		if n%batch == 0 && ctx.Err() != nil {
			return errs.Wrap(ctx.Err(), "unable to list file info for path '%s'", s.Path(dir))
		}
		var e entry
		if e, err = list.next(); err != nil {
			break
		}
		verr := visit(dir, e)
		if verr == errDescend {
			verr = s.walk(ctx, join(dir, e.name), visit)
		}
		if verr != nil {
			return verr
		}
	}
	if err == io.EOF {
		return nil
	}
	return s.fail(errs.PathOpen, err, "unable to list file info for path '%s'", dir)
}

// Remove removes files, links and empty directories.
func (s *Storage) Remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := s.check(ctx, name, false); err != nil {
			return err
		}
		if err := s.remove(s.root, name, name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes name in root; full is its name in the repository.
func (s *Storage) remove(root *os.Root, name, full string) error {
	err := root.Remove(name)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil
	case errors.Is(err, syscall.ENOTEMPTY):
		return s.fail(errs.PathRemove, err, "unable to remove path '%s'", full)
	}
	return s.fail(errs.FileRemove, err, "unable to remove file '%s'", full)
}

// RemoveAll removes name and, if it is a directory, what is below it. Links are
// removed, not followed. When ctx ends it stops between two files.
func (s *Storage) RemoveAll(ctx context.Context, name string) error {
	if err := s.check(ctx, name, false); err != nil {
		return err
	}
	return s.removeAll(ctx, s.root, name, name)
}

// removeAll works from directory to directory, so that a path is not resolved from the
// top for each of a million files.
func (s *Storage) removeAll(ctx context.Context, root *os.Root, name, full string) error {
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return s.remove(root, name, full)
	}
	dir, err := root.OpenRoot(name)
	if err != nil {
		return s.fail(errs.PathOpen, err, "unable to remove path '%s'", full)
	}
	err = s.empty(ctx, dir, full)
	_ = dir.Close() // only a handle
	if err != nil {
		return err
	}
	return s.remove(root, name, full)
}

func (s *Storage) empty(ctx context.Context, dir *os.Root, full string) error {
	f, err := dir.Open(".")
	if err != nil {
		return s.fail(errs.PathOpen, err, "unable to remove path '%s'", full)
	}
	defer func() { _ = f.Close() }() // only read
	for {
		entries, err := f.ReadDir(batch)
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return errs.Wrap(err, "unable to remove path '%s'", s.Path(full))
			}
			remove := s.remove
			if e.IsDir() {
				remove = func(root *os.Root, name, full string) error { return s.removeAll(ctx, root, name, full) }
			}
			if err := remove(dir, e.Name(), path.Join(full, e.Name())); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return s.fail(errs.PathOpen, err, "unable to remove path '%s'", full)
		}
	}
}

// Sync syncs the directories below name, name itself and those above it up to the
// repository path, after the files that were gathered. Others have been synced by Put; if name is a
// file, that one is synced again, for a caller that found it and does not know who wrote it.
func (s *Storage) Sync(ctx context.Context, name string) error {
	if err := s.check(ctx, name, true); err != nil {
		return err
	}
	if err := s.gathered.Flush(); err != nil {
		return err
	}
	name = clean(name)
	settled := s.madeWithin(name)
	dirs := parents(name)
	switch info, err := s.root.Lstat(name); {
	case err == nil && info.IsDir():
		dirs = append(dirs, name)
		err := s.walk(ctx, name, func(dir string, e entry) error {
			if e.typ != storage.Dir {
				return nil
			}
			dirs = append(dirs, join(dir, e.name))
			return errDescend
		})
		if err != nil {
			return err
		}
	case err == nil && info.Mode().IsRegular():
		if err := s.syncFile(name); err != nil {
			return err
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return s.fail(errs.PathSync, err, "unable to sync path '%s'", name)
	}
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return errs.Wrap(err, "unable to sync path '%s'", s.Path(dir))
		}
		// What is gone has been removed, which the sync of the directory above makes durable.
		err := durable.SyncDir(s.root, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return s.explain(err, name)
		}
	}
	for dir, made := range settled {
		s.forget(dir, made)
	}
	return nil
}

// madeWithin gives the new directories that a Sync of name makes durable.
func (s *Storage) madeWithin(name string) map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]uint64{}
	for dir, made := range s.made {
		if within(dir, name) || within(name, dir) {
			found[dir] = made
		}
	}
	return found
}

func (s *Storage) syncFile(name string) error {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		err = f.Sync()
		_ = f.Close() // only read
	}
	return s.fail(errs.FileSync, err, "unable to sync file '%s'", name)
}
