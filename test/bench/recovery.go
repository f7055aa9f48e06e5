//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// recovery measures how long a cluster takes to go through all segments, and how much of that
// it waits for restore_command.
func (s *source) recovery(ctx context.Context, c contest, found *findings) (err error) {
	defer func() { err = errors.Join(err, c.discard()) }()
	c.server = &server{account: s.account, binDir: s.binDir, data: c.path("data"), socketDir: c.dir, port: s.port}
	if err := c.configure(); err != nil {
		return err
	}
	log := c.path("times")
	if err := c.toRecover(ctx, s.base, c.m.shellCommand(log, c.tool.path, c.args(pgHost, archiveGet, "%f", "%p")...)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.settle(context.WithoutCancel(ctx))) }()
	unix.Sync()
	if err := c.server.start(ctx); err != nil {
		return err
	}
	took, waited := c.recovered(ctx)
	if err := errors.Join(waited, c.server.stop()); err != nil {
		return err
	}
	times, err := readTimes(log)
	if err != nil {
		return err
	}
	var inside float64
	fetched := 0
	for _, t := range times {
		inside += t.seconds
		if t.code == 0 {
			fetched++
		}
	}
	if fetched < len(s.wal) {
		return fmt.Errorf("recovery went through %d segments of %d", fetched, len(s.wal))
	}
	found.add("recovery, in restore_command", "s", c.name, inside)
	found.add("recovery, in all", "s", c.name, took)
	return nil
}

// toRecover makes a copy of a data directory that is going to recover from the archive.
func (c contest) toRecover(ctx context.Context, base, command string) error {
	if _, err := output(c.m.command(ctx, "cp", "-a", base, c.server.data)); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(c.server.data, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, `
unix_socket_directories = '%s'
hot_standby = off
wal_keep_size = 0
log_line_prefix = '%%n '
restore_command = '%s'
`, c.server.socketDir, strings.ReplaceAll(command, "'", "''"))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return c.m.writeFile(filepath.Join(c.server.data, "recovery.signal"), nil)
}

// recoveryLimit is how long a recovery may take.
const recoveryLimit = time.Hour

// recovered waits until the recovery is complete, and gives the seconds it has taken from
// before the first restore_command to after the last.
func (c contest) recovered(ctx context.Context) (float64, error) {
	limit, tick := time.After(recoveryLimit), time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		log, err := os.ReadFile(c.path("server.log"))
		if err != nil {
			return 0, err
		}
		if took, complete, err := recoveryTime(string(log)); err != nil || complete {
			return took, err
		}
		// What ends by itself has written why.
		if _, err := os.Stat(filepath.Join(c.server.data, "postmaster.pid")); err != nil {
			return 0, fmt.Errorf("the server has ended:\n%s", log)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-limit:
			return 0, fmt.Errorf("the recovery is not complete after %s:\n%s", recoveryLimit, log)
		}
	}
}

// Of the server's log, whose lines begin with the time in seconds.
var (
	recoveryBegin = regexp.MustCompile(`(?m)^([0-9.]+) LOG:  database system was shut down at .*$`)
	recoveryEnd   = regexp.MustCompile(`(?m)^([0-9.]+) LOG:  archive recovery complete$`)
)

// recoveryTime gives the seconds that a recovery has taken, if it is complete.
func recoveryTime(log string) (seconds float64, complete bool, err error) {
	var at [2]float64
	for i, line := range []*regexp.Regexp{recoveryBegin, recoveryEnd} {
		m := line.FindStringSubmatch(log)
		if m == nil {
			return 0, false, nil
		}
		if at[i], err = strconv.ParseFloat(m[1], 64); err != nil {
			return 0, false, err
		}
	}
	return at[1] - at[0], true, nil
}
