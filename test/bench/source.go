//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source is a server that has written WAL, and what it was before.
type source struct {
	*server
	base string   // the data directory before, without WAL
	wal  []string // paths of the segments since, which recover base
}

// newSource makes a server below dir, and has it write n segments. It runs afterwards.
func newSource(ctx context.Context, a account, major int, dir string, n int) (_ *source, err error) {
	if err := a.mkdir(dir); err != nil {
		return nil, err
	}
	srv, err := newServer(ctx, a, major, filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	s := &source{server: srv, base: filepath.Join(dir, "base")}
	defer func() {
		if _, running := os.Stat(filepath.Join(s.data, "postmaster.pid")); err != nil && running == nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := s.pgbench(ctx, "-i", "-s", "10", "-q"); err != nil {
		return nil, err
	}
	if _, err := s.query(ctx, mixed.schema+fmt.Sprintf("alter system set wal_keep_size = '%dGB';", n*segmentSize>>30+2)); err != nil {
		return nil, err
	}
	if err := s.shutDown(ctx); err != nil {
		return nil, err
	}
	if _, err := output(s.command(ctx, "cp", "-a", s.data, s.base)); err != nil {
		return nil, err
	}
	if err := withoutWAL(s.base); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	first, err := s.query(ctx, "select pg_walfile_name(redo_lsn) from pg_control_checkpoint()")
	if err != nil {
		return nil, err
	}
	if err := s.change(ctx, int64(n)*segmentSize); err != nil {
		return nil, err
	}
	if err := s.shutDown(ctx); err != nil {
		return nil, err
	}
	if err := s.takeSegments(first, n, filepath.Join(dir, "wal")); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	_, err = s.query(ctx, "alter system reset wal_keep_size; select pg_reload_conf();")
	return s, err
}

// shutDown stops the server in order.
func (s *server) shutDown(ctx context.Context) error {
	return s.do(ctx, "pg_ctl", "-w", "-m", "fast", "stop")
}

// pgbench runs PostgreSQL's own benchmark.
func (s *server) pgbench(ctx context.Context, args ...string) error {
	_, err := output(s.pgbenchCommand(ctx, args...))
	return err
}

// withoutWAL empties the WAL directory of a data directory.
func withoutWAL(data string) error {
	dir := filepath.Join(data, "pg_wal")
	for _, pattern := range []string{strings.Repeat("[0-9A-F]", 24), "archive_status/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range found {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeSegments moves n segments from first on to a new directory. The server, which was
// stopped in order, does not need them.
func (s *source) takeSegments(first string, n int, dir string) error {
	if err := s.mkdir(dir); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(s.data, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(name string) bool { return filepath.Base(name) < first })
	slices.Sort(found)
	if len(found) <= n {
		return fmt.Errorf("there are only %d WAL segments from '%s' on, and %d are needed", len(found), first, n+1)
	}
	for _, name := range found[:n] {
		to := filepath.Join(dir, filepath.Base(name))
		if err := os.Rename(name, to); err != nil {
			return err
		}
		s.wal = append(s.wal, to)
	}
	return nil
}

// archive has the tool archive all segments, and gives the repository's directory.
func (s *source) archive(ctx context.Context, c contest, t *tool) (string, error) {
	c.tool, c.dir = t, c.dir+"-archive"
	_, _, err := s.drain(ctx, c)
	return c.repository(), err
}
