package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/stanza/restore"
)

// aliveEvery is how often a backup looks whether PostgreSQL still knows of it.
const aliveEvery = 30 * time.Second

// restoreTarget is the data directory to restore into, here or on another host.
func (a *app) restoreTarget(ctx context.Context) (agent.Target, error) {
	n := a.cfg.Pg()
	if a.cfg.PgIsLocal(n) {
		return a.target(a.pgPath()), nil
	}
	pool, err := a.sessions(pgSide, n, agent.RoleRestoreTarget, 1, agentArgs{
		Path: a.pgPath(), Locks: []lock.Type{lock.Restore}, Repos: a.cfg.Repos(),
	})
	if err != nil {
		return nil, err
	}
	s, err := pool.Take(ctx)
	if err != nil {
		return nil, err
	}
	return agent.NewTargetClient(s), nil
}

// target is the data directory at path of this host.
func (a *app) target(path string) *pgdata.Target {
	return pgdata.NewTarget(pgdata.TargetConfig{
		Path: path, Spool: a.spool().Path, Log: a.log,
	})
}

func itoa(n int) string { return strconv.Itoa(n) }

func runRestore(ctx context.Context, a *app) (err error) {
	c := a.cfg
	l, err := a.locks().Acquire(ctx, a.stanza(), []lock.Type{lock.Restore}, c.Repos())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	target, err := a.restoreTarget(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	kind := restore.Type(c.String(config.OptType))
	if !c.IsGiven(config.OptType) {
		kind = ""
	}
	command := c.RestoreCommand()
	if kind != restore.Standby {
		command = strictVariable + "=y " + command
	}
	told := a.toLock(l, lock.Restore, c.Repo())
	cfg := restore.Config{
		Repos: a.places(), Target: target, PGPath: a.pgPath(), Log: a.log, Now: a.now,
		Progress: func(p progress.State) {
			a.bar.update("restore", p.FilesDone, p.Files, p.BytesDone, p.Bytes)
			told(p)
		},
		ProcessMax: c.Int(config.OptProcessMax), DryRun: c.Bool(config.OptDryRun),
		Delta: c.Bool(config.OptDelta), Force: c.Bool(config.OptForce),
		Type: kind, TargetValue: c.String(config.OptTarget), TargetExclusive: c.Bool(config.OptTargetExclusive),
		TargetAction: c.String(config.OptTargetAction), TargetTimeline: c.String(config.OptTargetTimeline),
		RestoreCommand: command, RecoveryOptions: c.Hash(config.OptRecoveryOption),
		ArchiveModeOff: c.String(config.OptArchiveMode) == "off",
		TablespaceMap:  c.Hash(config.OptTablespaceMap), TablespaceMapAll: c.String(config.OptTablespaceMapAll),
		LinkMap: c.Hash(config.OptLinkMap), LinkAll: c.Bool(config.OptLinkAll),
		DBInclude: c.List(config.OptDBInclude), DBExclude: c.List(config.OptDBExclude),
	}
	if c.IsGiven(config.OptSet) {
		cfg.Set = c.String(config.OptSet)
	}
	_, err = restore.Run(ctx, cfg)
	return err
}
