package stanza

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
)

// Create makes the stanza in every repository. One that has it already for this
// cluster is left as it is, but for a missing half of an info file and its copy.
// Without online the data directory of the first node alone says which cluster it is.
func Create(ctx context.Context, name string, nodes []Node, online bool, repos []*repo.Repo, log *slog.Logger) error {
	ctl, err := identify(ctx, nodes, online, log)
	if err != nil {
		return err
	}
	for _, r := range repos {
		log.Info(fmt.Sprintf("stanza-create for stanza '%s' on %s", name, r.Name()))
		if err := create(ctx, name, r, ctl, log); err != nil {
			return err
		}
	}
	return nil
}

func identify(ctx context.Context, nodes []Node, online bool, log *slog.Logger) (postgres.Control, error) {
	if !online {
		return nodes[0].Host.Control(ctx)
	}
	primary, standby, err := Connect(ctx, nodes, true, log)
	if err != nil {
		return postgres.Control{}, err
	}
	defer CloseAll(ctx, primary, standby)
	// Whether it archives is not asked: the stanza has to be there first.
	return primary.Control, primary.Agree(Archiving{})
}

func create(ctx context.Context, name string, r *repo.Repo, ctl postgres.Control, log *slog.Logger) error {
	have, err := r.InfoFiles(ctx)
	if err != nil {
		return err
	}
	switch {
	case !have.Archive && !have.ArchiveCopy && !have.Backup && !have.BackupCopy:
		return r.Init(ctx, ctl)
	case (have.Archive || have.ArchiveCopy) && (have.Backup || have.BackupCopy):
		if err := CheckInfo(ctx, r, ctl); err != nil {
			return err
		}
		mended, err := r.MendInfo(ctx, have)
		if err == nil && !mended {
			log.Info(fmt.Sprintf("stanza '%s' already exists on %s and is valid", name, r.Name()))
		}
		return err
	case have.Archive || have.ArchiveCopy:
		// So an earlier try leaves it that was interrupted; then there is nothing else.
		if done, err := r.CompleteInit(ctx, ctl); err != nil || done {
			return err
		}
		err = errs.New(errs.FileMissing, "archive.info exists but backup.info is missing on %s", r.Name())
	default:
		err = errs.New(errs.FileMissing, "backup.info exists but archive.info is missing on %s", r.Name())
	}
	return errs.WithHint(err, "this may be a symptom of repository corruption!")
}
