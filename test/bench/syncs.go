//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// syncCalls are the system calls that wait until the disk has something.
const syncCalls = "fsync,fdatasync,sync_file_range,syncfs,sync"

// countSyncs runs the program as run does, and counts what it, its descendants and the services sync.
// Nothing else of the sample is known, for strace makes it slow.
func (m measurer) countSyncs(ctx context.Context, program string, args ...string) (s sample, err error) {
	trace := m.log + ".syncs"
	for _, name := range []string{trace, trace + "-services"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return s, err
		}
	}
	detach := func() error { return nil }
	if m.services != nil {
		if _, err := m.services.cpu(ctx); err != nil { // so that all it runs are the services
			return s, err
		}
		if detach, err = m.services.attach(ctx, trace+"-services"); err != nil {
			return s, err
		}
	}
	_, err = m.runTree(ctx, "strace", append([]string{"-f", "--seccomp-bpf", "-qqq", "-e", "signal=none", "-e", "trace=" + syncCalls, "-o", trace, program}, args...)...)
	if m.services != nil && err == nil {
		_, err = m.services.cpu(ctx)
	}
	if err := errors.Join(err, detach()); err != nil {
		return s, err
	}
	for _, name := range []string{trace, trace + "-services"} {
		text, err := os.ReadFile(name)
		if err != nil && !(m.services == nil && errors.Is(err, os.ErrNotExist)) {
			return s, err
		}
		s.Syncs += float64(syncsIn(text))
	}
	return s, nil
}

// A call begins a line, behind the process. One that is resumed has been counted.
var syncLine = regexp.MustCompile(`(?m)^(?:[0-9]+ +)?(?:` + strings.ReplaceAll(syncCalls, ",", "|") + `)\(`)

// syncsIn counts the calls in what strace writes.
func syncsIn(trace []byte) int { return len(syncLine.FindAllIndex(trace, -1)) }

// attach has strace write down what all in the group sync, until detach is called.
func (g *group) attach(ctx context.Context, trace string) (detach func() error, err error) {
	pids, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	args := []string{"-f", "-qqq", "-e", "signal=none", "-e", "trace=" + syncCalls, "-o", trace}
	for pid := range strings.FieldsSeq(string(pids)) {
		args = append(args, "-p", pid)
	}
	cmd := exec.CommandContext(ctx, "strace", args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	detach = func() error {
		_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
		err := cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGINT {
			return nil // how it ends when it has let go
		}
		if err != nil {
			err = fmt.Errorf("strace: %w\n%s", err, said.Bytes())
		}
		return err
	}
	limit, tick := time.After(idleWait), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if all, err := traced(string(pids)); err != nil || all {
			if err != nil {
				err = errors.Join(err, detach())
			}
			return detach, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), detach())
		case <-limit:
			return nil, errors.Join(errors.New("strace does not attach to sshd"), detach())
		}
	}
}

// traced says whether all threads of the processes are looked at by a tracer.
func traced(pids string) (bool, error) {
	for pid := range strings.FieldsSeq(pids) {
		threads, err := filepath.Glob(filepath.Join("/proc", pid, "task/*/status"))
		if err != nil {
			return false, err
		}
		for _, thread := range threads {
			status, err := os.ReadFile(thread)
			if err != nil {
				return false, err
			}
			if strings.Contains(string(status), "TracerPid:\t0\n") {
				return false, nil
			}
		}
	}
	return true, nil
}
