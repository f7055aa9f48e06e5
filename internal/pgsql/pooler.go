package pgsql

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pgx-backup/pgx/internal/errs"
)

// refusePooler makes sure that the session is with the server itself. A pooler gives
// statements to whatever server process it likes and keeps sessions after we are
// gone: a backup could be stopped in a session that never started it, or never end.
//
// Two signs give one away. The key for cancelling, which a server sends at the start
// of a session, has the number of the process that executes our statements; a pooler
// makes up its own. And the process that listens on the socket is the postmaster; the
// kernel names it. The second is also true of those poolers that hand through the
// first.
func (c *Conn) refusePooler(t target, backend int, dataDirectory string) error {
	listener := listenerPID(c.pg.Conn())
	if backend == int(c.pg.PID()) && !otherListener(listener, backend, dataDirectory) {
		return nil
	}
	who := "another program"
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", listener)); err == nil && listener != 0 {
		who = fmt.Sprintf("'%s' (process %d)", strings.TrimSpace(string(b)), listener)
	}
	return errs.WithHint(
		t.fail("'%s' is answered by %s, not by PostgreSQL itself: a backup cannot go through a connection pooler", t.socket, who),
		"set pg-port and pg-socket-path to those of the PostgreSQL server")
}

// listenerPID gives the process that listens on the other end of a socket, 0 when the
// kernel does not say: it is in a container of its own.
func listenerPID(conn net.Conn) int {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// otherListener says whether it is known that the listener is not the postmaster of
// the server. Where the processes cannot be seen nothing is known, and a direct
// connection must not be refused.
func otherListener(listener, backend int, dataDirectory string) bool {
	if listener == 0 {
		return false
	}
	// The server may be in a container and count its processes there: the numbers of
	// the listener in all name spaces below ours.
	numbers := strings.Fields(procStatus(listener, "NSpid"))
	if len(numbers) == 0 {
		return false
	}
	if dataDirectory != "" {
		if b, err := os.ReadFile(filepath.Join(dataDirectory, "postmaster.pid")); err == nil {
			postmaster, _, _ := strings.Cut(string(b), "\n")
			return !slices.Contains(numbers, strings.TrimSpace(postmaster))
		}
	}
	// The data directory is not ours to read. In one name space the parent of the
	// process that executes our statements is the postmaster.
	if len(numbers) > 1 {
		return false
	}
	parent := procStatus(backend, "PPid")
	return parent != "" && parent != strconv.Itoa(listener)
}

// procStatus gives a line of /proc/PID/status, "" if there is none.
func procStatus(pid int, key string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
