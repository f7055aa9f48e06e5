package crashtest

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const auditArch = unix.AUDIT_ARCH_AARCH64

// archCalls gives the calls only this architecture has: none.
func archCalls() []call { return nil }

// skipCall makes the call a thread is stopped in not happen and return errno.
func skipCall(tid int, errno syscall.Errno) error {
	var regs unix.PtraceRegsArm64
	if err := unix.PtraceGetRegSetArm64(tid, unix.NT_PRSTATUS, &regs); err != nil {
		return err
	}
	regs.Regs[0] = -uint64(errno)
	if err := unix.PtraceSetRegSetArm64(tid, unix.NT_PRSTATUS, &regs); err != nil {
		return err
	}
	// The number of the call is no register here but a set of its own.
	nr := int32(-1)
	set := unix.Iovec{Base: (*byte)(unsafe.Pointer(&nr)), Len: uint64(unsafe.Sizeof(nr))}
	return ptrace(unix.PTRACE_SETREGSET, tid, unix.NT_ARM_SYSTEM_CALL, unsafe.Pointer(&set))
}
