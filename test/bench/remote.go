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
// one host, and archive-push of one segment in pairs.
func betweenHosts(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	root := filepath.Dir(common.dir)
	common.hosts, err = newHosts(ctx, common.m.account, filepath.Join(root, "hosts"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.hosts.stop()) }()
	common.m.services = common.hosts.group
	if err := rounds(ctx, common, tools, common.far, report); err != nil {
		return err
	}
	for _, common.codec = range common.far {
		fmt.Fprintf(os.Stderr, "%d segments, %s%s\n", len(common.wal), common.codec, common.between())
		if err := pushes(ctx, common, tools, report); err != nil {
			return fmt.Errorf("archive-push, compress type %s%s: %w", common.codec, common.between(), err)
		}
	}
	return nil
}

// pushes has each program push the same segments, one directly after the other, pgx also to
// a resident server. Who begins changes with each segment.
func pushes(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
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
	for _, segment := range common.wal {
		for _, e := range all {
			s, err := e.measure(ctx, pgHost, archivePush, segment)
			if err != nil {
				return err
			}
			for _, operation := range e.operations {
				report.add(operation, e.codec, e.name, s)
			}
		}
		slices.Reverse(all)
	}
	for _, e := range all {
		for _, segment := range []string{common.wal[0], common.wal[len(common.wal)-1]} {
			if _, err := e.getOne(ctx, segment); err != nil {
				return err
			}
		}
	}
	return nil
}
