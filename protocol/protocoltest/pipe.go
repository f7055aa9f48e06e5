// Package protocoltest connects the two ends of a session in one process.
package protocoltest

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/protocol"
)

// Pipe gives two ends of a socket pair. What one writes the other reads.
func Pipe(t testing.TB) (client, server protocol.Transport) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket pair")
		ends[i], err = net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close() // FileConn has its own
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}
