package main

import (
	"context"
	"errors"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// summaryPatience is how long a WAL summarizer may stand still, as PostgreSQL's own incremental backup
// has it.
const summaryPatience = time.Minute

func runBackup(ctx context.Context, a *app) (err error) {
	c := a.cfg
	if err := a.locks().Stopped(a.stanza()); err != nil {
		return err
	}
	n := c.Repo()
	// Of all repositories, since expire goes on in all: what else works on one, on this host, is
	// found now, and not when the backup has been made.
	l, err := a.locks().Acquire(ctx, a.stanza(), []lock.Type{lock.Backup}, c.Repos())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if !c.IsSet(config.OptRepo) {
		if len(c.Repos()) > 1 {
			a.log.Info("repo option not specified, defaulting to repo" + itoa(n))
		}
	}
	st, err := a.storage(ctx, n, remote.RoleAdmin, posix.Refuse, lock.Backup)
	if err != nil {
		return err
	}
	nodes, err := a.nodes(lock.Backup)
	if err != nil {
		return err
	}
	codec, err := compress.ParseType(c.String(config.OptCompressType))
	if err != nil {
		return err
	}
	told := a.toLock(l, lock.Backup, n)
	cfg := backup.Config{
		Repo: a.repo(st, n), Nodes: nodes, Standby: backup.Standby(c.String(config.OptBackupStandby)),
		Log: a.log, Now: a.now,
		Progress: func(p progress.State) {
			a.bar.update("backup", p.FilesDone, p.Files, p.BytesDone, p.Bytes)
			told(p)
		},
		Type: format.BackupType(c.String(config.OptType)), Online: c.Bool(config.OptOnline), Force: c.Bool(config.OptForce),
		StartFast: c.Bool(config.OptStartFast), DBTimeout: c.Duration(config.OptDBTimeout), ProcessMax: c.Int(config.OptProcessMax),
		Archiving: a.archiving(), ArchiveCopy: c.Bool(config.OptArchiveCopy), ArchiveTimeout: c.Duration(config.OptArchiveTimeout),
		PageHeaderCheck: c.Bool(config.OptPageHeaderCheck),
		Compress:        codec, CompressLevel: c.Int(config.OptCompressLevel),
		CompressLevelNetwork: c.Int(config.OptCompressLevelNetwork), BufferSize: c.Size(config.OptBufferSize),
		Delta: c.Bool(config.OptDelta), Hardlink: c.Bool(config.OptRepoHardlink), Exclude: c.List(config.OptExclude), Annotations: c.Hash(config.OptAnnotation),
		Bundle: c.Bool(config.OptRepoBundle),
		Resume: c.Bool(config.OptResume), SaveThreshold: c.Size(config.OptManifestSaveThreshold),
		Summary: c.Bool(config.OptBackupSummary), SummaryPatience: summaryPatience,
		AliveEvery: aliveEvery, Blocks: blocks(c),
	}
	if c.IsSet(config.OptChecksumPage) {
		on := c.Bool(config.OptChecksumPage)
		cfg.ChecksumPage = &on
	}
	if cfg.Bundle {
		cfg.BundleLimit, cfg.BundleSize = c.Size(config.OptRepoBundleLimit), c.Size(config.OptRepoBundleSize)
	}
	if _, err = backup.Run(ctx, cfg); err != nil {
		return err
	}
	return expireAfterBackup(ctx, a, l)
}

// blocks gives how files are stored in blocks, nil if they are not.
func blocks(c *config.Config) *backup.Blocks {
	if !c.Bool(config.OptRepoBlock) {
		return nil
	}
	b := backup.DefaultBlocks()
	b.Super, b.SuperFull = c.Size(config.OptRepoBlockSizeSuper), c.Size(config.OptRepoBlockSizeSuperFull)
	for o, list := range map[config.Option]*[]backup.Step{
		config.OptRepoBlockSizeMap: &b.BySize, config.OptRepoBlockAgeMap: &b.ByAge, config.OptRepoBlockChecksumSizeMap: &b.Sums,
	} {
		if !c.IsSet(o) {
			continue
		}
		*list = nil
		for _, s := range c.Steps(o) {
			if o == config.OptRepoBlockAgeMap {
				s.From *= 24 * 60 * 60 // days
			}
			*list = append(*list, backup.Step(s))
		}
	}
	return &b
}
