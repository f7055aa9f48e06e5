package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
)

// asyncSuffix is what names a command's part that stays in the background.
const asyncSuffix = ":async"

// workerPoll is how often a worker looks for what nothing tells it of.
const workerPoll = time.Second

// spool is the part of the stanza in the spool.
func (a *app) spool() wal.Spool {
	return wal.Spool{Path: filepath.Join(a.cfg.String(config.OptSpoolPath), "archive", a.stanza())}
}

// spooled says whether the command knows where the spool is: as pgbackrest it does not
// without archive-async.
func (a *app) spooled() bool { return a.cfg.IsSet(config.OptSpoolPath) }

// ledger names the WAL that was dropped. It lies beside the spool, which restore empties.
func (a *app) ledger() wal.Ledger {
	if !a.spooled() {
		return wal.Ledger{}
	}
	return wal.Ledger{Path: a.spool().Path + ".dropped"}
}

// logFile gives the log file of a command on the stanza.
func (a *app) logFile(command string) string {
	prefix := a.stanza()
	if prefix == "" {
		prefix = "all"
	}
	return filepath.Join(a.cfg.String(config.OptLogPath), prefix+"-"+command+".log")
}

// startWorker starts the command's part that stays in the background, with nothing of ours:
// PostgreSQL waits for the end of everything that has one of its pipes open.
func (a *app) startWorker(ctx context.Context, params ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return errs.WrapAs(errs.Execute, err, "start the background process")
	}
	if err := closeOnExec(); err != nil {
		return err
	}
	args := append([]string{a.input.Program}, a.cfg.PassOn(a.cfg.Command, config.OptExecID)...)
	args = append(args, a.cfg.Command.String()+asyncSuffix)
	cmd := &exec.Cmd{
		Path: exe, Args: append(args, params...), Dir: "/", Env: os.Environ(),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return errs.WrapAs(errs.Execute, err, "start '%s' in the background", exe)
	}
	// It outlives us, and is nobody's to wait for.
	return errs.WrapAs(errs.Execute, cmd.Process.Release(), "start '%s' in the background", exe)
}

// closeOnExec keeps files that this process was given from those it starts. Standard
// streams are replaced there anyway.
func closeOnExec() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return errs.WrapAs(errs.Kernel, err, "list the open files of this process")
	}
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// lockArchive takes the lock that keeps others from the archive while a worker has work.
func (a *app) lockArchive(ctx context.Context) (release func() error, err error) {
	l, err := a.locks().Acquire(ctx, a.stanza(), []lock.Type{lock.Archive}, a.cfg.Repos())
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// stamp tells whether a file is still the same.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	s := stamp{modified: info.ModTime(), size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

// leave gives the function that says why a worker should make place for another, if it
// should.
func (a *app) leave() func() string {
	// A file in the directory of more configuration may be new.
	files := append(a.cfg.Files(), a.cfg.String(config.OptConfigIncludePath))
	if exe, err := os.Executable(); err == nil {
		files = append(files, exe)
	}
	stamps := make([]stamp, len(files))
	for i, f := range files {
		stamps[i] = stampOf(f)
	}
	log := a.logFile(a.cfg.Command.String() + "-async")
	logged := stampOf(log).inode
	locks := a.locks()
	return func() string {
		if err := locks.Stopped(a.stanza()); err != nil {
			return errs.Message(err)
		}
		for i, f := range files {
			if stampOf(f) != stamps[i] {
				return fmt.Sprintf("'%s' has changed", f)
			}
		}
		if logged != 0 && stampOf(log).inode != logged {
			return fmt.Sprintf("'%s' was moved away", log)
		}
		return ""
	}
}

// pushWorker is archive-push:async, which stays for idle when there is nothing to do.
func (a *app) pushWorker(ctx context.Context, idle time.Duration) error {
	if len(a.cfg.Params) != 1 {
		return errs.New(errs.ParamRequired, "WAL path to push required")
	}
	w := &wal.PushWorker{
		Spool: a.spool(), WALDir: a.cfg.Params[0], Processes: a.workers(), BatchSize: a.cfg.Size(config.OptArchivePushBatchSize),
		Push: a.push(), Idle: idle, Lock: a.lockArchive, Leave: a.leave(),
	}
	codec, level, err := a.codec()
	if err != nil {
		return err
	}
	for _, n := range a.cfg.Repos() {
		w.Repos = append(w.Repos, wal.Repository{Open: a.opener(n, codec, level), SHA1: a.cfg.RepoIsLocal(n)})
	}
	return w.Run(ctx)
}

// getWorker is archive-get:async.
func (a *app) getWorker(ctx context.Context) error {
	if len(a.cfg.Params) > 0 {
		return errs.New(errs.ParamInvalid, "extra parameters found")
	}
	var openers []func() wal.Archive
	for _, n := range a.cfg.Repos() {
		openers = append(openers, a.opener(n, "", 0))
	}
	w := &wal.GetWorker{
		Spool: a.spool(), PGPath: a.pgPath(), Processes: a.workers(), QueueMax: a.cfg.Size(config.OptArchiveGetQueueMax),
		Archives: func() []wal.Archive {
			var all []wal.Archive
			for _, open := range openers {
				all = append(all, open())
			}
			return all
		},
		Idle: max(time.Millisecond, a.cfg.Duration(config.OptArchiveAsyncIdle)), Poll: workerPoll, Lock: a.lockArchive, Leave: a.leave(), Log: a.log,
	}
	return w.Run(ctx)
}
