package main

import (
	"context"
	"errors"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/expire"
)

// runExpire expires in all repositories of the command, whose locks it takes first.
func runExpire(ctx context.Context, a *app) (err error) {
	c := a.cfg
	if err := a.locks().Stopped(a.stanza()); err != nil {
		return err
	}
	l, err := a.locks().Acquire(ctx, a.stanza(), []lock.Type{lock.Backup}, c.Repos())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	cfg := expire.Config{
		Set: c.String(config.OptSet), Oldest: c.Bool(config.OptOldest), ArchiveBefore: c.String(config.OptArchiveExpireBefore),
		DryRun: c.Bool(config.OptDryRun), Log: a.log, Now: a.now,
		Progress: func(done, all int) { a.bar.steps("expire", done, all) },
	}
	for _, n := range c.Repos() {
		r := expire.Repository{
			Key: n,
			Open: func(ctx context.Context) (*repo.Repo, error) {
				st, err := a.storage(ctx, n, remote.RoleAdmin, posix.Refuse, lock.Backup)
				if err != nil {
					return nil, err
				}
				return a.repo(st, n), nil
			},
			Keep: retention(c, n),
		}
		cfg.Repos = append(cfg.Repos, r)
	}
	return expire.Run(ctx, cfg)
}

// retention gives what repository n keeps. c is of a command that takes these options.
func retention(c *config.Config, n int) expire.Retention {
	keep := expire.Retention{
		Full: c.Int(config.OptRepoRetentionFull, n), FullByTime: c.String(config.OptRepoRetentionFullType, n) == "time",
		Diff:        c.Int(config.OptRepoRetentionDiff, n),
		Archive:     c.Int(config.OptRepoRetentionArchive, n),
		ArchiveType: format.BackupType(c.String(config.OptRepoRetentionArchiveType, n)),
	}
	if c.IsSet(config.OptRepoRetentionHistory, n) {
		days := c.Int(config.OptRepoRetentionHistory, n)
		keep.History = &days
	}
	return keep
}

// expireAfterBackup goes over from a backup that has succeeded to expire, which in the log is a
// command of its own. l are the locks of the backup, which are those of expire too.
func expireAfterBackup(ctx context.Context, a *app, l *lock.Lock) error {
	if !a.cfg.Bool(config.OptExpireAuto) {
		return nil
	}
	// A full disk there is no reason to let old backups be.
	_ = l.ClearProgress(lock.Backup, a.cfg.Repo())
	a.follow(ctx, config.CmdExpire)
	return runExpire(ctx, a)
}
