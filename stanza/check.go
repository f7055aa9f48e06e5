package stanza

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
)

// Check tests a stanza end to end.
type Check struct {
	Nodes     []Node
	Repos     []*repo.Repo
	Away      bool // all repositories are on other hosts
	Archiving Archiving
	Timeout   time.Duration // for a segment to reach a repository

	// Dropped is what is known on this host to have been dropped instead of archived.
	Dropped []repo.Drop
	// Waiting, if not nil, looks at what waits to be archived: nil for a node on another host.
	Waiting func(Node) (*Waiting, error)

	Now func() time.Time
	Log *slog.Logger
}

// Run checks configuration, repositories and, on a primary, that a segment of WAL reaches
// every repository. WAL that waits for long, or is missing, is a warning.
func (c *Check) Run(ctx context.Context) error {
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
	for _, r := range c.Repos {
		c.Log.Info(fmt.Sprintf("check %s (standby)", r.Name()))
		if err := CheckInfo(ctx, r, l.Control); err != nil {
			return err
		}
	}
	c.waiting(l.Node)
	c.Log.Info("switch wal not performed because this is a standby")
	return nil
}

func (c *Check) primary(ctx context.Context, l *Live) error {
	if err := l.Agree(c.Archiving); err != nil {
		return err
	}
	for _, r := range c.Repos {
		c.Log.Info(fmt.Sprintf("check %s configuration (primary)", r.Name()))
		if err := CheckInfo(ctx, r, l.Control); err != nil {
			return err
		}
	}
	// What is told here may be why the segment does not arrive.
	c.waiting(l.Node)
	if err := c.holes(ctx); err != nil {
		return err
	}
	segment, err := l.SwitchWAL(ctx)
	if err != nil {
		return err
	}
	for _, r := range c.Repos {
		c.Log.Info(fmt.Sprintf("check %s archive for WAL (primary)", r.Name()))
		f, err := r.AwaitWAL(ctx, segment, c.Timeout)
		if err != nil {
			return err
		}
		c.Log.Info(fmt.Sprintf("WAL segment %s successfully archived to '%s' on %s", segment, r.Storage().Path(f.Object), r.Name()))
	}
	return nil
}
