//go:build linux && (amd64 || arm64)

package crashtest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// installFilter makes these calls of this thread, and of all processes it will start, stop
// for the tracer, which is told the index of the call. Where there is no tracer they
// fail, so the thread must not be used for anything else.
func installFilter(calls []call) error {
	// Offsets in struct seccomp_data. The lower half of an argument comes first on the
	// architectures we know, and holds all flags.
	const offNr, offArch, offArgs = 0, 4, 16
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// jump goes on with the next instruction if the test holds, else it skips some.
	jump := func(test uint16, k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jf: skip}
	}
	result := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

	program := []unix.SockFilter{
		load(offArch), jump(unix.BPF_JEQ, auditArch, 1), load(offNr),
	}
	// Another architecture has skipped the load, so its calls are compared with auditArch,
	// which is no number of a call.
	for i, c := range calls {
		trace := result(unix.SECCOMP_RET_TRACE | uint32(i))
		if !c.created || c.nr == unix.SYS_OPENAT2 {
			program = append(program, jump(unix.BPF_JEQ, c.nr, 1), trace)
			continue
		}
		program = append(program, jump(unix.BPF_JEQ, c.nr, 4),
			load(offArgs+8*uint32(c.flags)), jump(unix.BPF_JSET, unix.O_CREAT, 1), trace, result(unix.SECCOMP_RET_ALLOW))
	}
	program = append(program, result(unix.SECCOMP_RET_ALLOW))

	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return errno
	}
	return nil
}
