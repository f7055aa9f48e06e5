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

// mixture measures the parts that are about one cluster in which there is everything.
func mixture(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB\n", common.major, common.megabytes)
	if common.server, err = common.newServer(ctx, "mixture"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.fill(ctx, mixed, common.megabytes); err != nil {
		return err
	}
	n := max(common.segments, common.pairs+1)
	if common.targets {
		n = 1 // WAL is not measured
	}
	if err := common.server.change(ctx, int64(n)*segmentSize); err != nil {
		return err
	}
	if err := common.server.settle(ctx); err != nil {
		return err
	}
	wal, err := common.server.keepSegments(ctx, n, filepath.Join(filepath.Dir(common.dir), "wal"))
	if err != nil {
		return err
	}
	if slices.Contains(common.parts, local) {
		common.wal = wal[max(0, len(wal)-common.segments):]
		if err := oneHost(ctx, common, tools, report); err != nil {
			return err
		}
	}
	if slices.Contains(common.parts, remote) {
		common.wal = wal[max(0, len(wal)-common.pairs-1):]
		return betweenHosts(ctx, common, tools, report)
	}
	return nil
}

// oneHost measures what goes into a repository that is where the server is, and out of it.
func oneHost(ctx context.Context, common contest, tools []*tool, report *report) error {
	// restore and archive-get need what is stored before.
	steps := []step{{archivePush, contest.push}, {backup, contest.full}, {restore, contest.restore},
		{restoreTheirs, contest.restoreTheirs}, {archiveGet, contest.get}}
	if common.targets {
		steps = steps[1:4]
	}
	base := &tool{name: baseName, path: filepath.Join(common.server.binDir, baseName)}
	return common.inRounds(ctx, local, func(r round) error {
		for _, codec := range common.codecs {
			c := common
			c.codec = codec
			if err := r.compete(ctx, c, tools, report, steps...); err != nil {
				return err
			}
			if common.targets {
				continue
			}
			c.tool, c.dir = base, c.dir+"-"+base.name
			if err := r.take(ctx, []contest{c}, report, step{backup, contest.baseBackup}); err != nil {
				return err
			}
		}
		return nil
	})
}

// everyPart measures backups and restores of clusters in which there is one kind of data each.
func everyPart(ctx context.Context, common contest, tools []*tool, report *report) error {
	for _, common.corpus = range common.alone {
		if err := onePart(ctx, common, tools, report); err != nil {
			return err
		}
	}
	return nil
}

func onePart(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB, %s\n", common.major, common.partSize, common.corpus)
	if common.server, err = common.newServer(ctx, "corpus-"+common.corpus); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.fill(ctx, parts[common.corpus], common.partSize); err != nil {
		return err
	}
	steps := []step{{backup, contest.full}, {restore, contest.restore}}
	if common.targets {
		steps = steps[:1]
	}
	return common.inRounds(ctx, common.corpus, func(r round) error {
		for _, codec := range common.aloneIn {
			c := common
			c.codec = codec
			if err := r.compete(ctx, c, tools, report, steps...); err != nil {
				return err
			}
		}
		return nil
	})
}
