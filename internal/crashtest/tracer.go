//go:build linux && (amd64 || arm64)

package crashtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type action int

const (
	record action = iota
	killBefore
	killAfter
	fail
)

// run is one traced run of a command. All of it happens on one OS thread, as ptrace
// demands.
type run struct {
	Trace
	cmd    *exec.Cmd
	n      int // the step to act at, from 1
	action action
	errno  syscall.Errno

	calls   []call
	steps   []Step
	leader  int          // the process of cmd
	threads map[int]bool // those traced that have been seen
	killed  bool         // all are killed, or will be when they are next seen
}

// Which events a wait gives: those of the children and tracees of this thread, of every
// kind. Without WNOTHREAD it would take what other goroutines wait for.
const waitOptions = unix.WALL | unix.WNOTHREAD

const stopInCall = unix.SIGTRAP | 0x80 // as PTRACE_O_TRACESYSGOOD marks it

// do runs the command on a thread of its own. That thread gets a seccomp filter, which the
// command inherits and nobody can take off again. A thread that ends may be the one that
// starts the next thread of this program, which would inherit the filter too: so it does
// not end but stays where it is, with its goroutine, until the test program ends. A traced
// process that is left over then is killed by the kernel (PTRACE_O_EXITKILL).
func (r *run) do() error {
	errBusy := errors.New("thread not usable")
	var busy sync.WaitGroup
	release := make(chan struct{})
	defer busy.Wait()
	defer close(release)
	for {
		result := make(chan error, 1)
		busy.Add(1)
		go func() {
			runtime.LockOSThread()
			if !threadUsable() {
				defer busy.Done()
				result <- errBusy
				<-release // not before: it would be picked again
				runtime.UnlockOSThread()
				return
			}
			busy.Done()
			err := r.trace()
			result <- err
			if _, ok := errors.AsType[*traceError](err); ok {
				return // the kernel lets go of what is traced only when the thread ends
			}
			select {}
		}()
		err := <-result
		if errors.Is(err, errBusy) {
			continue
		}
		if _, ok := errors.AsType[*traceError](err); ok {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		return err
	}
}

// traceError is a failure of ours with a command that has been started.
type traceError struct{ cause error }

func (e *traceError) Error() string { return "crashtest: tracing the command: " + e.cause.Error() }
func (e *traceError) Unwrap() error { return e.cause }

// threadUsable says whether this thread has no children, for we are about to wait for
// any child of it, and is not the first one, which never ends.
func threadUsable() bool {
	if unix.Gettid() == unix.Getpid() {
		return false
	}
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT|waitOptions, nil)
	return errors.Is(err, unix.ECHILD)
}

func (r *run) trace() error {
	r.calls = r.Trace.calls()
	r.threads = map[int]bool{}
	if err := installFilter(r.calls); err != nil {
		return fmt.Errorf("crashtest: installing the seccomp filter: %w", err)
	}
	attr := syscall.SysProcAttr{}
	if r.cmd.SysProcAttr != nil {
		attr = *r.cmd.SysProcAttr
	}
	attr.Ptrace = true
	r.cmd.SysProcAttr = &attr
	if err := r.cmd.Start(); err != nil {
		return err
	}
	r.leader = r.cmd.Process.Pid
	err := r.attach()
	var state *os.ProcessState
	if err == nil {
		state, err = r.loop()
	}
	if err != nil {
		return &traceError{err}
	}
	// The process is reaped already, so this gives no state: it ends the goroutines that
	// serve its standard streams.
	_ = r.cmd.Wait()
	r.cmd.ProcessState = state
	if !state.Success() {
		return &exec.ExitError{ProcessState: state}
	}
	return nil
}

// attach takes the command from the stop in which its execve ended.
func (r *run) attach() error {
	var ws unix.WaitStatus
	if _, err := wait4(r.leader, &ws); err != nil {
		return err
	}
	if !ws.Stopped() || ws.StopSignal() != unix.SIGTRAP {
		return fmt.Errorf("the command did not stop to be traced but has status %#x", uint32(ws))
	}
	r.threads[r.leader] = true
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACESECCOMP
	if err := unix.PtraceSetOptions(r.leader, options); err != nil {
		return err
	}
	return unix.PtraceCont(r.leader, 0)
}

// loop serves all traced threads until there are none, and gives how the command ended.
func (r *run) loop() (state *os.ProcessState, err error) {
	for {
		tid, ended, err := nextEvent()
		if errors.Is(err, unix.ECHILD) && state != nil {
			return state, nil
		}
		if err != nil {
			return nil, fmt.Errorf("waiting: %w", err)
		}
		if ended && tid == r.leader {
			// os/exec has to see its end, or it would wait for a process that is gone.
			if state, err = r.cmd.Process.Wait(); err != nil {
				return nil, err
			}
			delete(r.threads, tid)
			continue
		}
		var ws unix.WaitStatus
		if _, err := wait4(tid, &ws); err != nil {
			return nil, err
		}
		if !ws.Stopped() {
			delete(r.threads, tid)
			continue
		}
		// A thread may be killed at any time, by us or by an exit of its process, also
		// while it is stopped: then it is not found, and its end is the next event.
		if err := r.stopped(tid, ws); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
	}
}

// nextEvent waits until something has happened to a thread, without taking the event.
func nextEvent() (tid int, ended bool, err error) {
	var info unix.Siginfo
	for {
		err = unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|waitOptions, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_KILLED, CLD_DUMPED
	// On 64-bit machines si_pid comes after three words and one of padding.
	pid := *(*int32)(unsafe.Pointer(uintptr(unsafe.Pointer(&info)) + 16))
	return int(pid), info.Code >= exited && info.Code <= dumped, err
}

// stopped looks why a thread has stopped, acts, and lets it go on.
func (r *run) stopped(tid int, ws unix.WaitStatus) error {
	signal, event := ws.StopSignal(), ws.TrapCause() // event is 0 or -1 if the stop is for a signal
	started := r.threads[tid]                        // else this is the stop in which each new thread begins
	r.threads[tid] = true
	switch {
	case r.killed:
		return unix.Kill(tid, unix.SIGKILL)
	case event == unix.PTRACE_EVENT_SECCOMP:
		return r.inCall(tid)
	case event == unix.PTRACE_EVENT_EXEC:
		// The thread that called execve has become the first one of its process.
		if former, err := unix.PtraceGetEventMsg(tid); err == nil && int(former) != tid {
			delete(r.threads, int(former))
		}
	case event > 0: // a new thread or process, of which we learn when it stops itself
	case signal == stopInCall: // only killAfter lets a thread run into this
		return r.kill()
	case signal == unix.SIGSTOP && !started:
	default:
		return unix.PtraceCont(tid, int(signal))
	}
	return unix.PtraceCont(tid, 0)
}

// inCall handles a thread that is about to make one of r.calls.
func (r *run) inCall(tid int) error {
	index, err := unix.PtraceGetEventMsg(tid) // as the filter returned it
	if err != nil {
		return err
	}
	args, err := arguments(tid)
	if err != nil {
		return err
	}
	step, ok := r.step(tid, r.calls[index], args)
	if !ok {
		return unix.PtraceCont(tid, 0)
	}
	r.steps = append(r.steps, step)
	if len(r.steps) == r.n {
		switch r.action {
		case killBefore:
			return r.kill()
		case killAfter:
			return unix.PtraceSyscall(tid, 0)
		case fail:
			if err := skipCall(tid, r.errno); err != nil {
				return err
			}
		}
	}
	return unix.PtraceCont(tid, 0)
}

// kill ends every process of the tree. Each still has its number, for none that is in
// r.threads has been waited for.
func (r *run) kill() error {
	r.killed = true
	for tid := range r.threads {
		if err := unix.Kill(tid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// arguments gives those of the system call a thread is stopped in. It needs Linux 5.3.
func arguments(tid int) ([6]uint64, error) {
	var info struct { // struct ptrace_syscall_info, as it is for a seccomp stop
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [6]uint64
		data   uint32
		_      uint32
	}
	const opSeccomp = 3
	err := ptrace(unix.PTRACE_GET_SYSCALL_INFO, tid, unsafe.Sizeof(info), unsafe.Pointer(&info))
	if err == nil && info.op != opSeccomp {
		err = fmt.Errorf("thread %d is not stopped by the filter (%d)", tid, info.op)
	}
	return info.args, err
}

func ptrace(request, tid int, addr uintptr, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func wait4(tid int, ws *unix.WaitStatus) (int, error) {
	for {
		pid, err := unix.Wait4(tid, ws, waitOptions, nil)
		if !errors.Is(err, unix.EINTR) {
			return pid, err
		}
	}
}
