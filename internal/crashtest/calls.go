//go:build linux && (amd64 || arm64)

package crashtest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// call is a system call that may be a step.
type call struct {
	nr       uint32
	name     string
	operands []operand
	write    bool // counts with Trace.Writes only, and for a regular file
	// created: a step only with O_CREAT, which is in the argument with number flags, or
	// for openat2 in the structure that argument points to.
	created bool
	flags   int
}

// operand says which arguments of a call name a file: an open file, or a path and the
// open directory it starts from.
type operand struct{ dir, path int }

const (
	cwd  = -1 // as operand.dir: no argument, the working directory
	open = -1 // as operand.path: no path, the open file dir itself
)

func file(arg int) []operand { return []operand{{arg, open}} }

var (
	at   = []operand{{0, 1}}
	atAt = []operand{{0, 1}, {2, 3}}
)

// calls gives all calls that may be steps.
func (tr Trace) calls() []call {
	all := append(archCalls(),
		call{nr: unix.SYS_FSYNC, name: "fsync", operands: file(0)},
		call{nr: unix.SYS_FDATASYNC, name: "fdatasync", operands: file(0)},
		call{nr: unix.SYS_SYNCFS, name: "syncfs", operands: file(0)},
		call{nr: unix.SYS_FTRUNCATE, name: "ftruncate", operands: file(0)},
		call{nr: unix.SYS_TRUNCATE, name: "truncate", operands: []operand{{cwd, 0}}},
		call{nr: unix.SYS_FALLOCATE, name: "fallocate", operands: file(0)},
		call{nr: unix.SYS_RENAMEAT, name: "renameat", operands: atAt},
		call{nr: unix.SYS_RENAMEAT2, name: "renameat2", operands: atAt},
		call{nr: unix.SYS_LINKAT, name: "linkat", operands: atAt},
		call{nr: unix.SYS_SYMLINKAT, name: "symlinkat", operands: []operand{{1, 2}}},
		call{nr: unix.SYS_UNLINKAT, name: "unlinkat", operands: at},
		call{nr: unix.SYS_MKDIRAT, name: "mkdirat", operands: at},
		call{nr: unix.SYS_MKNODAT, name: "mknodat", operands: at},
		call{nr: unix.SYS_OPENAT, name: "openat", operands: at, created: true, flags: 2},
		call{nr: unix.SYS_OPENAT2, name: "openat2", operands: at, created: true, flags: 2},
	)
	if tr.Writes {
		for _, c := range []call{
			{nr: unix.SYS_WRITE, name: "write", operands: file(0)},
			{nr: unix.SYS_PWRITE64, name: "pwrite64", operands: file(0)},
			{nr: unix.SYS_WRITEV, name: "writev", operands: file(0)},
			{nr: unix.SYS_PWRITEV, name: "pwritev", operands: file(0)},
			{nr: unix.SYS_PWRITEV2, name: "pwritev2", operands: file(0)},
			{nr: unix.SYS_SENDFILE, name: "sendfile", operands: file(0)},
			{nr: unix.SYS_COPY_FILE_RANGE, name: "copy_file_range", operands: file(2)},
			{nr: unix.SYS_SPLICE, name: "splice", operands: file(2)},
		} {
			c.write = true
			all = append(all, c)
		}
	}
	return all
}

// step gives the step that the thread is about to take with this call; ok is false if
// it is none.
func (tr Trace) step(tid int, c call, args [6]uint64) (s Step, ok bool) {
	if c.nr == unix.SYS_OPENAT2 {
		var flags [8]byte // the first member of struct open_how
		if n, _ := peek(tid, args[c.flags], flags[:]); n < len(flags) || flags[0]&unix.O_CREAT == 0 {
			return s, false
		}
	}
	s.Call = c.name
	s.Path = path(tid, c.operands[0], args)
	if len(c.operands) > 1 {
		s.To = path(tid, c.operands[1], args)
	}
	if c.write {
		info, err := os.Stat(descriptor(tid, args[c.operands[0].dir]))
		if err != nil || !info.Mode().IsRegular() {
			return s, false
		}
	}
	return s, tr.Under == "" || below(tr.Under, s.Path) || s.To != "" && below(tr.Under, s.To)
}

func below(dir, name string) bool {
	rest, ok := strings.CutPrefix(name, filepath.Clean(dir))
	return ok && (rest == "" || rest[0] == '/')
}

// path gives the name a call is about as well as it can be told: a call with a bad
// descriptor or address gets no name, and fails.
func path(tid int, o operand, args [6]uint64) string {
	var name string
	if o.path != open {
		if name = peekString(tid, args[o.path]); filepath.IsAbs(name) {
			return filepath.Clean(name)
		}
	}
	dir := proc(tid, "cwd")
	if o.dir != cwd && int32(args[o.dir]) != unix.AT_FDCWD {
		dir = descriptor(tid, args[o.dir])
	}
	base, err := os.Readlink(dir)
	if err != nil {
		return name
	}
	return filepath.Join(base, name)
}

func proc(tid int, name string) string { return "/proc/" + strconv.Itoa(tid) + "/" + name }

func descriptor(tid int, arg uint64) string { return proc(tid, "fd/"+strconv.Itoa(int(int32(arg)))) }

// peekString reads a path out of the memory of a stopped thread.
func peekString(tid int, addr uint64) string {
	var buf [unix.PathMax]byte
	n, _ := peek(tid, addr, buf[:]) // less than asked for where the memory ends
	name, _, _ := strings.Cut(string(buf[:n]), "\x00")
	return name
}

func peek(tid int, addr uint64, buf []byte) (int, error) {
	// Page by page: what spans a page that is not there is not read at all.
	const page = 4096
	for n := 0; n < len(buf); {
		chunk := min(len(buf)-n, page-int((addr+uint64(n))%page))
		local := unix.Iovec{Base: &buf[n], Len: uint64(chunk)}
		remote := unix.RemoteIovec{Base: uintptr(addr) + uintptr(n), Len: chunk}
		got, err := unix.ProcessVMReadv(tid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		if err != nil {
			return n, err
		}
		n += got
	}
	return len(buf), nil
}
