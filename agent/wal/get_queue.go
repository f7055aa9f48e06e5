package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Names in a queue beside those of segments.
const (
	// ownerFile says whose queue it is. A directory without is nobody's: pgBackRest left it, or
	// emptied it, which takes this file along.
	ownerFile = "owner"

	// requestLink is a symbolic link to the name of the last segment that was found, in the queue
	// or by archive-get itself; the queue is to hold those after it. A link, because one is
	// replaced and read as a whole, and takes no block of a disk.
	requestLink = "request"
)

// queue is the directory in/ of a spool, as the queue of one recovery. It is the directory
// and not its path: what restore removes, or another recovery replaces, is not followed.
// Only the worker adds segments. They have their name when they are complete and verified;
// one on its way has tempSuffix behind it, from before it is looked for.
type queue struct{ root *os.Root }

// ownerOf identifies a recovery in an ownerFile. Nothing in a queue is synced, so what was
// there before the machine came up is not trusted.
func ownerOf(pgPath string, c Cluster) ([]byte, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, errs.WrapAs(errs.FileOpen, err, "unable to tell when this machine came up")
	}
	return fmt.Appendf(nil, "pg-path=%s\npg-version=%s\nsystem-id=%d\nboot-id=%s", pgPath, c.Version, c.SystemID, boot), nil
}

// openQueue gives the queue at path if it is the owner's. It is fs.ErrNotExist if
// there is none, and errForeign if it is somebody else's.
func openQueue(path string, owner []byte) (*queue, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, errs.WrapAs(errs.PathOpen, err, "unable to open the queue of WAL")
	}
	q := &queue{root}
	if err := q.checkOwner(owner); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// errForeign is that a queue is not ours.
var errForeign = errors.New("the queue of WAL belongs to another recovery")

func (q *queue) checkOwner(owner []byte) error {
	is, err := q.root.ReadFile(ownerFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errForeign
	case err != nil:
		return errs.WrapAs(errs.FileOpen, err, "unable to tell whose the queue of WAL is")
	case !bytes.Equal(is, owner):
		return errForeign
	}
	return nil
}

// newQueue makes an empty queue at path in place of what is there. The worker's lock is held.
func newQueue(path string, owner []byte) (*queue, error) {
	// Out of the way first, so that who has it open keeps it as it is.
	err := os.Rename(path, durable.TempName(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, durable.Wrap(errs.PathRemove, err, "unable to empty the queue of WAL '%s'", path)
	}
	old, err := filepath.Glob(path + ".*" + durable.TempSuffix)
	if err != nil {
		old = nil // a path with the characters of a pattern
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return nil, durable.Wrap(errs.PathRemove, err, "unable to remove the queue of WAL '%s'", dir)
		}
	}
	if err := os.Mkdir(path, spoolDirMode); err != nil {
		return nil, durable.Wrap(errs.PathCreate, err, "unable to create path '%s'", path)
	}
	root, err := os.OpenRoot(path)
	if err == nil {
		if err = root.WriteFile(ownerFile, owner, spoolFileMode); err != nil {
			_ = root.Close() // the error of the write tells more
		}
	}
	if err != nil {
		return nil, durable.Wrap(errs.FileWrite, err, "unable to make the queue of WAL '%s'", path)
	}
	return &queue{root}, nil
}

func (q *queue) close() { _ = q.root.Close() } // nothing is written through it

// isAt says whether the queue is still what is found at its path.
func (q *queue) isAt(path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	here, err := q.root.Stat(".")
	return err == nil && os.SameFile(here, there)
}

// asked reads the request.
func (q *queue) asked() (string, error) { return q.root.Readlink(requestLink) }

// ask writes the request.
func (q *queue) ask(name string) error {
	temp := fmt.Sprintf("%s.%d%s", requestLink, os.Getpid(), tempSuffix)
	err := q.root.Symlink(name, temp)
	if errors.Is(err, fs.ErrExist) { // of a process that was killed
		_ = q.root.Remove(temp)
		err = q.root.Symlink(name, temp)
	}
	if err == nil {
		err = q.root.Rename(temp, requestLink)
	}
	return durable.Wrap(errs.FileWrite, err, "unable to ask for the WAL after '%s'", name)
}

// take moves a segment out of the queue to target. false is that it is not there.
func (q *queue) take(ctx context.Context, name, target string) (bool, error) {
	dir, err := q.root.Open(".")
	if err != nil {
		return false, errs.WrapAs(errs.PathOpen, err, "unable to open the queue of WAL")
	}
	defer dir.Close()
	err = unix.Renameat(int(dir.Fd()), name, unix.AT_FDCWD, target)
	switch {
	case err == nil:
		return true, nil
	case err == unix.ENOENT:
		return false, nil
	case err != unix.EXDEV:
		return false, errs.WrapAs(errs.FileMove, err, "unable to move '%s' from the queue of WAL", name)
	}
	// Another file system: as if the queue were an archive. What stays if it cannot be removed, the
	// worker removes.
	c := Copy{Open: func(context.Context, int64) (io.ReadCloser, error) { return q.root.Open(name) }}
	if err := fetch(ctx, c, -1, target); err != nil {
		return false, err
	}
	_ = q.root.Remove(name)
	return true, nil
}

// warning gives what is to be said along with a segment, once: its .ok file, as pgBackRest
// leaves one beside a segment.
func (q *queue) warning(name string) string {
	b, err := q.root.ReadFile(name + okSuffix)
	if err != nil {
		return "" // as a rule there is none
	}
	_ = q.root.Remove(name + okSuffix)    // else the worker does
	s, _ := parseStatus(name+okSuffix, b) // what cannot be read is not said
	return s.message
}

// onItsWay tells how much has come of a segment that the worker is fetching; false when it is not.
func (q *queue) onItsWay(name string) (int64, bool) {
	info, err := q.root.Lstat(name + tempSuffix)
	if err != nil {
		return 0, false
	}
	return info.Size(), true
}

// reserve says that a segment is on its way.
func (q *queue) reserve(name string) error {
	f, err := q.root.OpenFile(name+tempSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	return durable.Wrap(errs.FileOpen, err, "unable to write '%s' to the queue of WAL", name)
}

// reopen gives the file of a reserved segment, empty.
func (q *queue) reopen(name string) (*os.File, error) {
	return q.root.OpenFile(name+tempSuffix, os.O_WRONLY|os.O_TRUNC, 0)
}

// drop ends what reserve began.
func (q *queue) drop(name string) { _ = q.root.Remove(name + tempSuffix) } // else the next worker does

// add gives a fetched segment its name.
func (q *queue) add(ctx context.Context, name string, warnings []string) error {
	if len(warnings) > 0 {
		if err := writeStatus(ctx, q.root, name+okSuffix, status{message: strings.Join(warnings, "\n")}); err != nil {
			return err
		}
	}
	return durable.Wrap(errs.FileMove, q.root.Rename(name+tempSuffix, name), "unable to put '%s' into the queue of WAL", name)
}

// sweep removes every segment but those that keep wants, and every file that no living worker
// has put there. It gives the segments that are left.
func (q *queue) sweep(keep func(name string) bool) ([]string, error) {
	dir, err := q.root.Open(".")
	if err != nil {
		return nil, errs.WrapAs(errs.PathOpen, err, "unable to open the queue of WAL")
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return nil, errs.WrapAs(errs.PathOpen, err, "unable to list the queue of WAL")
	}
	var left []string
	for _, name := range names {
		switch {
		case name == ownerFile, name == requestLink, strings.HasPrefix(name, requestLink+".") && strings.HasSuffix(name, tempSuffix):
		case keep(name):
			left = append(left, name)
		default:
			if err := q.root.RemoveAll(name); err != nil {
				return nil, durable.Wrap(errs.FileRemove, err, "unable to remove '%s' from the queue of WAL", name)
			}
		}
	}
	return left, nil
}
