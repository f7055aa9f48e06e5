package durable

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Mkdir makes one directory with this mode. It is not durable before SyncDir of the
// directory above. One that exists is fs.ErrExist, a missing parent fs.ErrNotExist.
func Mkdir(root *os.Root, name string, mode fs.FileMode) error {
	err := root.Mkdir(name, mode)
	if err == nil {
		var dir *os.File
		if dir, err = openDir(root, name); err == nil {
			err = setMode(dir, mode)
			_ = dir.Close() // only read
		}
	}
	return Wrap(errs.PathCreate, err, "unable to create path '%s'", Path(root, name))
}

// MkdirAll makes the directory name and those above it that are missing, all with this
// mode, and syncs the parent of each one it makes. A directory that exists is left
// as it is.
func MkdirAll(root *os.Root, name string, mode fs.FileMode) error {
	if name == "." {
		return nil
	}
	err := Mkdir(root, name, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err = MkdirAll(root, path.Dir(name), mode); err != nil {
			return err
		}
		err = Mkdir(root, name, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		info, serr := root.Stat(name)
		if serr == nil && !info.IsDir() {
			serr = syscall.ENOTDIR
		}
		return Wrap(errs.PathCreate, serr, "unable to create path '%s'", Path(root, name))
	}
	if err != nil {
		return err
	}
	return SyncDir(root, path.Dir(name))
}

// MkdirPath is MkdirAll for a path that is not below a root yet, such as the
// repository path or the lock path. Links in the part that exists are followed.
func MkdirPath(name string, mode fs.FileMode) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return Wrap(errs.PathCreate, err, "unable to create path '%s'", name)
	}
	above, missing := name, "."
	for {
		if _, err := os.Stat(above); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = path.Join(filepath.Base(above), missing)
		above = filepath.Dir(above)
	}
	root, err := os.OpenRoot(above)
	if err != nil {
		return Wrap(errs.PathCreate, err, "unable to create path '%s'", name)
	}
	defer func() { _ = root.Close() }() // nothing is written through it
	return MkdirAll(root, missing, mode)
}

// SyncDir makes durable which names are in the directory name ("." is root itself):
// what was created, renamed or removed there survives a crash.
func SyncDir(root *os.Root, name string) error {
	full := Path(root, name)
	dir, err := openDir(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return Wrap(errs.PathMissing, err, "unable to sync missing path '%s'", full)
	}
	if err != nil {
		return Wrap(errs.PathOpen, err, "unable to open path '%s' for sync", full)
	}
	defer func() { _ = dir.Close() }() // only read
	return syncDir(dir, full)
}

// syncDir takes EINVAL and ENOTSUP for success: so answer file systems that have no
// such operation for a directory (CIFS, some FUSE ones), never ones that lost data.
func syncDir(dir *os.File, full string) error {
	err := dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return Wrap(errs.PathSync, err, "unable to sync path '%s'", full)
}

func openDir(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}
