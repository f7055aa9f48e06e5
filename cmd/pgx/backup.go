package main

import (
	"context"
	"errors"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/backup"
)

func runBackup(ctx context.Context, a *app) (err error) {
	c := a.cfg
	if err := a.locks().Stopped(a.stanza()); err != nil {
		return err
	}
	n := c.Repo()
	l, err := a.locks().Acquire(ctx, a.stanza(), []lock.Type{lock.Backup}, []int{n})
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
	cfg := backup.Config{
		Repo: a.repo(st, n), Nodes: nodes,
		Log: a.log, Now: a.now,
		Progress: func(p progress.State) {
			a.bar.update("backup", p.FilesDone, p.Files, p.BytesDone, p.Bytes)
			// The lock file tells info. A full disk there is no reason to end a backup.
			_ = l.SetProgress(lock.Backup, n, p.BytesDone, p.Bytes)
		},
		Type: format.BackupType(c.String(config.OptType)), Online: c.Bool(config.OptOnline), Force: c.Bool(config.OptForce),
		StartFast: c.Bool(config.OptStartFast), DBTimeout: c.Duration(config.OptDBTimeout), ProcessMax: c.Int(config.OptProcessMax),
		Archiving: a.archiving(), ArchiveCopy: c.Bool(config.OptArchiveCopy), ArchiveTimeout: c.Duration(config.OptArchiveTimeout),
		PageHeaderCheck: c.Bool(config.OptPageHeaderCheck),
		Compress:        codec, CompressLevel: c.Int(config.OptCompressLevel),
		CompressLevelNetwork: c.Int(config.OptCompressLevelNetwork), BufferSize: c.Size(config.OptBufferSize),
		Delta: c.Bool(config.OptDelta), Exclude: c.List(config.OptExclude), Annotations: c.Hash(config.OptAnnotation),
		Resume: c.Bool(config.OptResume), SaveThreshold: c.Size(config.OptManifestSaveThreshold),
		AliveEvery: aliveEvery,
	}
	if c.IsSet(config.OptChecksumPage) {
		on := c.Bool(config.OptChecksumPage)
		cfg.ChecksumPage = &on
	}
	_, err = backup.Run(ctx, cfg)
	return err
}
