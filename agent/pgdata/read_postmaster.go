package pgdata

import (
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Postmaster says where the server that runs in the data directory path listens, as it
// has written into postmaster.pid: its port, and the directory of its socket, "" when it
// has none. Without a server that is fs.ErrNotExist; but the file of one that has crashed
// is still there, so nobody may answer.
func Postmaster(path string) (port int, socketDir string, err error) {
	path = filepath.Clean(path)
	fd := -1
	at, err := openRootPath(path)
	if err == nil {
		fd, err = openBelow(at, path, pidFile)
		unix.Close(at)
	}
	if err != nil {
		return 0, "", errs.WrapAs(errs.FileOpen, err, "unable to open '%s/%s'", path, pidFile)
	}
	f := &file{fd: fd, path: path + "/" + pidFile}
	defer f.Close()
	const limit = 64 << 10 // eight lines, of which paths are the longest
	content, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return 0, "", errs.WrapAs(errs.FileRead, err, "unable to read '%s/%s'", path, pidFile)
	}
	// The process, the data directory, when it was started, the port, the first directory of
	// sockets, an address. The server writes them one after another as it starts.
	lines := strings.Split(string(content), "\n")
	if len(lines) < 6 {
		return 0, "", errs.WithHint(errs.New(errs.FileInvalid, "'%s/%s' does not say yet where the server listens", path, pidFile),
			"is PostgreSQL just starting?")
	}
	number := strings.TrimSpace(lines[3])
	if port, err = strconv.Atoi(number); err != nil || port < 1 || port > 65535 {
		return 0, "", errs.New(errs.FileInvalid, "'%s/%s' has '%s' where the port of the server should be", path, pidFile, number)
	}
	return port, strings.TrimSpace(lines[4]), nil
}
