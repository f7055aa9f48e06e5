package protocol

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// pipeSize is room for one data frame, in bytes.
const pipeSize = maxData

// Stdio is the Transport of the standard input and output of this process, which nobody else
// may use any more.
func Stdio() (Transport, error) {
	for _, fd := range []int{0, 1} {
		// Only then can a Read that waits be ended by Close.
		if err := syscall.SetNonblock(fd, true); err != nil {
			return nil, errs.WrapAs(errs.FileOpen, err, "use the standard streams")
		}
	}
	for _, fd := range []uintptr{0, 1} {
		// sshd writes as much at once as there is room for. What is no pipe, and a user
		// whose share of memory for pipes is used up, do without.
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize)
	}
	return &stdio{os.NewFile(0, "standard input"), os.NewFile(1, "standard output")}, nil
}

type stdio struct{ in, out *os.File }

func (s *stdio) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s *stdio) Close() error                { return errors.Join(s.in.Close(), s.out.Close()) }
