package pgdata

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// dir is an open directory of the target. Whatever is done in it is done relative
// to its descriptor and follows no link, so that neither a name from a manifest nor a
// link that somebody plants while a restore runs can lead a write anywhere else.
type dir struct {
	fd   int
	path string // for messages only
}

// noFollow is what every open below a root has in common.
const noFollow = unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK

// openRoot opens the directory path itself. The operator named it, or agreed to it,
// so links on the way to it are followed, this once.
func openRoot(path string) (*dir, error) {
	fd, err := eintr(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, errs.WrapAs(errs.PathOpen, err, "unable to open path '%s'", path)
	}
	return &dir{fd, path}, nil
}

func (d *dir) close() { _ = unix.Close(d.fd) }

func (d *dir) child(name string) string { return d.path + "/" + name }

// open opens the directory rel below d.
func (d *dir) open(rel string) (*dir, error) {
	if rel == "" || rel == "." {
		rel = "."
	}
	// The kernel does it at once, from Linux 5.6 on. What it refuses is found again below, and
	// what it is.
	fd, err := unix.Openat2(d.fd, rel, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | noFollow, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err == nil {
		path := d.path
		if rel != "." {
			path = d.child(rel)
		}
		return &dir{fd, path}, nil
	}
	return d.walk(rel)
}

// walk opens the directory rel below d, one name at a time.
func (d *dir) walk(rel string) (*dir, error) {
	at := d
	for name := range strings.SplitSeq(rel, "/") {
		fd, err := eintr(func() (int, error) {
			return unix.Openat(at.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|noFollow, 0)
		})
		path := at.child(name)
		if name == "." {
			path = at.path
		}
		if at != d {
			at.close()
		}
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, errs.New(errs.PathMissing, "unable to open missing path '%s': %w", path, err)
			}
			return nil, errs.WrapAs(errs.PathOpen, linkError(err), "unable to open path '%s'", path)
		}
		at = &dir{fd, path}
	}
	return at, nil
}

// linkError says in words what the kernel answers to a link where none may be.
func linkError(err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return errs.New(errs.PathOpen, "it is a link or no directory and is not followed: %w", err)
	}
	return err
}

// names lists the entries of d in byte order.
func (d *dir) names() ([]string, error) {
	// A descriptor of its own: reading moves the offset that duplicates share.
	fd, err := eintr(func() (int, error) {
		return unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		f := os.NewFile(uintptr(fd), d.path)
		var names []string
		names, err = f.Readdirnames(-1)
		_ = f.Close()
		if err == nil {
			slices.Sort(names)
			return names, nil
		}
	}
	return nil, errs.WrapAs(errs.PathOpen, err, "unable to list file info for path '%s'", d.path)
}

// stat describes an entry; a link is not followed. What is not there has ok false.
func (d *dir) stat(name string) (st unix.Stat_t, ok bool, err error) {
	_, err = eintr(func() (int, error) {
		return 0, unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return st, false, nil
	}
	if err != nil {
		return st, false, errs.WrapAs(errs.FileInfo, err, "unable to get info for path/file '%s'", d.child(name))
	}
	return st, true, nil
}

func (d *dir) self() (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return st, errs.WrapAs(errs.FileInfo, err, "unable to get info for path/file '%s'", d.path)
	}
	return st, nil
}

// create makes a file that was not there: a link or another file of that name is
// never written through. Only the caller's user can read it until it is given away.
func (d *dir) create(name string) (*os.File, error) {
	fd, err := eintr(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|noFollow&^unix.O_NONBLOCK, 0o600)
	})
	if err != nil {
		return nil, errs.WrapAs(errs.FileOpen, err, "unable to open file '%s' for write", d.child(name))
	}
	return os.NewFile(uintptr(fd), d.child(name)), nil
}

// openFile opens an existing regular file that no other name leads to.
func (d *dir) openFile(name string, flags int) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := eintr(func() (int, error) { return unix.Openat(d.fd, name, flags|noFollow, 0) })
	if err != nil {
		return nil, st, errs.WrapAs(errs.FileOpen, linkError(err), "unable to open file '%s' for read", d.child(name))
	}
	f := os.NewFile(uintptr(fd), d.child(name))
	if err = unix.Fstat(fd, &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1) {
		err = errs.New(errs.FileOpen, "it is no regular file or has other links")
	}
	if err != nil {
		_ = f.Close()
		return nil, st, errs.WrapAs(errs.FileOpen, err, "unable to open file '%s' for read", d.child(name))
	}
	return f, st, nil
}

// remove deletes an entry that is no directory. A missing one is no error.
func (d *dir) remove(name string) error {
	_, err := eintr(func() (int, error) { return 0, unix.Unlinkat(d.fd, name, 0) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errs.WrapAs(errs.FileRemove, err, "unable to remove file '%s'", d.child(name))
	}
	return nil
}

// removeAll deletes an entry with everything below it.
func (d *dir) removeAll(name string) error {
	st, ok, err := d.stat(name)
	if err != nil || !ok {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return d.remove(name)
	}
	sub, err := d.open(name)
	if err != nil {
		return err
	}
	defer sub.close()
	names, err := sub.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := sub.removeAll(n); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errs.WrapAs(errs.PathRemove, err, "unable to remove path '%s'", sub.path)
	}
	return nil
}

// chmod changes the mode of an entry that is no link.
func (d *dir) chmod(name string, mode uint32) error {
	// O_PATH needs no permission on the entry itself, and the name below /proc leads to
	// what was opened, whatever has taken its place since.
	fd, err := eintr(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil {
			if st.Mode&unix.S_IFMT == unix.S_IFLNK || (st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink != 1) {
				err = unix.ELOOP
			} else {
				err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
			}
		}
	}
	if err != nil {
		return errs.WrapAs(errs.FileMode, err, "unable to set mode for '%s'", d.child(name))
	}
	return nil
}

// chown changes the owner of an entry, of a link the link's own.
func (d *dir) chown(name string, uid, gid int) error {
	if err := unix.Fchownat(d.fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return errs.New(errs.FileOwner, "unable to set ownership for '%s': %w", d.child(name), err)
	}
	return nil
}

// sync makes the entries of d durable.
func (d *dir) sync() error {
	if _, err := eintr(func() (int, error) { return 0, unix.Fsync(d.fd) }); err != nil {
		return errs.WrapAs(errs.PathSync, err, "unable to sync path '%s'", d.path)
	}
	return nil
}

func (d *dir) readlink(name string) (string, error) {
	buf := make([]byte, 4096) // PATH_MAX: no link is longer
	n, err := unix.Readlinkat(d.fd, name, buf)
	if err != nil {
		return "", errs.WrapAs(errs.FileInfo, err, "unable to get info for path/file '%s'", d.child(name))
	}
	return string(buf[:n]), nil
}

// makeRoot makes the directory path and those missing above it, each durably and each
// given to own: a server that cannot pass the upper ones cannot use the lowest.
func makeRoot(path string, mode uint32, own owner) error {
	if parent := filepath.Dir(path); parent != path {
		if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
			if err := makeRoot(parent, mode, own); err != nil {
				return err
			}
		}
	}
	parent, err := openRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.close()
	if err := parent.mkdir(filepath.Base(path), mode, own); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return parent.sync()
}

// mkdir makes a directory with exactly this mode, whatever the umask.
func (d *dir) mkdir(name string, mode uint32, own owner) error {
	if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
		return errs.WrapAs(errs.PathCreate, err, "unable to create path '%s'", d.child(name))
	}
	sub, err := d.open(name)
	if err != nil {
		return err
	}
	defer sub.close()
	if own.set {
		if err := unix.Fchown(sub.fd, own.uid, own.gid); err != nil {
			return errs.New(errs.FileOwner, "unable to set ownership for '%s': %w", sub.path, err)
		}
	}
	if err := unix.Fchmod(sub.fd, mode); err != nil {
		return errs.WrapAs(errs.FileMode, err, "unable to set mode for '%s'", sub.path)
	}
	return nil
}

func (d *dir) symlink(target, name string, own owner) error {
	if err := unix.Symlinkat(target, d.fd, name); err != nil {
		return errs.WrapAs(errs.FileOpen, err, "unable to create symlink '%s' to '%s'", d.child(name), target)
	}
	if own.set {
		return d.chown(name, own.uid, own.gid)
	}
	return nil
}

// eintr repeats what a signal interrupted.
func eintr[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return v, err
		}
	}
}
