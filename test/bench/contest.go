//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The names of the two programs in reports.
const (
	pgxName  = "pgx"
	peerName = "pgbackrest"
)

// What is measured, as the report names and orders it.
const (
	backup      = "backup"
	restore     = "restore"
	archivePush = "archive-push"
	archiveGet  = "archive-get"
)

var operations = []string{backup, restore, archivePush, archiveGet}

const stanza = "bench"

// tool is a program that takes pgbackrest's command line.
type tool struct{ name, path string }

// contest is one round of one tool with one codec, in a new repository.
type contest struct {
	*tool
	settings
	codec  string
	dir    string // made and removed by run
	server *server
	wal    []string // paths of full segments
	m      measurer
}

// run gives a sample for each of operations.
func (c contest) run(ctx context.Context) (results map[string]sample, err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	results = map[string]sample{}
	for _, one := range []struct { // restore and archive-get need what is stored before
		operation string
		measure   func(context.Context) (sample, error)
	}{{archivePush, c.push}, {backup, c.backup}, {restore, c.restore}, {archiveGet, c.get}} {
		if results[one.operation], err = one.measure(ctx); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (c contest) prepare(ctx context.Context) error {
	if err := c.m.mkdir(c.dir); err != nil {
		return err
	}
	lines := []string{
		"[global]", "repo1-path=" + c.path("repo"), "log-path=" + c.path("log"), "lock-path=" + c.path("lock"),
		"spool-path=" + c.path("spool"), "log-level-file=off", "log-level-console=warn", "repo1-retention-full=2",
		"start-fast=y", "archive-check=n", "compress-type=" + c.codec, fmt.Sprintf("process-max=%d", c.processMax),
	}
	lines = append(lines, c.options...)
	lines = append(lines, "", "["+stanza+"]", "pg1-path="+c.server.data, "pg1-user=postgres",
		fmt.Sprintf("pg1-port=%d", c.server.port), "pg1-socket-path="+c.server.socketDir, "")
	if err := c.m.writeFile(c.path("conf"), []byte(strings.Join(lines, "\n"))); err != nil {
		return err
	}
	_, err := c.measure(ctx, "stanza-create")
	return err
}

func (c contest) path(name string) string { return filepath.Join(c.dir, name) }

func (c contest) measure(ctx context.Context, args ...string) (sample, error) {
	args = append([]string{"--config=" + c.path("conf"), "--stanza=" + stanza}, args...)
	return c.m.run(ctx, c.tool.path, args...)
}

func (c contest) backup(ctx context.Context) (sample, error) {
	// The checkpoint that a backup begins with is not to be what is measured.
	if _, err := c.server.query(ctx, "checkpoint"); err != nil {
		return sample{}, err
	}
	s, err := c.measure(ctx, "backup", "--type=full")
	if err != nil {
		return s, err
	}
	s.Stored, err = sizeOf(c.path("repo/backup"))
	return s, err
}

func (c contest) restore(ctx context.Context) (sample, error) {
	to := c.path("restored")
	if err := c.m.mkdir(to); err != nil {
		return sample{}, err
	}
	s, err := c.measure(ctx, "restore", "--pg1-path="+to)
	if err != nil {
		return s, err
	}
	if s.Stored, err = sizeOf(to); err != nil {
		return s, err
	}
	return s, sameTables(c.server.data, to)
}

func (c contest) push(ctx context.Context) (sample, error) {
	var all samples
	for _, segment := range c.wal {
		s, err := c.measure(ctx, archivePush, segment)
		if err != nil {
			return s, err
		}
		all = append(all, s)
	}
	s := all.each()
	stored, err := sizeOf(c.path("repo/archive"))
	s.Stored = stored / int64(len(c.wal))
	return s, err
}

func (c contest) get(ctx context.Context) (sample, error) {
	var all samples
	for _, segment := range c.wal {
		to := c.path("segment")
		s, err := c.measure(ctx, archiveGet, filepath.Base(segment), to)
		if err == nil {
			err = same(segment, to)
		}
		if err != nil {
			return s, err
		}
		all = append(all, s)
		if err := os.Remove(to); err != nil {
			return s, err
		}
	}
	return all.each(), nil
}

// sizeOf gives the bytes in the files below dir.
func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				total += info.Size()
			}
		}
		return err
	})
	return total, err
}

// sameTables compares the files of all databases. Nothing writes to them during the
// benchmark, and each backup was made after a checkpoint.
func sameTables(data, restored string) error {
	return filepath.WalkDir(filepath.Join(data, "base"), func(name string, e fs.DirEntry, err error) error {
		// What the relation cache was when the server ran is of no use to another.
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), "pg_internal.init") {
			return err
		}
		below, err := filepath.Rel(data, name)
		if err != nil {
			return err
		}
		return same(name, filepath.Join(restored, below))
	})
}

// same compares two files, of at most 1 GB as those of PostgreSQL are.
func same(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err == nil && !bytes.Equal(x, y) {
		err = fmt.Errorf("'%s' differs from '%s', of which it should be a copy", b, a)
	}
	return err
}
