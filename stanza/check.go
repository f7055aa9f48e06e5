package stanza

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
)

// Check tests a stanza end to end: configuration, repositories and, on a primary,
// that a segment of WAL reaches every repository within timeout.
func Check(ctx context.Context, nodes []Node, repos []*repo.Repo, a Archiving, timeout time.Duration, log *slog.Logger) error {
	primary, standby, err := Connect(ctx, nodes, false, log)
	if err != nil {
		return err
	}
	defer CloseAll(ctx, primary, standby)
	if primary == nil && standby == nil {
		return errs.WithHint(errs.New(errs.Config, "no database found"), "check indexed pg-path/pg-host configurations")
	}
	if standby != nil {
		// Every repository is on this host, where the primary is known too.
		if primary == nil {
			return errs.WithHint(errs.New(errs.Config, "primary database not found"), "check indexed pg-path/pg-host configurations")
		}
		if err := checkStandby(ctx, standby, repos, log); err != nil {
			return err
		}
	}
	return checkPrimary(ctx, primary, repos, a, timeout, log)
}

func checkStandby(ctx context.Context, l *Live, repos []*repo.Repo, log *slog.Logger) error {
	if err := l.Agree(Archiving{}); err != nil {
		return err
	}
	for _, r := range repos {
		log.Info(fmt.Sprintf("check %s (standby)", r.Name()))
		if err := CheckInfo(ctx, r, l.Control); err != nil {
			return err
		}
	}
	log.Info("switch wal not performed because this is a standby")
	return nil
}

func checkPrimary(ctx context.Context, l *Live, repos []*repo.Repo, a Archiving, timeout time.Duration, log *slog.Logger) error {
	if err := l.Agree(a); err != nil {
		return err
	}
	for _, r := range repos {
		log.Info(fmt.Sprintf("check %s configuration (primary)", r.Name()))
		if err := CheckInfo(ctx, r, l.Control); err != nil {
			return err
		}
	}
	segment, err := l.SwitchWAL(ctx)
	if err != nil {
		return err
	}
	for _, r := range repos {
		log.Info(fmt.Sprintf("check %s archive for WAL (primary)", r.Name()))
		f, err := r.AwaitWAL(ctx, segment, timeout)
		if err != nil {
			return err
		}
		log.Info(fmt.Sprintf("WAL segment %s successfully archived to '%s' on %s", segment, r.Storage().Path(f.Object), r.Name()))
	}
	return nil
}
