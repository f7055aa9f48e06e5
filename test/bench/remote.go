//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// betweenHosts measures what goes between two hosts: backups and restores in rounds as on
// one host, and archive-push and archive-get of one segment in pairs.
func betweenHosts(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	root := filepath.Dir(common.dir)
	common.hosts, err = newHosts(ctx, common.m.account, filepath.Join(root, "hosts"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.hosts.stop()) }()
	common.m.services = common.hosts.group
	steps := []step{{remoteBackup, contest.full}, {remoteRestore, contest.restore}, {remoteIncr, contest.incr}, {remoteDelta, contest.mendDamage}}
	if common.targets {
		steps = steps[:2]
	}
	err = common.inRounds(ctx, "between hosts", func(r round) error {
		for _, codec := range common.far {
			c := common
			c.codec = codec
			if err := r.compete(ctx, c, tools, report, steps...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || common.targets {
		return err
	}
	for _, common.codec = range common.far {
		fmt.Fprintf(os.Stderr, "%d segments, %s, between hosts\n", len(common.wal), common.codec)
		if err := segments(ctx, common, tools, report); err != nil {
			return fmt.Errorf("archive between hosts, compress type %s: %w", common.codec, err)
		}
	}
	return nil
}

// segments has each program push the same segments, one directly after the other, pgx also to
// a resident server, and then fetch them. Who begins changes with each segment. With the last,
// for which no directory has to be made, syncs are counted.
func segments(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	type entrant struct {
		contest
		operations []string // that its samples are of
	}
	var all []entrant
	for _, t := range tools {
		c := common
		c.tool, c.dir = t, common.dir+"-"+t.name
		e := entrant{c, []string{remotePush}}
		if t.name == peerName {
			e.operations = append(e.operations, residentPush)
		} else {
			c.dir += "-server"
			c.resident = true
			all = append(all, entrant{c, []string{residentPush}})
		}
		all = append(all, e)
	}
	for _, e := range all {
		defer func() { err = errors.Join(err, e.discard()) }()
		if err := e.prepare(ctx); err != nil {
			return err
		}
		if e.resident {
			server, started := e.hosts.startServer(ctx, e.tool.path, e.path(repoHost), e.path("server.log"))
			if started != nil {
				return started
			}
			defer func() { err = errors.Join(err, e.hosts.group.stop(server)) }()
		}
	}
	for i, segment := range common.wal {
		for _, e := range all {
			e.m.turn = round{number: (i + 1) % len(common.wal), of: len(common.wal) - 1}
			s, err := e.measure(ctx, pgHost, archivePush, segment)
			if err != nil {
				return err
			}
			for _, operation := range e.operations {
				report.add(operation, e.contest, s)
			}
		}
		slices.Reverse(all)
	}
	for i, segment := range common.wal {
		for _, e := range all {
			e.m.turn = round{number: (i + 1) % len(common.wal), of: len(common.wal) - 1}
			s, err := e.getOne(ctx, segment)
			if err != nil {
				return err
			}
			if !e.resident {
				report.add(remoteGet, e.contest, s)
			}
		}
		slices.Reverse(all)
	}
	return nil
}
