//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	curve, cpu, err := s.drain(ctx, c)
	if err != nil {
		return err
	}
	what := "backlog"
	if c.hosts == nil {
		what += ", one host"
	} else {
		found.addCurve(backlogCurve, c.name, curve)
	}
	found.add(what+", CPU", "ms/segment", c.name, 1000*cpu/float64(len(s.wal)))
	found.add(what, "segments/s", c.name, float64(len(s.wal))/curve.end())
	return nil
}

// drain archives all segments, in a new repository, as PostgreSQL does that finds them ready. It gives
// the seconds of processor time, too, of all processes on both hosts.
func (s *source) drain(ctx context.Context, c contest) (curve curve, cpu float64, err error) {
	// Beside the contest's directory: its files are truncated at the end, and these are links.
	data := c.dir + "-data"
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	if err := s.waitingData(data); err != nil {
		return nil, 0, err
	}
	c.server = &server{account: s.account, data: data, socketDir: c.dir, port: s.port}
	if err := c.prepare(ctx, "--no-online"); err != nil {
		return nil, 0, err
	}
	clients, err := newGroup(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, clients.remove()) }()
	groups := []*group{clients}
	if c.m.services != nil {
		groups = append(groups, c.m.services)
	}
	before, err := used(ctx, groups)
	if err != nil {
		return nil, 0, err
	}
	curve, err = s.pushAll(ctx, c, data, clients)
	if err := errors.Join(err, c.settle(context.WithoutCancel(ctx))); err != nil {
		return nil, 0, err
	}
	after, err := used(ctx, groups)
	if err != nil {
		return nil, 0, err
	}
	return curve, after - before, c.archived(ctx)
}

// used gives what the groups have run for, in seconds.
func used(ctx context.Context, groups []*group) (sum float64, err error) {
	for _, g := range groups {
		s, err := g.cpu(ctx)
		if err != nil {
			return 0, err
		}
		sum += s
	}
	return sum, nil
}

// pushAll calls archive-push for all segments that wait in a data directory. What it starts is in the
// group.
func (s *source) pushAll(ctx context.Context, c contest, data string, clients *group) (curve curve, err error) {
	waiting, err := waitingFor(filepath.Join(data, "pg_wal"))
	if err != nil {
		return nil, err
	}
	if err := s.recall(); err != nil {
		return nil, err
	}
	unix.Sync()
	begin := time.Now()
	curve.add(0, len(waiting))
	for i, name := range waiting {
		cmd := c.m.command(ctx, c.tool.path, c.args(pgHost, archivePush, "pg_wal/"+name)...)
		cmd.Dir = data
		if out, err := clients.output(cmd); err != nil {
			return nil, fmt.Errorf("archive-push of '%s': %w\n%s", name, err, out)
		}
		status := filepath.Join(data, "pg_wal/archive_status", name)
		if err := os.Rename(status+".ready", status+".done"); err != nil {
			return nil, err
		}
		curve.add(time.Since(begin), len(waiting)-i-1)
	}
	return curve, nil
}

// recall reads all segments, for each drain to find them in memory. How many of them the kernel has kept there
// is otherwise left to chance, and differs from one program to the next.
func (s *source) recall() error {
	for _, segment := range s.wal {
		f, err := os.Open(segment)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
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
