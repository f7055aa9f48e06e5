//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// baseName is PostgreSQL's own program for full backups, a further column where it can do the same.
const baseName = "pg_basebackup"

// baseCompress is what it is told for a codec: the levels that pgx and pgbackrest take when
// nobody says otherwise. Only archives can be compressed.
var baseCompress = map[string][]string{
	"none": {},
	"lz4":  {"--format=tar", "--compress=client-lz4:1"},
	"zst":  {"--format=tar", "--compress=client-zstd:3"},
	"gz":   {"--format=tar", "--compress=client-gzip:6"},
}

// baseBackup makes a backup by PostgreSQL's own program, in which one process reads, compresses and
// writes. It is the server that reads the files and sends them, so what that takes counts.
func (c contest) baseBackup(ctx context.Context) (s sample, err error) {
	options, can := baseCompress[c.codec]
	if !can {
		return s, fmt.Errorf("%s cannot compress with %s", baseName, c.codec)
	}
	if err := c.m.mkdir(c.dir); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, c.discard()) }()
	if _, err := c.server.query(ctx, "checkpoint"); err != nil {
		return s, err
	}
	before, err := c.server.ended(ctx)
	if err != nil {
		return s, err
	}
	to := c.path("backup")
	s, err = c.m.run(ctx, c.tool.path, append([]string{"-h", c.server.socketDir, "-p", strconv.Itoa(c.server.port), "-U", "postgres",
		"-D", to, "--checkpoint=fast", "--wal-method=none"}, options...)...)
	if err != nil {
		return s, err
	}
	after, err := c.server.ended(ctx)
	if err != nil {
		return s, err
	}
	s.CPU += (after - before).Seconds()
	if s.Stored, err = sizeOf(to); err != nil || c.codec != "none" {
		return s, err
	}
	return s, sameTables(c.server.data, to)
}

// ended gives the processor time of all that the server has run for its clients. It waits until the
// last of them is gone.
func (s *server) ended(ctx context.Context) (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	pid, _, _ := strings.Cut(string(b), "\n")
	limit, tick := time.After(idleWait), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		busy, err := serving(pid)
		if err != nil {
			return 0, err
		}
		if !busy {
			stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
			if err != nil {
				return 0, err
			}
			return childTime(string(stat))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-limit:
			return 0, errors.New("the server does not get rid of its clients")
		}
	}
}

// serving says whether a server has a process that serves a client.
func serving(pid string) (bool, error) {
	children, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		return false, err
	}
	for child := range strings.FieldsSeq(string(children)) {
		title, err := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
		// One that has ended has no title, and its time is not counted yet.
		if err != nil || len(title) == 0 || strings.HasPrefix(string(title), "postgres: walsender ") || strings.HasPrefix(string(title), "postgres: postgres ") {
			return true, nil
		}
	}
	return false, nil
}

// childTime reads from the stat of a process how long its children have run that it has waited
// for. The kernel counts in hundredths of a second.
func childTime(stat string) (time.Duration, error) {
	// The name of the program is in parentheses and can have any in it.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0, fmt.Errorf("the kernel tells of a process '%s'", strings.TrimSpace(stat))
	}
	var ticks int64
	for _, f := range fields[13:15] { // cutime and cstime, after pid and name
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil
}
