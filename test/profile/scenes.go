//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// scene is work in which one or more data paths are profiled.
type scene struct {
	paths []string
	play  func(context.Context, *site) error
}

func scenes() (all []scene) {
	for _, codec := range []string{"none", "lz4", "zst", "gz"} {
		all = append(all, full(codec, false, "backup-"+codec, "restore-"+codec))
	}
	return append(all,
		full("lz4", true, "backup-ssh", "restore-ssh"),
		scene{[]string{"archive-push", "archive-get"}, archive},
		scene{[]string{"archive-push-async"}, archiveAsync},
		scene{[]string{"backup-incr"}, nothingChanged},
		scene{[]string{"info", "expire"}, catalogue},
	)
}

// short is how many times more often than a backup runs what is short.
const short = 10

// full makes full backups and restores them.
func full(codec string, far bool, backup, restore string) scene {
	return scene{[]string{backup, restore}, func(ctx context.Context, s *site) (err error) {
		p, err := s.newPlace(codec, far, s.data)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.discard()) }()
		if err := p.run(ctx, "", repoHost, "stanza-create"); err != nil {
			return err
		}
		for round := range s.rounds {
			if _, err := s.query(ctx, "checkpoint"); err != nil {
				return err
			}
			if err := p.run(ctx, backup, repoHost, "backup", "--type=full"); err != nil {
				return err
			}
			to := p.path(fmt.Sprint("restored-", round))
			if err := s.mkdir(to); err != nil {
				return err
			}
			if err := p.run(ctx, restore, pgHost, "restore", "--pg1-path="+to); err != nil {
				return err
			}
		}
		return nil
	}}
}

// archive pushes and fetches WAL between two hosts, one process for each segment.
func archive(ctx context.Context, s *site) error {
	for range s.rounds {
		if err := archiveOnce(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func archiveOnce(ctx context.Context, s *site) (err error) {
	p, err := s.newPlace("lz4", true, s.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	if err := p.run(ctx, "", repoHost, "stanza-create"); err != nil {
		return err
	}
	for _, segment := range s.wal {
		if err := p.run(ctx, "archive-push", pgHost, "archive-push", segment); err != nil {
			return err
		}
	}
	for _, segment := range s.wal {
		if err := p.run(ctx, "archive-get", pgHost, "archive-get", filepath.Base(segment), p.path("segment")); err != nil {
			return err
		}
	}
	return nil
}

// archiveAsync pushes WAL that waits, as PostgreSQL does, while a process in the background
// does the work.
func archiveAsync(ctx context.Context, s *site) error {
	for range s.rounds {
		if err := archiveAsyncOnce(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func archiveAsyncOnce(ctx context.Context, s *site) (err error) {
	data, err := s.waitingData()
	if err != nil {
		return err
	}
	p, err := s.newPlace("lz4", true, data, "archive-async=y", "archive-async-idle=2")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	if err := p.run(ctx, "", repoHost, "stanza-create", "--no-online"); err != nil {
		return err
	}
	const path = "archive-push-async"
	for _, segment := range s.wal {
		name := filepath.Base(segment)
		if err := p.start(ctx, path, pgHost, "archive-push", filepath.Join(data, "pg_wal", name)); err != nil {
			return err
		}
		status := filepath.Join(data, "pg_wal/archive_status", name)
		if err := os.Rename(status+".ready", status+".done"); err != nil {
			return err
		}
	}
	return s.settled(ctx, path)
}

// nothingChanged makes incremental backups of a cluster of many files. They stay in the cluster.
func nothingChanged(ctx context.Context, s *site) (err error) {
	p, err := s.newPlace("zst", false, s.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	if err := s.addFiles(ctx, s.files); err != nil {
		return err
	}
	for _, command := range [][]string{{"stanza-create"}, {"backup", "--type=full"}} {
		if err := p.run(ctx, "", repoHost, command...); err != nil {
			return err
		}
	}
	for range short * s.rounds {
		if err := p.run(ctx, "backup-incr", repoHost, "backup", "--type=incr"); err != nil {
			return err
		}
	}
	return nil
}

// catalogue reads a repository with years of backups and WAL.
func catalogue(ctx context.Context, s *site) (err error) {
	p, err := s.newPlace("none", false, s.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	const each = 10 // incremental after each differential, differential after each full
	history := expiretest.Large{Fulls: max(1, s.backups/(each*each)), Diffs: each - 1, Incrs: each - 1, Segments: 2}.Make(time.Now())
	for name, f := range history.Files {
		name = filepath.Join(p.path("repo"), filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.Content, 0o644); err != nil {
			return err
		}
	}
	for range short * s.rounds {
		if err := p.run(ctx, "info", repoHost, "info"); err != nil {
			return err
		}
		if err := p.run(ctx, "expire", repoHost, "expire", "--dry-run", "--repo1-retention-full=7"); err != nil {
			return err
		}
	}
	return nil
}
