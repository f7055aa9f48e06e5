package crashtest

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const auditArch = unix.AUDIT_ARCH_X86_64

// archCalls gives the older calls, which newer architectures do not have.
func archCalls() []call {
	one, two := []operand{{cwd, 0}}, []operand{{cwd, 0}, {cwd, 1}}
	return []call{
		{nr: unix.SYS_RENAME, name: "rename", operands: two},
		{nr: unix.SYS_LINK, name: "link", operands: two},
		{nr: unix.SYS_SYMLINK, name: "symlink", operands: []operand{{cwd, 1}}},
		{nr: unix.SYS_UNLINK, name: "unlink", operands: one},
		{nr: unix.SYS_RMDIR, name: "rmdir", operands: one},
		{nr: unix.SYS_MKDIR, name: "mkdir", operands: one},
		{nr: unix.SYS_MKNOD, name: "mknod", operands: one},
		{nr: unix.SYS_CREAT, name: "creat", operands: one},
		{nr: unix.SYS_OPEN, name: "open", operands: one, created: true, flags: 1},
	}
}

// skipCall makes the call a thread is stopped in not happen and return errno.
func skipCall(tid int, errno syscall.Errno) error {
	var regs unix.PtraceRegsAmd64
	if err := unix.PtraceGetRegsAmd64(tid, &regs); err != nil {
		return err
	}
	regs.Orig_rax = ^uint64(0)
	regs.Rax = -uint64(errno)
	return unix.PtraceSetRegsAmd64(tid, &regs)
}
