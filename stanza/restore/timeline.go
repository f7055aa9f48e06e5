package restore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// The two names a target timeline can have instead of a number.
const (
	timelineCurrent = "current"
	timelineLatest  = "latest"
)

// checkArchive makes sure that recovery of an online backup can begin: that its archive
// belongs to the same cluster, and that the timeline recovery will follow passes
// through the backup. PostgreSQL would find out only after everything is copied.
func (r *run) checkArchive(ctx context.Context, from *repo.Repo, m *manifest.Manifest) error {
	archive, err := from.ArchiveInfo(ctx)
	if err != nil {
		return err
	}
	same := func(row format.Cluster) bool {
		return row.ID == m.Cluster.ID && row.SystemID == m.Cluster.SystemID && row.Version == m.Cluster.Version
	}
	if !slices.ContainsFunc(archive.History(), same) {
		err := errs.New(errs.FileInvalid,
			"%s: backup set %s (id = %d, version = %s, system-id = %d) does not match archive.info",
			from.Name(), m.Label, m.Cluster.ID, m.Cluster.Version, m.Cluster.SystemID)
		return errs.WithHint(err, "this may be a symptom of repository corruption!")
	}
	start, err := postgres.ParseLSN(m.LSNStart)
	if err != nil {
		return errs.Wrap(err, "manifest of backup set %s", m.Label)
	}
	wal, err := postgres.ParseWALName(m.ArchiveStart)
	if err != nil {
		return errs.Wrap(err, "manifest of backup set %s", m.Label)
	}
	id := format.ArchiveID{Version: m.Cluster.Version, ID: m.Cluster.ID}
	return checkTimeline(ctx, from, id, wal.Timeline, start, r.targetTimeline())
}

// targetTimeline is the timeline recovery will follow: what the operator says, else
// PostgreSQL's default. A target of immediate needs none but its own, and PostgreSQL
// would fail on trouble with the latest.
func (r *run) targetTimeline() string {
	switch {
	case r.cfg.TargetTimeline != "":
		return r.cfg.TargetTimeline
	case r.cfg.Type == Immediate:
		return timelineCurrent
	}
	return timelineLatest
}

func checkTimeline(
	ctx context.Context, from *repo.Repo, id format.ArchiveID, backup postgres.Timeline, start postgres.LSN, want string,
) error {
	if want == timelineCurrent {
		return nil // needs no history
	}
	target, err := resolveTimeline(ctx, from, id, backup, want)
	if err != nil || target == backup {
		return err
	}
	history, err := from.History(ctx, id, target)
	if err != nil {
		return err
	}
	var fork postgres.LSN
	for _, h := range history {
		if h.Timeline != backup {
			continue
		}
		if start < h.Switch {
			return nil
		}
		fork = h.Switch
	}
	if fork != 0 {
		err := errs.New(errs.DbMismatch,
			"target timeline %X forked from backup timeline %X at %s which is before backup lsn of %s",
			uint32(target), uint32(backup), fork, start)
		return &errs.Error{Code: err.Code, Message: err.Message, Hints: []string{
			"was the target timeline created by accidentally promoting a standby?",
			"was the target timeline created by testing a restore without --archive-mode=off?",
			"was the backup made after the target timeline was created?",
		}}
	}
	return errs.WithHint(errs.New(errs.DbMismatch,
		"backup timeline %X, lsn %s is not in the history of target timeline %X", uint32(backup), start, uint32(target)),
		"was the target timeline created by promoting from a timeline < latest?")
}

func resolveTimeline(
	ctx context.Context, from *repo.Repo, id format.ArchiveID, backup postgres.Timeline, want string,
) (postgres.Timeline, error) {
	if want == timelineLatest {
		all, err := from.Histories(ctx, id)
		if err != nil || len(all) == 0 {
			return backup, err
		}
		return max(backup, all[len(all)-1]), nil
	}
	digits, base := want, 10
	if hex, ok := strings.CutPrefix(want, "0x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		return 0, errs.New(errs.DbMismatch, "invalid target timeline '%s'", want)
	}
	return postgres.Timeline(n), nil
}

// walNeeded says in words which WAL a recovery of the backup reads.
func walNeeded(m *manifest.Manifest, last string) string {
	if !m.Options.Online {
		return "none, the backup was made offline"
	}
	s := fmt.Sprintf("%s to at least %s", m.ArchiveStart, m.ArchiveStop)
	if last != "" {
		s += ", the archive ends with " + last
	}
	return s
}
