package stanza

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Check tests a stanza end to end.
type Check struct {
	Nodes     []Node
	Standby   bool // backups want one [backup-standby]
	Repos     []repo.Place
	Away      bool // all repositories are on other hosts
	Archiving Archiving
	Timeout   time.Duration // for a segment to reach a repository

	// Dropped is what is known on this host to have been dropped instead of archived.
	Dropped []repo.Drop
	// Thinned, if not nil, says where retention lets WAL of a cluster go, of the stanza with these
	// backups in a repository.
	Thinned func(repoKey int, listed []info.BackupEntry, cluster int) repo.Thinned
	// Waiting, if not nil, looks at what waits to be archived: nil for a node on another host.
	Waiting func(Node) (*Waiting, error)

	Now func() time.Time
	Log *slog.Logger

	opened map[int]*repo.Repo // of Repos, by key
}

// Run checks configuration, repositories and, on a primary, that a segment of WAL reaches
// every repository. WAL that waits for long, or is missing, is a warning.
func (c *Check) Run(ctx context.Context) error {
	c.opened = map[int]*repo.Repo{}
	primary, standby, err := Connect(ctx, c.Nodes, false, c.Log)
	if err != nil {
		return err
	}
	defer CloseAll(ctx, primary, standby)
	if primary == nil && standby == nil {
		return errs.WithHint(errs.New(errs.Config, "no database found"), "check indexed pg-path/pg-host configurations")
	}
	if standby != nil {
		// A repository host knows the primary too, the host of a standby only itself.
		if primary == nil && (len(c.Nodes) > 1 || !c.Away) {
			return errs.WithHint(errs.New(errs.Config, "primary database not found"), "check indexed pg-path/pg-host configurations")
		}
		if err := c.standby(ctx, standby); err != nil {
			return err
		}
	} else if c.Standby {
		c.Log.Warn("option 'backup-standby' is enabled but standby is not properly configured")
	}
	if primary == nil {
		return c.holes(ctx)
	}
	return c.primary(ctx, primary)
}

func (c *Check) standby(ctx context.Context, l *Live) error {
	if err := l.Agree(Archiving{}); err != nil {
		return err
	}
	c.waiting(l.Node)
	for _, p := range c.Repos {
		c.Log.Info(fmt.Sprintf("check %s (standby)", p.Name()))
		if err := c.info(ctx, p, l); err != nil {
			return err
		}
	}
	c.Log.Info("switch wal not performed because this is a standby")
	return nil
}

// info opens a repository and checks its info files.
func (c *Check) info(ctx context.Context, p repo.Place, l *Live) error {
	r := c.opened[p.Key]
	if r == nil {
		var err error
		if r, err = p.Open(ctx); err != nil {
			return c.name(p, err)
		}
		c.opened[p.Key] = r
	}
	return c.name(p, CheckInfo(ctx, r, l.Control))
}

// name says which of several repositories an error is about.
func (c *Check) name(p repo.Place, err error) error {
	if len(c.Repos) == 1 {
		return err
	}
	return errs.Wrap(err, "%s", p.Name())
}

func (c *Check) primary(ctx context.Context, l *Live) error {
	if err := l.Agree(c.Archiving); err != nil {
		return err
	}
	// It is told first: what waits, and why, is asked for most when a repository is in trouble.
	c.waiting(l.Node)
	for _, p := range c.Repos {
		c.Log.Info(fmt.Sprintf("check %s configuration (primary)", p.Name()))
		if err := c.info(ctx, p, l); err != nil {
			return err
		}
	}
	if err := c.holes(ctx); err != nil {
		return err
	}
	segment, err := l.SwitchWAL(ctx)
	if err != nil {
		return err
	}
	for _, p := range c.Repos {
		r := c.opened[p.Key]
		c.Log.Info(fmt.Sprintf("check %s archive for WAL (primary)", r.Name()))
		f, err := r.AwaitWAL(ctx, segment, c.Timeout)
		if err != nil {
			return err
		}
		c.Log.Info(fmt.Sprintf("WAL segment %s successfully archived to '%s' on %s", segment, r.Storage().Path(f.Object), r.Name()))
	}
	return nil
}
