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
	"time"

	"golang.org/x/sys/unix"
)

const (
	switchEvery = 200 * time.Millisecond // a new segment
	lookEvery   = 100 * time.Millisecond // how many segments wait
)

// steady measures the archive_command of a server that has work to do.
func (s *source) steady(ctx context.Context, c contest, found *findings) (err error) {
	defer func() { err = errors.Join(err, c.discard()) }()
	c.server = s.server
	if err := c.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.settle(context.WithoutCancel(ctx))) }()
	if err := s.archiveNowhere(ctx); err != nil {
		return err
	}
	if _, err := s.query(ctx, "checkpoint"); err != nil {
		return err
	}
	unix.Sync()
	log := c.path("times")
	if err := s.setArchiveCommand(ctx, c.m.shellCommand(log, c.tool.path, c.args(pgHost, archivePush, "%p")...)); err != nil {
		return err
	}
	curve, tps, err := s.load(ctx, c.async.steady, c.path("switch.sql"))
	if err := errors.Join(err, s.archiveNowhere(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	times, err := readTimes(log)
	if err != nil {
		return err
	}
	var took []float64
	var inside float64
	for _, t := range times {
		if t.code != 0 {
			said, _ := os.ReadFile(filepath.Join(s.socketDir, "server.log"))
			return fmt.Errorf("archive_command ended with %d:\n%s", t.code, said[max(0, len(said)-4000):])
		}
		took = append(took, 1000*t.seconds)
		inside += 1000 * t.seconds
	}
	if len(took) == 0 {
		return errors.New("archive_command was not run")
	}
	for _, q := range []struct {
		what string
		part float64
	}{{"1st quartile", 0.25}, {"median", 0.5}, {"3rd quartile", 0.75}, {"95 %", 0.95}, {"maximum", 1}} {
		found.add("steady, archive_command, "+q.what, "ms", c.name, quantile(took, q.part))
	}
	found.add("steady, archive_command, mean", "ms", c.name, inside/float64(len(took)))
	// Of all segments, those too that still wait in the end. It shows what a median hides: that many
	// calls are quick because one before them took the time of all.
	all := len(took) + curve[len(curve)-1].Waiting
	found.add("steady, a segment waits", "ms", c.name, 1000*curve.area()/float64(all))
	found.add("steady, archived", "segments", c.name, float64(len(took)))
	found.add("steady, most waiting", "segments", c.name, float64(curve.most()))
	found.add("steady, pgbench", "transactions/s", c.name, tps)
	found.addCurve(steadyCurve, c.name, curve)
	return nil
}

// archiveNowhere waits until nothing is left to archive.
func (s *source) archiveNowhere(ctx context.Context) error {
	if err := s.setArchiveCommand(ctx, "/bin/true pgbackrest"); err != nil {
		return err
	}
	limit, tick := time.After(2*time.Minute), time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		waiting, err := waitingFor(filepath.Join(s.data, "pg_wal"))
		if err != nil || len(waiting) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("%d segments are still waiting, from '%s' on", len(waiting), waiting[0])
		}
	}
}

func (s *source) setArchiveCommand(ctx context.Context, command string) error {
	_, err := s.query(ctx, "alter system set archive_command = '"+strings.ReplaceAll(command, "'", "''")+"'; select pg_reload_conf();")
	return err
}

// load has pgbench work for a time, and segments switched, and looks how many wait. It gives
// pgbench's transactions per second, too.
func (s *source) load(ctx context.Context, d time.Duration, script string) (curve curve, tps float64, err error) {
	sql := fmt.Sprintf("select pg_switch_wal();\n\\sleep %d ms\n", switchEvery.Milliseconds())
	if err := s.writeFile(script, []byte(sql)); err != nil {
		return nil, 0, err
	}
	seconds := strconv.Itoa(int(d.Seconds()))
	ctx, cancel := context.WithCancel(ctx) // if one fails the other ends
	defer cancel()
	type result struct {
		out string
		err error
	}
	run := func(cmd *exec.Cmd) <-chan result {
		done := make(chan result, 1)
		go func() {
			out, err := output(cmd)
			if err != nil {
				cancel()
			}
			done <- result{out, err}
		}()
		return done
	}
	begin := time.Now()
	switches := run(s.pgbenchCommand(ctx, "-n", "-c", "1", "-T", seconds, "-f", script))
	work := run(s.pgbenchCommand(ctx, "-n", "-c", "2", "-T", seconds, "-M", "prepared"))
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		waiting, err := waitingFor(filepath.Join(s.data, "pg_wal"))
		if err != nil {
			cancel()
			return nil, 0, errors.Join(err, (<-switches).err, (<-work).err)
		}
		curve.add(time.Since(begin), len(waiting))
		select {
		case <-tick.C:
		case worked := <-work:
			if err := errors.Join(worked.err, (<-switches).err); err != nil {
				return nil, 0, err
			}
			tps, err := transactions(worked.out)
			return curve, tps, err
		}
	}
}

func (s *server) pgbenchCommand(ctx context.Context, args ...string) *exec.Cmd {
	connect := []string{"-h", s.socketDir, "-p", strconv.Itoa(s.port), "-U", "postgres"}
	return s.command(ctx, filepath.Join(s.binDir, "pgbench"), append(append(connect, args...), "postgres")...)
}

// transactions reads what pgbench prints.
func transactions(out string) (float64, error) {
	for line := range strings.Lines(out) {
		if value, ok := strings.CutPrefix(line, "tps = "); ok {
			return strconv.ParseFloat(strings.Fields(value)[0], 64)
		}
	}
	return 0, fmt.Errorf("pgbench does not tell transactions per second:\n%s", out)
}
