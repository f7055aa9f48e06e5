package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Spool is the directory of one stanza in the spool of asynchronous archiving. In out
// are the answers to pushes, in in the segments fetched ahead, both as pgBackRest leaves
// them and understands them. All of it may be lost at any time: it is made anew from what
// PostgreSQL waits for and what the archive has.
type Spool struct {
	Path string // SPOOL/archive/STANZA
}

// Modes as pgBackRest makes them.
const (
	spoolDirMode  fs.FileMode = 0o750
	spoolFileMode fs.FileMode = 0o640
)

// In is the directory of the segments fetched ahead.
func (s Spool) In() string { return filepath.Join(s.Path, "in") }

// Out is the directory of the answers to pushes.
func (s Spool) Out() string { return filepath.Join(s.Path, "out") }

// pushWorker and getWorker are the files the workers hold claims on.
func (s Spool) pushWorker() string { return filepath.Join(s.Path, "push.worker") }
func (s Spool) getWorker() string  { return filepath.Join(s.Path, "get.worker") }

// makeDir makes one of the two directories.
func (s Spool) makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil // also where nothing could be made
	}
	return errs.WithHint(durable.MkdirPath(dir, spoolDirMode), "check option spool-path and who owns the directory it names.")
}

// Ends of the names of status files. The name before is that of a WAL file or, of an
// error, globalStatus.
const (
	okSuffix     = ".ok"
	errorSuffix  = ".error"
	globalStatus = "global"
)

// status is the content of a status file: nothing, or a code and a message. In an .ok file
// code 0 is a warning, and any other code the error of a file that an operator skipped by
// renaming its .error.
type status struct {
	code    int
	message string
}

func (s status) empty() bool { return s == status{} }

// bytes is what parseStatus reads.
func (s status) bytes() []byte {
	if s.empty() {
		return nil
	}
	return fmt.Appendf(nil, "%d\n%s", s.code, s.message)
}

// parseStatus reads a status file; name is for messages.
func parseStatus(name string, content []byte) (status, error) {
	if len(content) == 0 {
		return status{}, nil
	}
	code, message, ok := strings.Cut(string(content), "\n")
	if !ok {
		return status{}, errs.New(errs.Format, "%s content must have at least two lines", name)
	}
	if message == "" {
		return status{}, errs.New(errs.Format, "%s message must be > 0", name)
	}
	n, err := strconv.ParseUint(code, 10, 31)
	if err != nil {
		return status{}, errs.New(errs.Format, "%s must begin with the code of an error, not '%s'", name, code)
	}
	return status{int(n), strings.TrimSpace(message)}, nil
}

// readStatus reads the status file name in dir. Without one ok is false.
func readStatus(dir, name string) (s status, ok bool, err error) {
	content, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return status{}, false, nil
	}
	if err != nil {
		return status{}, false, durable.Wrap(errs.FileOpen, err, "unable to read status file '%s'", filepath.Join(dir, name))
	}
	s, err = parseStatus(name, content)
	return s, err == nil, err
}

// failure is the error that an .error file is.
func (s status) failure(name string) error {
	if s.empty() {
		return errs.New(errs.Assert, "status file '%s' has no content", name)
	}
	code := errs.Code(s.code)
	if code.String() == errs.Unknown.String() {
		code = errs.Unknown
	}
	return errs.New(code, "%s", s.message)
}

// failed is the error as one line of a report begins.
func (s status) failed() string { return fmt.Sprintf("[%d] %s", s.code, s.message) }

// writeStatus lets a status file appear whole. What is told by it can be found out again, so its name need not be
// durable. Its content is where PostgreSQL acts on it: an empty one says that nothing is wrong.
func writeStatus(ctx context.Context, root *os.Root, name string, s status) (err error) {
	f, err := root.OpenFile(durable.TempName(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, spoolFileMode)
	if err != nil {
		return durable.Wrap(errs.FileOpen, err, "unable to open file '%s' for write", durable.Path(root, name))
	}
	temp := filepath.Base(f.Name())
	defer func() {
		if err != nil {
			_ = root.Remove(temp)
		}
	}()
	_, err = f.Write(s.bytes())
	if err == nil && strings.HasSuffix(name, okSuffix) && !s.empty() {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		if err = ctx.Err(); err == nil {
			err = root.Rename(temp, name)
		}
	}
	return durable.Wrap(errs.FileWrite, err, "unable to write '%s'", durable.Path(root, name))
}

// claim is the right to be the one worker of its kind on a spool: a lock on a file that
// ends with the process. Who only asks whether there is a worker takes no lock for it, so
// never keeps one from starting.
type claim struct {
	file *os.File
	path string
}

// takeClaim gets the claim on path, and writes into the file what the worker is for. While
// another process has it the result is nil.
func takeClaim(path, what string) (*claim, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, spoolFileMode)
		if err != nil {
			return nil, durable.Wrap(errs.LockAcquire, err, "unable to acquire lock on file '%s'", path)
		}
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			_ = f.Close() // nothing was written
			return nil, nil
		}
		if err == nil {
			c := &claim{f, path}
			if c.lost() { // removed between open and lock
				c.give()
				continue
			}
			if err = f.Truncate(0); err == nil {
				_, err = f.WriteAt([]byte(what), 0)
			}
		}
		if err != nil {
			_ = f.Close() // gives the lock back too
			return nil, durable.Wrap(errs.LockAcquire, err, "unable to acquire lock on file '%s'", path)
		}
		return &claim{f, path}, nil
	}
}

// lost says that the file is no longer there, so that another worker may have a claim too.
func (c *claim) lost() bool {
	ours, err := c.file.Stat()
	if err != nil {
		return true
	}
	there, err := os.Lstat(c.path)
	return err != nil || !os.SameFile(ours, there)
}

// give ends the claim.
func (c *claim) give() { _ = c.file.Close() } // what is in it no longer matters

// claimed says whether a process has the claim on path, and what for.
func claimed(path string) (what string, alive bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, durable.Wrap(errs.FileOpen, err, "unable to open lock file '%s'", path)
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return "", false, durable.Wrap(errs.FileOpen, err, "unable to look for a lock on file '%s'", path)
	}
	if l.Type == unix.F_UNLCK {
		return "", false, nil
	}
	var text [4096]byte
	n, _ := f.ReadAt(text[:], 0) // what cannot be read is not known
	return string(text[:n]), true, nil
}
