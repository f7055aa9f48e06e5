package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// selectSet finds the backup to restore: in the first repository that has one which
// will do. A repository that cannot be read is warned of and passed over.
func (r *run) selectSet(ctx context.Context, g goal) (*repo.Repo, format.Label, error) {
	var unread []string
	for _, place := range r.cfg.Repos {
		from, known, err := open(ctx, place)
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		if err != nil {
			if from == nil && len(r.cfg.Repos) == 1 {
				return nil, "", err // there is nothing else to say
			}
			unread = append(unread, place.Name())
			r.log.Warn(fmt.Sprintf("%s: [%s] %s", place.Name(), errs.CodeOf(err), err))
			continue
		}
		backups := known.Entries()
		if len(backups) == 0 {
			r.log.Warn(fmt.Sprintf("%s: [%s] no backup sets to restore", from.Name(), errs.BackupSetInvalid))
			continue
		}
		label, err := r.selectIn(from, known, backups, g)
		if label != "" {
			r.warnOfRecovery(unread, place)
		}
		if err != nil || label != "" {
			return from, label, err
		}
	}
	err := r.noSet(g)
	if len(unread) > 0 {
		err = errs.WithHint(err, "%s could not be read, see the warning: the backup may be there", strings.Join(unread, ", "))
	}
	return nil, "", err
}

// noSet is that no repository has what is asked for.
func (r *run) noSet(g goal) error {
	switch {
	case r.cfg.Set != "":
		return errs.New(errs.BackupSetInvalid, "backup set %s is not valid", r.cfg.Set)
	case g.kind == Time:
		return errs.New(errs.BackupSetInvalid, "unable to find backup set with stop time less than '%s'", r.cfg.TargetValue)
	case g.kind == LSN:
		return errs.New(errs.BackupSetInvalid, "unable to find backup set with lsn less than or equal to '%s'", r.cfg.TargetValue)
	}
	return errs.New(errs.BackupSetInvalid, "no backup set found to restore")
}

// open opens a repository and loads its list of backups. Next to an error the repository is nil if
// it was not even opened.
func open(ctx context.Context, place repo.Place) (*repo.Repo, *info.Backup, error) {
	from, err := place.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	known, err := from.BackupInfo(ctx)
	return from, known, err
}

// warnOfRecovery tells that what could not be read for the restore is needed for what follows:
// archive-get takes no repository for the end of all WAL while another cannot be asked.
func (r *run) warnOfRecovery(unread []string, from repo.Place) {
	if t := r.cfg.Type; len(unread) == 0 || t == None || t == Standby {
		return
	}
	names := strings.Join(unread, ", ")
	r.log.Warn(fmt.Sprintf("recovery asks every repository for WAL, and is aborted while one cannot be asked, as now %s"+
		"\nHINT: to do without it restore with --repo=%d, which recovery then goes by too.", names, from.Key))
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
