//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// backlog measures how fast segments are archived that all wait already.
func (s *source) backlog(ctx context.Context, c contest, found *findings) (err error) {
	defer func() { err = errors.Join(err, c.discard()) }()
	curve, err := s.drain(ctx, c)
	if err != nil {
		return err
	}
	found.add("backlog", "segments/s", c.name, float64(len(s.wal))/curve.end())
	found.addCurve(backlogCurve, c.name, curve)
	return nil
}

// drain archives all segments, in a new repository, as PostgreSQL does that finds them ready.
func (s *source) drain(ctx context.Context, c contest) (curve curve, err error) {
	// Beside the contest's directory: its files are truncated at the end, and these are links.
	data := c.dir + "-data"
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	if err := s.waitingData(data); err != nil {
		return nil, err
	}
	c.server = &server{account: s.account, data: data, socketDir: c.dir, port: s.port}
	if err := c.prepare(ctx, "--no-online"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.settle(context.WithoutCancel(ctx))) }()

	unix.Sync()
	waiting, err := waitingFor(filepath.Join(data, "pg_wal"))
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	curve.add(0, len(waiting))
	for i, name := range waiting {
		cmd := c.m.command(ctx, c.tool.path, c.args(pgHost, archivePush, "pg_wal/"+name)...)
		cmd.Dir = data
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("archive-push of '%s': %w\n%s", name, err, out)
		}
		status := filepath.Join(data, "pg_wal/archive_status", name)
		if err := os.Rename(status+".ready", status+".done"); err != nil {
			return nil, err
		}
		curve.add(time.Since(begin), len(waiting)-i-1)
	}
	return curve, c.archived(ctx)
}

// waitingData makes a data directory of which there is only what archive-push looks at, and
// whose segments all wait.
func (s *source) waitingData(data string) error {
	for _, dir := range []string{"", "global", "pg_wal", "pg_wal/archive_status"} {
		if err := s.mkdir(filepath.Join(data, dir)); err != nil {
			return err
		}
	}
	for _, name := range []string{"PG_VERSION", "global/pg_control"} {
		b, err := os.ReadFile(filepath.Join(s.base, name))
		if err != nil {
			return err
		}
		if err := s.writeFile(filepath.Join(data, name), b); err != nil {
			return err
		}
	}
	for _, segment := range s.wal {
		name := filepath.Base(segment)
		if err := os.Link(segment, filepath.Join(data, "pg_wal", name)); err != nil {
			return err
		}
		if err := s.writeFile(filepath.Join(data, "pg_wal/archive_status", name+".ready"), nil); err != nil {
			return err
		}
	}
	return nil
}

// archived makes sure that each segment is in the repository, and fetches two.
func (c contest) archived(ctx context.Context) error {
	stored := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(c.repository(), "archive"), func(_ string, e fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(e.Name()), "-"); err == nil && ok {
			stored[name] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, segment := range c.wal {
		if !stored[filepath.Base(segment)] {
			return fmt.Errorf("'%s' is not in the repository", filepath.Base(segment))
		}
	}
	for _, segment := range []string{c.wal[0], c.wal[len(c.wal)-1]} {
		if _, err := c.getOne(ctx, segment, "--no-archive-async"); err != nil {
			return err
		}
	}
	return nil
}
