// Package stanza is a cluster's identity across its repositories: making the stanza,
// and checking that server, data directory, configuration and repositories speak of
// the same cluster. What is done to a stanza, such as a backup, is in the packages
// below.
package stanza

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"strings"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
)

// A Node is one pgN of the configuration.
type Node struct {
	Host agent.Host
	Key  int    // the N
	Path string // pgN-path
	Name string // pgN-host; "" for this machine
}

// Archiving says what Cluster and Check ask of a primary's archiving.
type Archiving struct {
	Check     bool // archive-check: archiving must be on and lead to us
	ModeCheck bool // archive-mode-check: archive_mode=always is refused
}

// Live is a running node, with a connection to it.
type Live struct {
	Node
	agent.Session
	Facts   pgsql.Facts
	Control postgres.Control
}

// Connect connects to every node and gives the primary and, if there is one, a
// standby. A node that cannot be reached is a warning; no primary is DbConnect when one is
// required. The caller closes both sessions, which may be nil.
func Connect(ctx context.Context, nodes []Node, primaryRequired bool, log *slog.Logger) (primary, standby *Live, err error) {
	defer func() {
		if err != nil {
			CloseAll(ctx, primary, standby)
			primary, standby = nil, nil
		}
	}()
	var why []string
	for _, n := range nodes {
		l, err := connect(ctx, n)
		if err != nil {
			if ctx.Err() != nil {
				return primary, standby, ctx.Err()
			}
			log.Warn(fmt.Sprintf("unable to check pg%d: [%s] %s", n.Key, errs.CodeOf(err), err))
			why = append(why, fmt.Sprintf("pg%d: %s", n.Key, errs.Message(err)))
			continue
		}
		switch {
		case !l.Facts.InRecovery && primary != nil:
			CloseAll(ctx, l)
			return primary, standby, errs.New(errs.DbConnect, "more than one primary cluster found")
		case !l.Facts.InRecovery:
			primary = l
		case standby == nil:
			standby = l
		default:
			CloseAll(ctx, l)
		}
	}
	if primary == nil && primaryRequired {
		err := errs.New(errs.DbConnect, "unable to find primary cluster - cannot proceed")
		if len(why) == 0 {
			return primary, standby, errs.WithHint(err, "are all available clusters in recovery?")
		}
		return primary, standby, errs.WithHint(errs.WithHint(err, "are all available clusters in recovery?"),
			"%s", strings.Join(why, "; "))
	}
	return primary, standby, nil
}

func connect(ctx context.Context, n Node) (*Live, error) {
	s, err := n.Host.Connect(ctx)
	if err != nil {
		return nil, err
	}
	l := &Live{Node: n, Session: s}
	if l.Facts, err = s.Facts(ctx); err == nil {
		l.Control, err = n.Host.Control(ctx)
	}
	if err != nil {
		CloseAll(ctx, l)
		return nil, err
	}
	return l, nil
}

// CloseAll closes what is not nil of Connect's results. An error of a connection that
// nothing is asked of any more is no news.
func CloseAll(ctx context.Context, all ...*Live) {
	for _, l := range all {
		if l != nil {
			_ = l.Session.Close(ctx)
		}
	}
}

// Agree says whether server, data directory and configuration are of one cluster, and
// for a primary whether it archives to us as far as a asks.
func (l *Live) Agree(a Archiving) error {
	if l.Control.Version != l.Facts.Version || path.Clean(l.Path) != path.Clean(l.Facts.DataDirectory) {
		err := errs.New(errs.DbMismatch,
			"version '%s' and path '%s' queried from cluster do not match version '%s' and '%s' read from '%s/global/pg_control'",
			l.Facts.Version, l.Facts.DataDirectory, l.Control.Version, l.Path, l.Path)
		return errs.WithHint(err, "the pg%d-path and pg%d-port settings likely reference different clusters.", l.Key, l.Key)
	}
	if l.Control.SystemID != l.Facts.SystemID {
		err := errs.New(errs.DbMismatch, "system-id %d queried from cluster does not match %d read from '%s/global/pg_control'",
			l.Facts.SystemID, l.Control.SystemID, l.Path)
		return errs.WithHint(err, "the pg%d-path and pg%d-port settings likely reference different clusters.", l.Key, l.Key)
	}
	if l.Facts.InRecovery || !a.Check {
		return nil
	}
	if l.Facts.ArchiveMode == "off" {
		return errs.WithHint(errs.New(errs.ArchiveDisabled, "archive_mode must be enabled"),
			"set archive_mode = on and archive_command = 'pgx archive-push %%p' in postgresql.conf and restart PostgreSQL")
	}
	if a.ModeCheck && l.Facts.ArchiveMode == "always" {
		return errs.New(errs.FeatureNotSupported, "archive_mode=always not supported")
	}
	return archiveCommand(l.Facts)
}

// archiveCommand wants a command that leads to pgx, under either of its names.
func archiveCommand(f pgsql.Facts) error {
	if strings.Contains(f.ArchiveCommand, "pgbackrest") || strings.Contains(f.ArchiveCommand, "pgx") {
		return nil
	}
	command := f.ArchiveCommand
	if command == "" {
		command = "[null]"
	}
	err := errs.New(errs.ArchiveCommandInvalid, "archive_command '%s' must contain pgx or pgbackrest", command)
	if f.ArchiveLibrary != "" {
		return errs.WithHint(err, "archive_library is '%s': as long as it is set PostgreSQL does not use archive_command", f.ArchiveLibrary)
	}
	return errs.WithHint(err, "set archive_command = 'pgx archive-push %%p' in postgresql.conf and reload PostgreSQL")
}

// CheckInfo says whether the info files of a repository match each other and the
// cluster that pg_control describes.
func CheckInfo(ctx context.Context, r *repo.Repo, c postgres.Control) error {
	a, err := r.ArchiveInfo(ctx)
	if err != nil {
		return err
	}
	b, err := r.BackupInfo(ctx)
	if err != nil {
		return err
	}
	ac, bc := a.Current(), b.Current()
	if ac.ID != bc.ID || ac.SystemID != bc.SystemID || ac.Version != bc.Version {
		err := errs.New(errs.FileInvalid, "backup info file and archive info file do not match\n"+
			"archive: id = %d, version = %s, system-id = %d\nbackup : id = %d, version = %s, system-id = %d",
			ac.ID, ac.Version, ac.SystemID, bc.ID, bc.Version, bc.SystemID)
		return errs.WithHint(err, "this may be a symptom of repository corruption!")
	}
	if ac.Version != c.Version.String() || ac.SystemID != c.SystemID {
		err := errs.New(errs.FileInvalid, "backup and archive info files exist but do not match the database")
		return errs.WithHint(errs.WithHint(err, "is this the correct stanza?"), "did an error occur during stanza-upgrade?")
	}
	return nil
}
