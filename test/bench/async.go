//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// asyncSettings is what the command line says of the part async.
type asyncSettings struct {
	segments int // that wait, and that a recovery goes through
	steady   time.Duration
}

// asyncCodec is how WAL is stored in this part.
const asyncCodec = "lz4"

// segmentSize is that of clusters nobody has asked for another.
const segmentSize = 16 << 20

// inBackground measures asynchronous archiving between two hosts.
func inBackground(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	root := filepath.Dir(common.dir)
	if err := enoughSpace(root, common.async.segments); err != nil {
		return err
	}
	common.codec = asyncCodec
	common.options = append(slices.Clone(common.options), "archive-async=y")
	fmt.Fprintf(os.Stderr, "making %d segments of WAL\n", common.async.segments)
	src, err := newSource(ctx, common.m.account, common.major, filepath.Join(root, "source"), common.async.segments)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.stop()) }()
	common.hosts, err = newHosts(ctx, common.m.account, filepath.Join(root, "async-hosts"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.hosts.stop()) }()

	common.m.services = common.hosts.group
	common.wal = src.wal
	found := &findings{Segments: len(src.wal), Steady: common.async.steady.Seconds(), Rounds: common.rounds}
	report.Async = found
	archive, err := src.archive(ctx, common, tools[0])
	if err != nil {
		return err
	}
	tools = slices.Clone(tools)
	for _, part := range []struct {
		name string
		run  func(ctx context.Context, c contest, found *findings) error
	}{
		{"backlog", src.backlog},
		{"backlog on one host", func(ctx context.Context, c contest, found *findings) error {
			c.hosts, c.m.services = nil, nil
			return src.backlog(ctx, c, found)
		}},
		{"recovery", func(ctx context.Context, c contest, found *findings) error {
			c.store = archive
			return src.recovery(ctx, c, found)
		}},
		{"steady", src.steady},
	} {
		for round := range common.rounds {
			fmt.Fprintf(os.Stderr, "round %d of %d, async, %s\n", round+1, common.rounds, part.name)
			for _, t := range tools {
				c := common
				c.tool = t
				if err := part.run(ctx, c, found); err != nil {
					return fmt.Errorf("%s, async, %s: %w", t.name, part.name, err)
				}
			}
			slices.Reverse(tools)
		}
	}
	if common.svg == "" {
		return nil
	}
	return found.draw(filepath.Join(common.svg, pictureName))
}

// enoughSpace refuses to fill a disk: the segments are there once, archived about twice at a time.
func enoughSpace(dir string, segments int) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	const gb = 1 << 30
	need := 5*int64(segments)*segmentSize + 4*gb // a cluster that works, and one that recovers
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return fmt.Errorf("async needs %d GB below '%s', where %d GB are free: fewer -segments, or another -dir", need/gb+1, dir, free/gb)
	}
	return nil
}

// waitingFor gives the segments that wait in a pg_wal directory, oldest first.
func waitingFor(walDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(walDir, "archive_status")) // which sorts
	var all []string
	for _, e := range entries {
		if name, ready := strings.CutSuffix(e.Name(), ".ready"); ready {
			all = append(all, name)
		}
	}
	return all, err
}

// Workers have this long to end by themselves.
const workerWait = time.Minute

// settle ends what the contest has left in the background.
func (c contest) settle(ctx context.Context) error {
	locks := c.path("lock-" + c.config(pgHost))
	if err := os.MkdirAll(locks, 0o755); err != nil {
		return err
	}
	stop := filepath.Join(locks, "all.stop")
	if err := c.m.writeFile(stop, nil); err != nil {
		return err
	}
	limit, tick := time.After(workerWait), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := c.workers()
		if err != nil || len(pids) == 0 {
			return errors.Join(err, os.Remove(stop))
		}
		select {
		case <-tick.C:
			continue
		case <-limit:
			err = fmt.Errorf("still running after %s: processes %v", workerWait, pids)
		case <-ctx.Done():
			err = ctx.Err()
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		return err
	}
}

// workers gives the processes that run with the configuration of the contest's PostgreSQL host.
func (c contest) workers() (pids []int, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(b, []byte{0})
		if !slices.ContainsFunc(args, func(a []byte) bool { return string(a) == "--config="+c.path(c.config(pgHost)) }) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
