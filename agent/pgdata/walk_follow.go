package pgdata

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// link gives the link base of p and what it leads to.
func (w *walker) link(p walkDir, base string, st *unix.Stat_t) error {
	path := p.path + "/" + base
	destination, err := readlink(p.fd, base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.WrapAs(errs.FileRead, err, "read link '%s'", path)
	}
	var behind unix.Stat_t
	where := absolute(destination, p.path)
	if err := unix.Lstat(where, &behind); err == nil && behind.Mode&unix.S_IFMT == unix.S_IFLNK {
		return errs.New(errs.LinkDestination, "link '%s' cannot reference another link '%s'", path, where)
	}
	if p.name == tablespaceLinks {
		return w.tablespaceLink(p, base, destination, st)
	}

	err = retry(func() error { return unix.Fstatat(p.fd, base, &behind, 0) })
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && gone(p.fd, base) {
		return nil
	}
	if err != nil && !missing {
		return errs.WrapAs(errs.FileInfo, err, "look at what link '%s' leads to", path)
	}
	toFile := !missing && behind.Mode&unix.S_IFMT != unix.S_IFDIR
	name := p.child(base)
	// A link into PGDATA is told before one that leads nowhere.
	if err := w.links.add(name, p.path, destination, toFile); err != nil {
		return err
	}
	if missing {
		return leadsNowhere(path)
	}
	e := w.entry(Link, name, st)
	e.Mode, e.Target, e.ToFile = 0, destination, toFile
	if err := w.give(e); err != nil {
		return err
	}
	return w.item(p, base, &behind, true)
}

// tablespaceLink gives a tablespace: the link in pg_tblspc, the two directories that
// stand for it in a manifest, and this cluster's directory in it.
func (w *walker) tablespaceLink(p walkDir, base, destination string, st *unix.Stat_t) error {
	path := p.path + "/" + base
	oid, err := strconv.ParseUint(base, 10, 32)
	if err != nil {
		return errs.New(errs.Format, "link '%s' is not named by the oid of a tablespace", path)
	}
	var behind unix.Stat_t
	own := base + "/" + w.tablespace
	err = retry(func() error { return unix.Fstatat(p.fd, own, &behind, 0) })
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && gone(p.fd, base) {
		return nil // dropped just now
	}
	if err != nil && !missing {
		return errs.WrapAs(errs.FileInfo, err, "look at tablespace '%s/%s'", p.path, own)
	}
	name := tablespaceName + "/" + base
	if err := w.links.add(name, p.path, destination, false); err != nil {
		return err
	}
	if missing {
		return leadsNowhere(p.path + "/" + own)
	}

	e := w.entry(Link, p.child(base), st)
	e.Mode, e.Target, e.Tablespace = 0, destination, uint32(oid)
	if err := w.give(e); err != nil {
		return err
	}
	if !w.spcGiven {
		w.spcGiven = true
		all := w.root
		all.Name = tablespaceName
		if err := w.give(all); err != nil {
			return err
		}
	}
	one := w.spcLinks
	one.Name = name
	if err := w.give(one); err != nil {
		return err
	}
	fd, err := p.openBehind(p.fd, base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.WrapAs(errs.PathOpen, err, "open tablespace '%s'", path)
	}
	defer unix.Close(fd)
	return w.item(walkDir{fd: fd, name: name, path: path}, w.tablespace, &behind, true)
}

func leadsNowhere(path string) error {
	return errs.New(errs.FileOpen, "unable to get info for missing path/file '%s'", path)
}

// gone says whether the name base is no longer in the directory.
func gone(fd int, base string) bool {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return errors.Is(err, fs.ErrNotExist)
}

func readlink(fd int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	var n int
	err := retry(func() (err error) {
		n, err = unix.Readlinkat(fd, base, buf)
		return err
	})
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// absolute gives the place a link in the directory at leads to.
func absolute(destination, at string) string {
	if filepath.IsAbs(destination) {
		return filepath.Clean(destination)
	}
	return filepath.Join(at, destination)
}
