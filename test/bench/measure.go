//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// sample is what one run of a program took.
type sample struct {
	Wall   float64 `json:"wall_s"`       // until the program itself ended, seconds
	CPU    float64 `json:"cpu_s"`        // user and system, of it, its descendants and services, seconds
	RSS    int64   `json:"max_rss"`      // of the largest process that is not of a service, bytes
	Stored int64   `json:"stored_bytes"` // in the repository or the restored directory; 0: not of interest
}

type samples []sample

// each gives what one of several runs took on average, with the memory of the largest.
func (all samples) each() sample {
	var s sample
	for _, one := range all {
		s.Wall += one.Wall / float64(len(all))
		s.CPU += one.CPU / float64(len(all))
		s.RSS = max(s.RSS, one.RSS)
	}
	return s
}

// measurer runs programs as the account and measures them. Between it and the program is
// a second process of ours: a parent without other children can wait for every process that
// the program leaves behind. And the kernel counts what the parent has in memory for a new
// process that has not called execve yet, so that parent has to be small.
type measurer struct {
	account
	self     string // this program, where the account may run it
	log      string // file for what the measured program prints
	services *group // whose work is the measured program's, too; nil: there are none
}

func (m measurer) run(ctx context.Context, program string, args ...string) (sample, error) {
	if m.services == nil {
		return m.runTree(ctx, program, args...)
	}
	before, err := m.services.cpu(ctx)
	if err != nil {
		return sample{}, err
	}
	s, err := m.runTree(ctx, program, args...)
	if err != nil {
		return s, err
	}
	after, err := m.services.cpu(ctx)
	s.CPU += after - before
	return s, err
}

// runTree measures the program and its descendants.
func (m measurer) runTree(ctx context.Context, program string, args ...string) (s sample, err error) {
	unix.Sync() // what earlier runs wrote is not to be written during this one
	log, err := os.Create(m.log)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	r, w, err := os.Pipe()
	if err != nil {
		return s, err
	}
	defer func() { _ = r.Close() }() // only read
	cmd := m.command(ctx, m.self, append([]string{measureArg, program}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err = cmd.Start()
	_ = w.Close() // ours; only the child writes
	if err != nil {
		return s, err
	}
	decoded := json.NewDecoder(r).Decode(&s)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		said, _ := os.ReadFile(m.log)
		return s, fmt.Errorf("%s %q: %w\n%s", program, args, err, said)
	}
	return s, decoded
}

// measureArg as the first argument makes this program the second process.
const measureArg = "measure"

// measureMain runs a command, waits for all it has started and writes a sample to
// descriptor 3. It exits as the command does.
func measureMain(command []string) {
	s, code, err := measureTree(command)
	if err == nil {
		out := os.NewFile(3, "result")
		err = errors.Join(json.NewEncoder(out).Encode(s), out.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func measureTree(command []string) (s sample, code int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return s, 0, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return s, 0, err
	}
	for {
		var ws unix.WaitStatus
		var usage unix.Rusage
		pid, err := unix.Wait4(-1, &ws, 0, &usage)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return s, code, nil
		case err != nil:
			return s, code, err
		}
		if pid == cmd.Process.Pid {
			s.Wall = time.Since(begin).Seconds()
			if code = ws.ExitStatus(); ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
		}
		// The usage of a process contains that of those it has waited for.
		s.CPU += time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
		s.RSS = max(s.RSS, usage.Maxrss*1024)
	}
}
