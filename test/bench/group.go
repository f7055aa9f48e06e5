//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// group is a control group, for services and all that they start: whose children those are
// nobody can say afterwards, but the kernel adds up the time of all that ever ran in it.
type group struct {
	dir      string
	services int // that were started and not ended: one process each while they serve nobody
}

// idleWait is how long the last session of a service may take to end.
const idleWait = 20 * time.Second

func newGroup(ctx context.Context) (*group, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			dir, err := os.MkdirTemp(f[1], "pgx-bench-")
			if err != nil {
				return nil, err
			}
			g := &group{dir: dir}
			if _, err := g.cpu(ctx); err != nil {
				return nil, errors.Join(err, os.Remove(g.dir))
			}
			return g, nil
		}
	}
	return nil, errors.New("no cgroup2 file system is mounted")
}

// start starts a service in the group. It ends by stop.
func (g *group) start(cmd *exec.Cmd) error {
	return g.with(cmd, func() error {
		err := cmd.Start()
		if err == nil {
			g.services++
		}
		return err
	})
}

// output runs a program in the group, as all that it starts, and gives what it prints.
func (g *group) output(cmd *exec.Cmd) (out []byte, err error) {
	err = g.with(cmd, func() error {
		out, err = cmd.CombinedOutput()
		return err
	})
	return out, err
}

// with has the program begin in the group when run starts it.
func (g *group) with(cmd *exec.Cmd, run func() error) error {
	dir, err := os.Open(g.dir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only read
	attr := syscall.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	cmd.SysProcAttr = &attr
	return run()
}

// stop ends a service.
func (g *group) stop(cmd *exec.Cmd) error {
	g.services--
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		err = nil
	}
	return err
}

// cpu gives the seconds that the group has run for. It waits until the services serve nobody.
func (g *group) cpu(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, idleWait)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
		if err != nil {
			return 0, err
		}
		if n := len(strings.Fields(string(pids))); n <= g.services {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("a session of sshd has not ended: %w", ctx.Err())
		}
	}
	stat, err := os.ReadFile(filepath.Join(g.dir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return float64(us) / 1e6, err
		}
	}
	return 0, fmt.Errorf("'%s/cpu.stat' does not tell the usage", g.dir)
}

// remove ends whatever is left in the group, and the group.
func (g *group) remove() error {
	err := os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
	if err != nil {
		return err
	}
	limit, tick := time.After(idleWait), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if err = os.Remove(g.dir); !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-tick.C:
		case <-limit:
			return err
		}
	}
}
