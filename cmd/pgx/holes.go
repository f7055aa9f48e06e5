package main

import (
	"path/filepath"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/stanza"
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
