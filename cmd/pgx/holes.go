package main

import (
	"path/filepath"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/repo"
	infofile "github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/stanza"
	"github.com/pgx-backup/pgx/stanza/expire"
)

// dropped gives the WAL of the stanza that is known on this host to have been dropped. Next
// to an error is what could be read.
func (a *app) dropped() ([]repo.Drop, error) {
	drops, err := a.ledger().Drops()
	var all []repo.Drop
	for _, d := range drops {
		all = append(all, repo.Drop(d))
	}
	return all, err
}

// droppedOf is dropped for a stanza of a repository, whatever one the command was given.
func (a *app) droppedOf(name string) ([]repo.Drop, error) {
	one, err := a.forStanza(name)
	if err != nil {
		return nil, err
	}
	return one.dropped()
}

// thinned says where retention lets WAL of a cluster go, of the stanza with these backups in
// repository n.
func (a *app) thinned(n int, listed []infofile.BackupEntry, cluster int) repo.Thinned {
	return a.thinnedOf(a.stanza(), n, listed, cluster)
}

// thinnedOf is thinned for another stanza. It goes by the options that expire would have. Where
// these cannot be had, or are on another host, it is not known.
func (a *app) thinnedOf(name string, n int, listed []infofile.BackupEntry, cluster int) repo.Thinned {
	in := a.input
	in.Args = append(a.cfg.PassOn(config.CmdExpire, config.OptExecID, config.OptSet, config.OptStanza),
		"--"+config.OptStanza.String()+"="+name, config.CmdExpire.String())
	c, err := config.Load(in)
	if err != nil {
		return repo.Thinned{}
	}
	return expire.Thinned(retention(c, n), listed, cluster, a.now())
}

// waiting looks at what waits to be archived on this host.
func (a *app) waiting(n stanza.Node) (*stanza.Waiting, error) {
	if !a.cfg.PgIsLocal(n.Key) {
		return nil, nil
	}
	q, err := wal.Queue(a.spool(), filepath.Join(a.cfg.String(config.OptPgPath, n.Key), "pg_wal"))
	if err != nil {
		return nil, err
	}
	return &stanza.Waiting{Files: q.Waiting, Bytes: q.Bytes, Oldest: q.Oldest, Since: q.Since, LastError: q.LastError}, nil
}
