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
	Read   int64   `json:"read_bytes"`   // by it and its descendants, from files, pipes and sockets
	Data   int64   `json:"data_bytes"`   // in the databases that were backed up; 0: not of interest
	Syncs  float64 `json:"-"`            // calls that wait for the disk; known only in the round that counts
}

// part is what was read, to the size of the databases.
func (s sample) part() float64 {
	if s.Data == 0 {
		return 0
	}
	return float64(s.Read) / float64(s.Data)
}

type samples []sample

// each gives what one of several runs took on average, with the memory of the largest.
func (all samples) each() sample {
	var s sample
	for _, one := range all {
		s.Wall += one.Wall / float64(len(all))
		s.CPU += one.CPU / float64(len(all))
		s.RSS = max(s.RSS, one.RSS)
		s.Syncs += one.Syncs / float64(len(all))
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
	turn     round
	wait     bool  // for the phase of the round, before a program is started
	memory   int64 // bytes that are touched before a program is started, see touch
}

// run measures the program or, in the round that does, counts syncs.
func (m measurer) run(ctx context.Context, program string, args ...string) (sample, error) {
	if m.turn.counts() {
		return m.countSyncs(ctx, program, args...)
	}
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

// untilPhase waits for the round's time of a second.
func (m measurer) untilPhase(ctx context.Context) error {
	left := m.turn.phase() - time.Duration(time.Now().Nanosecond())
	if left < 0 {
		left += time.Second
	}
	select {
	case <-time.After(left):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runTree measures the program and its descendants.
func (m measurer) runTree(ctx context.Context, program string, args ...string) (sample, error) {
	return m.runSelf(ctx, append([]string{measureArg, program}, args...)...)
}

// runSelf runs this program with arguments that have it write a sample to descriptor 3.
func (m measurer) runSelf(ctx context.Context, args ...string) (s sample, err error) {
	unix.Sync() // what earlier runs wrote is not to be written during this one
	if err := touch(m.memory); err != nil {
		return s, err
	}
	if m.wait {
		if err := m.untilPhase(ctx); err != nil {
			return s, err
		}
	}
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
	cmd := m.command(ctx, m.self, args...)
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
		return s, fmt.Errorf("%q: %w\n%s", args[1:], err, said)
	}
	return s, decoded
}

// touch takes memory, as much of size bytes as is free, and gives it back. A hypervisor may have taken away
// what nothing was in; the first to use it again pays for that, which would be the program that happens to write
// more than was freed before it.
func touch(size int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	size = min(size, int64(info.Freeram)*int64(info.Unit)*3/4)
	if size <= 0 {
		return nil
	}
	taken, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	return unix.Munmap(taken)
}

// measureArg as the first argument makes this program the second process.
const measureArg = "measure"

// measureMain runs a command, waits for all it has started and writes a sample to
// descriptor 3. It exits as the command does.
func measureMain(command []string) {
	s, code, err := measureTree(command)
	if err == nil {
		err = writeSample(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// writeSample tells the process that waits for it.
func writeSample(s sample) error {
	out := os.NewFile(3, "result")
	return errors.Join(json.NewEncoder(out).Encode(s), out.Close())
}

func measureTree(command []string) (s sample, code int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return s, 0, err
	}
	before, err := bytesRead()
	if err != nil {
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
			after, err := bytesRead()
			s.Read = after - before
			return s, code, err
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

// bytesRead gives what this process and the children that it has waited for have read.
func bytesRead() (n int64, err error) {
	text, err := os.ReadFile("/proc/self/io")
	if err == nil {
		_, err = fmt.Sscanf(string(text), "rchar: %d", &n)
	}
	return n, err
}
