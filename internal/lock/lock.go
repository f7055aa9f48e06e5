// Package lock keeps commands on one stanza apart, pgx from pgx and pgx from
// pgBackRest: lock files that are held by flock, and stop files.
//
// The files are pgBackRest's (src/common/lock.c, src/command/lock.c). Since 2.53 it locks
// "<stanza>-<type>-<repo key>.lock"; up to 2.52 one "<stanza>-<type>.lock" for all
// repositories, and only for the types archive and backup. Acquire takes both: the newer
// file exclusively, the older one shared. So releases of either age and pgx keep each other
// out, and still two commands of pgx work on two repositories of a stanza at once.
//
// A lock is the flock, not the file: what a dead process leaves is taken over.
package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Type is what kind of command a lock keeps out.
type Type string

// The types: archive is taken by the asynchronous archive-push and archive-get, backup by
// backup, expire and annotate, restore by restore, all three by stanza-*.
const (
	Archive Type = "archive"
	Backup  Type = "backup"
	Restore Type = "restore"
)

// OlderRelease is, in place of a repository key, the lock of pgBackRest 2.52 and before.
const OlderRelease = 0

// ErrHeld is in the error of Acquire when another process holds the lock.
const ErrHeld = syscall.EWOULDBLOCK

// Modes as pgBackRest makes them.
const (
	fileMode fs.FileMode = 0o640
	dirMode  fs.FileMode = 0o750
	stopMode fs.FileMode = 0o770 // the directory, when stop is what makes it
)

// Whoever looks whether a lock is held (info) holds the file for a moment. So a
// file that is held but speaks of nobody alive is tried again.
const (
	lookTries = 6
	lookPause = 10 * time.Millisecond
)

// Dir is the directory of lock and stop files of this host as one command sees it.
type Dir struct {
	Path string // option lock-path

	// ExecID is the command's. A lock held under the same one, by a process that belongs
	// to the same command, counts as acquired.
	ExecID string
}

// Lock is a set of lock files held by this process. Its methods may be called
// from several goroutines.
type Lock struct {
	execID string
	mu     sync.Mutex
	files  []*file
}

type file struct {
	typ    Type
	repo   int
	path   string
	held   *os.File // nil: held by another process of the same command
	shared bool
	begun  bool   // SetProgress has written
	told   uint64 // percent * 100 in the file
}

// fileName gives the name of a lock file in the lock path.
func fileName(stanza string, typ Type, repo int) string {
	if repo == OlderRelease {
		return fmt.Sprintf("%s-%s.lock", stanza, typ)
	}
	return fmt.Sprintf("%s-%s-%d.lock", stanza, typ, repo)
}

func checkStanza(stanza string) error {
	if stanza == "" || strings.ContainsAny(stanza, "/\x00") {
		return errs.New(errs.ParamInvalid, "'%s' is not a name of a stanza", stanza)
	}
	return nil
}

// Acquire takes the locks of these types on these repositories (by key, from 1) of the
// stanza, all or none, without waiting. When another process holds one the error is
// LockAcquire and ErrHeld.
func (d Dir) Acquire(ctx context.Context, stanza string, types []Type, repos []int) (*Lock, error) {
	if err := checkStanza(stanza); err != nil {
		return nil, err
	}
	l := &Lock{execID: d.ExecID}
	for _, typ := range types {
		own := false
		for _, repo := range repos {
			f := &file{typ: typ, repo: repo}
			if err := d.take(ctx, stanza, f); err != nil {
				_ = l.Release() // a file that stays is not locked
				return nil, err
			}
			l.files = append(l.files, f)
			own = own || f.held != nil
		}
		// Where all are held by another process of this command, so is the older one.
		if typ == Restore || !own {
			continue
		}
		f := &file{typ: typ, repo: OlderRelease, shared: true}
		if err := d.take(ctx, stanza, f); err != nil {
			_ = l.Release() // a file that stays is not locked
			return nil, err
		}
		l.files = append(l.files, f)
	}
	return l, nil
}

// take locks one file and writes into it who holds it.
func (d Dir) take(ctx context.Context, stanza string, f *file) error {
	f.path = filepath.Join(d.Path, fileName(stanza, f.typ, f.repo))
	how := syscall.LOCK_EX
	if f.shared {
		how = syscall.LOCK_SH
	}
	for tries := 1; ; tries++ {
		if err := ctx.Err(); err != nil {
			return errs.Wrap(err, "unable to acquire lock on file '%s'", f.path)
		}
		held, err := d.open(f.path)
		if err != nil {
			return refused(f.path, err)
		}
		err = flock(held, how)
		if err == nil && sameFile(held, f.path) {
			f.held = held
			break
		}
		var by record
		if err != nil {
			by, _ = readRecord(held) // what cannot be read is nobody's
		}
		_ = held.Close() // gives the lock of a file that was unlinked back too
		switch {
		case err == nil: // unlinked by its holder between open and flock: try the next one
			continue
		case err != ErrHeld:
			return refused(f.path, err)
		case by.ExecID == d.ExecID && d.ExecID != "":
			return nil
		case by.alive() || tries == lookTries:
			return refused(f.path, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookPause):
		}
	}
	if err := writeRecord(f.held, record{ExecID: d.ExecID, PID: os.Getpid()}); err != nil {
		f.release()
		return durable.Wrap(errs.LockAcquire, err, "unable to acquire lock on file '%s'", f.path)
	}
	return nil
}

func (d Dir) open(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW
	f, err := os.OpenFile(path, flags, fileMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirPath(d.Path, dirMode); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, flags, fileMode)
	}
	if err != nil {
		return nil, err
	}
	// The umask must not keep out those who share the lock path. One that belongs to
	// somebody else is as they made it.
	if info, err := f.Stat(); err == nil && info.Mode().Perm() != fileMode {
		_ = f.Chmod(fileMode)
	}
	return f, nil
}

// flock locks without waiting.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != syscall.EINTR {
			if err == nil {
				return nil
			}
			return err
		}
	}
}

// sameFile says whether path still is the file f.
func sameFile(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(ours, there)
}

// refused is the error of pgBackRest, down to the capital letter of its C library.
func refused(path string, err error) error {
	own := new(errs.Error)
	if errors.As(err, &own) {
		return err
	}
	reason := err
	if cause := new(fs.PathError); errors.As(err, &cause) {
		reason = cause.Err
	}
	text := reason.Error()
	failed := &errs.Error{
		Code:    errs.LockAcquire,
		Message: fmt.Sprintf("unable to acquire lock on file '%s': %s%s", path, strings.ToUpper(text[:1]), text[1:]),
		Err:     err,
	}
	switch {
	case errors.Is(err, ErrHeld):
		failed.Hints = []string{"is another pgBackRest process running?"}
	case errors.Is(err, syscall.EACCES):
		failed.Hints = []string{fmt.Sprintf("does '%s' running pgBackRest have permissions on the '%s' file?", whoAmI(), path)}
	}
	return failed
}

func whoAmI() string {
	name, group := fmt.Sprint(os.Geteuid()), fmt.Sprint(os.Getegid())
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return name + ":" + group
}

// SetProgress writes into the lock file how far the command is, in bytes, for info
// to read. It writes when that makes a difference of 0.1 percent or more. Commands that
// lock several repositories for one piece of work tell it for one of them only, because
// pgBackRest adds them up.
func (l *Lock) SetProgress(typ Type, repo int, done, total int64) error {
	var percent uint64
	if total > 0 {
		percent = uint64(float64(done) / float64(total) * 100_00)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.files {
		if f.typ != typ || f.repo != repo && f.repo != OlderRelease || f.held == nil {
			continue
		}
		if f.begun && percent < f.told+10 && (done != total || percent == f.told) {
			continue
		}
		size, complete := uint64(total), uint64(done)
		err := writeRecord(f.held, record{ExecID: l.execID, Percent: &percent, PID: os.Getpid(), Size: &size, Complete: &complete})
		if err != nil {
			return durable.Wrap(errs.FileWrite, err, "unable to write '%s'", f.path)
		}
		f.begun, f.told = true, percent
	}
	return nil
}

// ClearProgress takes out of the lock file what SetProgress wrote: the command goes on with
// something of which it does not tell how far it is.
func (l *Lock) ClearProgress(typ Type, repo int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.files {
		if f.typ != typ || f.repo != repo && f.repo != OlderRelease || f.held == nil {
			continue
		}
		if err := writeRecord(f.held, record{ExecID: l.execID, PID: os.Getpid()}); err != nil {
			return durable.Wrap(errs.FileWrite, err, "unable to write '%s'", f.path)
		}
		f.begun = false
	}
	return nil
}

// Release gives all locks back and removes their files. A second call does nothing.
func (l *Lock) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all error
	for _, f := range l.files {
		all = errors.Join(all, f.release())
	}
	l.files = nil
	return all
}

func (f *file) release() error {
	if f.held == nil {
		return nil
	}
	defer func() {
		_ = f.held.Close() // the lock goes with it, whatever it says
		f.held = nil
	}()
	// The last holder of a shared lock removes the file: if the others have gone the lock
	// can become exclusive. If it cannot, it is lost, which is what is wanted.
	if f.shared && flock(f.held, syscall.LOCK_EX) != nil {
		return nil
	}
	// Removed while it is locked: whoever opened it before finds it unlinked after their
	// flock. "stop --force" of pgBackRest removes the file too; one that came after that
	// belongs to somebody else.
	if !sameFile(f.held, f.path) {
		return nil
	}
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return durable.Wrap(errs.FileRemove, err, "unable to remove file '%s'", f.path)
	}
	return nil
}
