package restore

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// selectSet finds the backup to restore: in the first repository that has one which
// will do. A repository that cannot be read is warned of and passed over.
func (r *run) selectSet(ctx context.Context, g goal) (*repo.Repo, format.Label, error) {
	for _, from := range r.cfg.Repos {
		known, err := from.BackupInfo(ctx)
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		if err != nil {
			r.log.Warn(fmt.Sprintf("%s: [%s] %s", from.Name(), errs.CodeOf(err), err))
			continue
		}
		backups := known.Entries()
		if len(backups) == 0 {
			r.log.Warn(fmt.Sprintf("%s: [%s] no backup sets to restore", from.Name(), errs.BackupSetInvalid))
			continue
		}
		label, err := r.selectIn(from, known, backups, g)
		if err != nil || label != "" {
			return from, label, err
		}
	}
	switch {
	case r.cfg.Set != "":
		return nil, "", errs.New(errs.BackupSetInvalid, "backup set %s is not valid", r.cfg.Set)
	case g.kind == Time:
		return nil, "", errs.New(errs.BackupSetInvalid,
			"unable to find backup set with stop time less than '%s'", r.cfg.TargetValue)
	case g.kind == LSN:
		return nil, "", errs.New(errs.BackupSetInvalid,
			"unable to find backup set with lsn less than or equal to '%s'", r.cfg.TargetValue)
	}
	return nil, "", errs.New(errs.BackupSetInvalid, "no backup set found to restore")
}

// selectIn chooses among the backups of one repository, oldest first; none is "".
func (r *run) selectIn(from *repo.Repo, known *info.Backup, backups []info.BackupEntry, g goal) (format.Label, error) {
	if r.cfg.Set != "" {
		for _, b := range backups {
			if string(b.Label) == r.cfg.Set {
				return b.Label, nil
			}
		}
		return "", nil
	}
	switch g.kind {
	case Time:
		for _, b := range slices.Backward(backups) {
			if b.Stop < g.moment.Unix() {
				return b.Label, nil
			}
		}
		return "", nil
	case LSN:
		for _, b := range slices.Backward(backups) {
			if b.LSNStop == "" {
				r.log.Warn(from.Name() + " reached backup from prior version missing required LSN info before finding a match" +
					" -- backup auto-select has been disabled for this repo\n" +
					"HINT: you may specify a backup to restore using the --set option.")
				return "", nil
			}
			stop, err := postgres.ParseLSN(b.LSNStop)
			if err != nil {
				return "", errs.Wrap(err, "backup.info of %s, backup '%s'", from.Name(), b.Label)
			}
			if stop <= g.lsn {
				return b.Label, nil
			}
		}
		return "", nil
	}
	latest := backups[len(backups)-1]
	if latest.ClusterID < known.Current().ID {
		err := errs.WithHint(errs.New(errs.BackupSetInvalid,
			"the latest backup set found '%s' is from a prior version of PostgreSQL", latest.Label),
			"was a backup created after the stanza-upgrade?")
		return "", errs.WithHint(err, "specify --set or --type=time/lsn to restore from a prior version of PostgreSQL.")
	}
	return latest.Label, nil
}
