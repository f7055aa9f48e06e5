package pgdata

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Files opens the files of a data directory for one goroutine, and looks for the directory once: of small files that is much of what it
// takes to read them. It must be closed.
type Files struct {
	source *Source
	at     int // the data directory, -1 if it is not open
}

// Files gives Files. Nothing is opened yet.
func (s *Source) Files() *Files { return &Files{s, -1} }

// Close lets go of the data directory. What was opened in it stays open.
func (d *Files) Close() {
	if d.at >= 0 {
		unix.Close(d.at)
		d.at = -1
	}
}

// open opens a regular file by its name in a manifest, one part of the name at a time
// and each relative to the directory before. Names come from another host too: none
// leads anywhere that List would not go.
//
// A part that is a link is followed where List follows it, which is everywhere in the
// data directory and behind its links, but only to what is no link itself. What is
// opened is what was looked at: a link that takes the place of a directory meanwhile
// is treated as a link or not found, and never followed unseen. In a tablespace only a
// cluster's own directory can be entered, so that a link in pg_tblspc that leads
// somewhere else gives nothing.
//
// It does not wait for the writer of a pipe that took the name of a file.
func (d *Files) open(name string) (*file, error) {
	rel, err := locate(name)
	if err != nil {
		return nil, err
	}
	if d.at < 0 {
		d.at, err = openRootPath(d.source.path)
	}
	fd := -1
	if err == nil {
		fd, err = openBelow(d.at, d.source.path, rel)
	}
	shown := d.source.path + "/" + rel
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &errs.Error{Code: errs.FileMissing, Message: "unable to open missing file '" + shown + "' for read", Err: err}
	}
	if err != nil {
		return nil, errs.WrapAs(errs.FileOpen, err, "unable to open file '%s' for read", shown)
	}
	var st unix.Stat_t
	err = retry(func() error { return unix.Fstat(fd, &st) })
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	f := &file{fd, shown, st.Size}
	if err != nil {
		return nil, errors.Join(errs.WrapAs(errs.FileOpen, err, "unable to open file '%s' for read", shown), f.Close())
	}
	return f, nil
}

// logged gives an error that is fs.ErrNotExist for a file of an unlogged relation. PostgreSQL creates its
// init fork after it, so the relation may be younger than the list of files. Its init fork
// comes out of the WAL in recovery, which ends with an error if the file it is copied to is
// there already.
func (d *Files) logged(name string) error {
	init, ok := postgres.UnloggedInit(name)
	if !ok {
		return nil
	}
	f, err := d.open(init)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_ = f.Close() // nothing was read
	return &errs.Error{Code: errs.FileMissing, Message: "'" + name + "' is of an unlogged relation", Err: fs.ErrNotExist}
}

// locate gives the path of a file, relative to the data directory, from its name in a
// manifest.
func locate(name string) (string, error) {
	// fs.ValidPath would not do: names of files need not be UTF-8.
	if path.Clean(name) == name && !strings.ContainsRune(name, 0) {
		if rel, ok := strings.CutPrefix(name, rootName+"/"); ok && !strings.HasPrefix(rel, tablespaceName+"/") {
			return rel, nil // a cleaned name has ".." at its beginning only
		}
		parts := strings.SplitN(name, "/", 4)
		if len(parts) == 4 && parts[0] == tablespaceName && isNumber(parts[1]) && strings.HasPrefix(parts[2], "PG_") {
			return name, nil
		}
	}
	return "", errs.New(errs.ParamInvalid, "'%s' is not the name of a file in a data directory", name)
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// reading is how a file is opened that may turn out to be a pipe or a terminal.
const reading = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY

// openRootPath opens the directory that names begin at. The operator named it: links on the way to it are followed.
func openRootPath(path string) (int, error) {
	return openAt(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY)
}

// openBelow opens the file rel of the directory root, whose path is shown in messages.
func openBelow(root int, shown, rel string) (int, error) {
	// With no link on the way, which is nearly always, the kernel does it all at once. What
	// else it says, and that it cannot do it before Linux 5.6, is found again below.
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{
		Flags: reading | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	return walkTo(root, shown, rel)
}

// walkTo opens the file rel of the directory root, part by part.
func walkTo(root int, shown, rel string) (int, error) {
	for at := root; ; {
		part, rest, more := strings.Cut(rel, "/")
		flags := reading
		if more {
			flags = unix.O_PATH | unix.O_DIRECTORY
		}
		next, err := openPart(at, part, flags, shown)
		if at != root {
			unix.Close(at)
		}
		if err != nil || !more {
			return next, err
		}
		shown += "/" + part
		at, rel = next, rest
	}
}

// openPart opens what is called base in the directory at, or what the link of that name
// leads to. shown is the directory's path, for messages.
func openPart(at int, base string, flags int, shown string) (int, error) {
	fd, err := openAt(at, base, flags|unix.O_NOFOLLOW)
	if !isLink(err) {
		return fd, err
	}
	destination, readErr := readlink(at, base)
	switch {
	case errors.Is(readErr, fs.ErrNotExist):
		return -1, readErr // gone meanwhile
	case readErr != nil:
		return -1, err // no link, but no directory either
	}
	fd, err = openAt(at, withoutDots(destination), flags|unix.O_NOFOLLOW)
	if isLink(err) && leadsToLink(at, destination) {
		return -1, errs.New(errs.LinkDestination, "link '%s/%s' cannot reference another link '%s'",
			shown, base, absolute(destination, shown))
	}
	return fd, err
}

// isLink says whether err is what opening a link without following it gives: ENOTDIR
// where only a directory will do. That is also given for what is neither.
func isLink(err error) bool { return errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) }

func leadsToLink(at int, destination string) bool {
	_, err := readlink(at, withoutDots(destination))
	return err == nil
}

// withoutDots takes away what follows the last name of a path: "a/" and "a/." would
// lead through a link a.
func withoutDots(place string) string {
	for {
		short := strings.TrimSuffix(strings.TrimSuffix(place, "/."), "/")
		if short == "" {
			return "/" // links are never empty
		}
		if short == place {
			return place
		}
		place = short
	}
}

func openAt(at int, name string, flags int) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(at, name, flags|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}
