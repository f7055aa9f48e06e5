//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// server is a running cluster that nobody else uses.
type server struct {
	account
	binDir    string
	data      string // the data directory
	socketDir string // the only way to connect
	port      int
	row       int // that the next rows of fill and change are numbered from
}

func newServer(ctx context.Context, a account, major int, data string) (s *server, err error) {
	s = &server{account: a, data: data, socketDir: filepath.Dir(data), port: 5432}
	if s.binDir, err = binDir(major); err != nil {
		return nil, err
	}
	defer func() {
		if _, running := os.Stat(filepath.Join(data, "postmaster.pid")); err != nil && running == nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := s.do(ctx, "initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-k", "--no-sync"); err != nil {
		return nil, err
	}
	if err := s.configure(); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

// binDir gives where a version of PostgreSQL is installed.
func binDir(major int) (string, error) {
	n := strconv.Itoa(major)
	for _, dir := range []string{
		filepath.Join("/usr/lib/postgresql", n, "bin"),
		filepath.Join(home(), "pg", n, "root/usr/lib/postgresql", n, "bin"),
	} {
		if executable(filepath.Join(dir, "postgres")) && executable(filepath.Join(dir, "psql")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("PostgreSQL %d is not installed: run test/setup.sh, or choose another with -pg", major)
}

// do runs one of PostgreSQL's programs on the data directory.
func (s *server) do(ctx context.Context, name string, args ...string) error {
	cmd := s.command(ctx, filepath.Join(s.binDir, name), append([]string{"-D", s.data}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// start waits until the server takes connections, or recovers from an archive.
func (s *server) start(ctx context.Context) error {
	return s.do(ctx, "pg_ctl", "-w", "-t", "3600", "-l", filepath.Join(s.socketDir, "server.log"), "start")
}

// configure keeps the server quiet: all that the two programs read stays as it is. It
// is not what is measured, so it need not be durable.
func (s *server) configure() error {
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, `
listen_addresses = ''
unix_socket_directories = '%s'
port = %d
shared_buffers = '128MB'
maintenance_work_mem = '128MB'
max_wal_size = '2GB'
wal_keep_size = '1GB'
fsync = off
autovacuum = off
archive_mode = on
archive_command = '/bin/true pgbackrest'
`, s.socketDir, s.port)
	return errors.Join(err, f.Close())
}

// stop ends the server, whatever has happened before.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := output(s.command(ctx, filepath.Join(s.binDir, "pg_ctl"), "-D", s.data, "-w", "-m", "immediate", "stop"))
	return err
}

// query runs statements as the superuser and gives what they print, without decoration.
func (s *server) query(ctx context.Context, sql string) (string, error) {
	cmd := s.command(ctx, filepath.Join(s.binDir, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-",
		"-h", s.socketDir, "-p", strconv.Itoa(s.port), "-U", "postgres", "postgres")
	cmd.Stdin = strings.NewReader(sql)
	return output(cmd)
}

// keepSegments copies the last full WAL segments to a new directory.
func (s *server) keepSegments(ctx context.Context, n int, dir string) ([]string, error) {
	current, err := s.query(ctx, "select pg_walfile_name(pg_current_wal_insert_lsn())")
	if err != nil {
		return nil, err
	}
	if err := s.mkdir(dir); err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(s.data, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil {
		return nil, err
	}
	// Those after the current one are old segments, renamed to be used again.
	found = slices.DeleteFunc(found, func(name string) bool { return filepath.Base(name) >= current })
	slices.Sort(found)
	if len(found) < n {
		return nil, fmt.Errorf("there are only %d full WAL segments: fewer -segments and -pairs", len(found))
	}
	found = found[len(found)-n:]
	for i, name := range found {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		found[i] = filepath.Join(dir, filepath.Base(name))
		if err := s.writeFile(found[i], b); err != nil {
			return nil, err
		}
	}
	return found, nil
}
