package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
)

// archiverPause is how long a resident agent waits before it looks again at a stanza whose WAL
// cannot be archived now: because of a stop file, or since there is no cluster yet.
const archiverPause = 5 * time.Second

// always is an idle time that does not end.
const always = 100 * 365 * 24 * time.Hour

// archiveAll archives the WAL of every cluster on this host until ctx ends: a resident
// agent is the worker that archive-push would else start, and stays. current gives the
// configuration, which may come to have more stanzas.
func archiveAll(ctx context.Context, current func() *app) {
	var working sync.WaitGroup
	defer working.Wait()
	begun := map[string]bool{}
	for ctx.Err() == nil {
		for _, name := range current().cfg.Stanzas() {
			if !begun[name] {
				begun[name] = true
				working.Go(func() { archiveAlways(ctx, current, name) })
			}
		}
		pause(ctx)
	}
}

// pause lasts until archiverPause is over or ctx has ended.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(archiverPause):
	}
}

// archiveAlways archives the WAL of one stanza until ctx ends.
func archiveAlways(ctx context.Context, current func() *app, name string) {
	told := ""
	for ctx.Err() == nil {
		a := current()
		err := a.archiveStanza(ctx, name)
		if err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error() // once, not every few seconds
			a.log.Warn(fmt.Sprintf("WAL of stanza '%s' is not archived by this agent: [%03d] %s", name, errs.CodeOf(err), err))
		}
		pause(ctx)
	}
}

// archiveStanza is archive-push:async in this process, for as long as that would stay. What
// has changed in the configuration is seen by the next one.
func (a *app) archiveStanza(ctx context.Context, name string) error {
	in := a.input
	in.Args = append(a.cfg.PassOn(config.CmdArchivePush, config.OptExecID), "--"+config.OptStanza.String()+"="+name,
		config.CmdArchivePush.String()+asyncSuffix)
	cfg, err := config.Load(in)
	if err != nil {
		return err
	}
	if !cfg.PgIsLocal(cfg.Pg()) || cfg.String(config.OptPgPath) == "" {
		<-ctx.Done() // none of ours
		return nil
	}
	walDir := filepath.Join(cfg.String(config.OptPgPath), "pg_wal")
	if _, err := os.Stat(walDir); err != nil {
		return nil // no cluster yet
	}
	one := *a
	one.cfg, one.peers = cfg, new(peers)
	one.cfg.Params = []string{walDir}
	defer func() { _ = one.peers.close() }() // nothing is asked of them any more
	if err := one.locks().Stopped(name); err != nil {
		return err
	}
	return one.pushWorker(ctx, always)
}
