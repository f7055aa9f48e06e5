//go:build linux && (amd64 || arm64)

// Package crashtest runs a program and kills it at, or makes it fail in, the nth
// system call that changes what a crash of the machine would leave: a sync, a rename, a
// removal, a new file. Only tests import it.
//
// A test first asks for the Steps of a command and then runs it once for each, looking
// every time at what is left:
//
//	for n := 1; ; n++ {
//		at, reached, err := crashtest.Trace{Under: repo}.KillBefore(command(t), n)
//		if !reached { break } // and err says how the whole run ended
//		… check what is on disk; name at when it is wrong
//	}
//
// The program is the real one, unchanged: it is watched with ptrace, with all its
// threads and all processes it starts, also those in sessions of their own. A seccomp
// filter stops it only in calls that may be steps, so the rest runs at full speed. The
// command may run as another user when the test is root.
//
// A run takes until the last process of the tree has ended. Do not trace what starts a
// server. Several runs may go on at once. Calls of 32-bit programs and io_uring
// are not seen.
package crashtest

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
)

// Step is a system call that changes something durable, or makes it so.
type Step struct {
	Call string // name of the call, such as "renameat"
	// Path is absolute: what the call is about, for a rename or link the old name. A
	// file that has no name any more ends in " (deleted)", as in /proc.
	Path string
	To   string // the new name of a rename or link, else ""
}

// String gives "rename /a -> /b" or "fsync /a".
func (s Step) String() string {
	if s.To != "" {
		return fmt.Sprintf("%s %s -> %s", s.Call, s.Path, s.To)
	}
	return s.Call + " " + s.Path
}

// Trace says which system calls are steps. The zero value counts, wherever they happen:
// fsync, fdatasync, syncfs, rename, link, symlink, unlink, rmdir, mkdir and mknod with
// their relatives, truncate, ftruncate, fallocate, and opening a file with O_CREAT. A call counts
// also if it goes on to fail. The global sync is none: nothing says what it is about.
type Trace struct {
	// Under limits the steps to those with a path that is this directory or below it.
	// Absolute and without symbolic links. Empty: no limit.
	Under string
	// Writes counts the writes into regular files as well, each on its own.
	Writes bool
}

// Steps runs the command to its end and gives its steps in the order they began. The
// error is that of cmd.Run, or says why the command could not be traced.
func (tr Trace) Steps(cmd *exec.Cmd) ([]Step, error) {
	r := run{Trace: tr, cmd: cmd}
	err := r.do()
	return r.steps, err
}

// KillBefore kills all processes of the command with SIGKILL when its nth step, counted
// from 1, begins: the step does not happen. If there is no such step the command runs
// to its end, reached is false and the error is as for Steps.
func (tr Trace) KillBefore(cmd *exec.Cmd, n int) (at Step, reached bool, err error) {
	return tr.until(cmd, n, killBefore, 0)
}

// KillAfter is KillBefore when the nth step has just happened and before the
// program learns of it.
func (tr Trace) KillAfter(cmd *exec.Cmd, n int) (at Step, reached bool, err error) {
	return tr.until(cmd, n, killAfter, 0)
}

// FailAt lets the nth step, counted from 1, not happen and return errno. The command goes
// on to its end; the error is that of cmd.Run, whether the step was reached or not.
func (tr Trace) FailAt(cmd *exec.Cmd, n int, errno syscall.Errno) (at Step, reached bool, err error) {
	return tr.until(cmd, n, fail, errno)
}

func (tr Trace) until(cmd *exec.Cmd, n int, do action, errno syscall.Errno) (Step, bool, error) {
	r := run{Trace: tr, cmd: cmd, n: n, action: do, errno: errno}
	err := r.do()
	if n < 1 || len(r.steps) < n {
		return Step{}, false, err
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok && r.killed {
		err = nil
	}
	return r.steps[n-1], true, err
}
