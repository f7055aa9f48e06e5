// Package expire removes what retention no longer asks for: backups, the WAL that only they
// needed, and the manifests kept after them.
//
// What goes is decided by functions that look at lists and give steps (Backups, WAL,
// History), each with the sentence that says why. The rules are pgBackRest's
// (src/command/expire/expire.c), and so is what is left.
//
// The order of the steps is not, since a crash after any of them must leave every listed backup
// as something that can be restored: the list is saved without what goes; then its
// manifests are removed, the newest first, durably, so that nothing lists it again; then its
// files; and only then WAL. What a crash leaves is in no list, and the next run
// finds it: directories that are not listed, WAL outside of what backups need, temporary files
// that nobody has written to for an hour.
package expire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Config says what is to be expired. Names in brackets are options.
type Config struct {
	Repos []Repository // in their order

	Set           string // label of a backup that goes whatever retention says [set]; empty for none
	Oldest        bool   // the oldest full backup goes, if another stays [oldest]
	ArchiveBefore string // no WAL from this segment on goes [archive-expire-before]; empty for no such limit
	DryRun        bool   // nothing is changed

	Log *slog.Logger
	// Now is the clock of this host; its zone is that of labels.
	Now func() time.Time
	// Progress, if set, is called before each deletion: how many were done, of how many that are
	// known of.
	Progress func(done, all int)
}

// Repository is one repository and how long it keeps what.
type Repository struct {
	Key  int // the N of repoN
	Open func(ctx context.Context) (*repo.Repo, error)
	Keep Retention
}

// Retention is what a repository keeps. A number that is 0 is not set.
type Retention struct {
	Full       int  // full backups, or days of them [repo-retention-full]
	FullByTime bool // Full is days [repo-retention-full-type]
	Diff       int  // full and differential backups [repo-retention-diff]

	// Archive is from how many backups of ArchiveType, or a stronger one, on WAL is kept without
	// a gap [repo-retention-archive, repo-retention-archive-type].
	Archive     int
	ArchiveType format.BackupType

	History *int // days of manifests of backups that are gone; nil: for ever [repo-retention-history]
}

// leftover is how long nobody has written to a file before it counts as left by a process
// that was killed.
const leftover = time.Hour

// Run expires what is to go in each repository. What goes wrong in one is logged and
// does not keep the others from theirs; it ends with an error of code Command then.
func Run(ctx context.Context, cfg Config) error {
	set, err := cfg.check()
	if err != nil {
		return err
	}
	failed, found := 0, false
	for i, r := range cfg.Repos {
		e := &expiry{Config: cfg, Repository: r, name: fmt.Sprintf("repo%d", r.Key), set: set}
		err := e.run(ctx, &found, i == len(cfg.Repos)-1)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			cfg.Log.Error(e.name+": "+err.Error(), logging.Code(errs.CodeOf(err)))
			failed++
		}
	}
	if failed > 0 {
		return errs.New(errs.Command, "expire command encountered %d error(s), check the log file for details", failed)
	}
	return nil
}

// check gives the label of Set.
func (c Config) check() (format.Label, error) {
	var set format.Label
	if c.Set != "" {
		if c.Oldest {
			return "", errs.New(errs.OptionInvalid, "--oldest and --set cannot be used together")
		}
		var err error
		if set, err = format.ParseLabel(c.Set); err != nil {
			return "", errs.New(errs.OptionInvalidValue, "'%s' is not a valid backup label format", c.Set)
		}
	}
	if c.ArchiveBefore != "" {
		if w, err := postgres.ParseWALName(c.ArchiveBefore); err != nil || w.Kind != postgres.Segment {
			return "", errs.New(errs.OptionInvalidValue, "'%s' is not a valid WAL segment name for option '--archive-expire-before'", c.ArchiveBefore)
		}
	}
	return set, nil
}

// expiry is the work on one repository.
type expiry struct {
	Config
	Repository
	name string
	set  format.Label

	repo    *repo.Repo
	list    *info.Backup
	changed bool // list is not what backup.info and its copy have

	done, all int // deletions
}

func (e *expiry) run(ctx context.Context, found *bool, last bool) error {
	var err error
	if e.repo, err = e.Open(ctx); err != nil {
		return err
	}
	if err := e.load(ctx); err != nil {
		return err
	}
	if e.set != "" {
		*found = *found || e.list.Entry(e.set) != nil
		if last && !*found {
			e.Log.Warn(fmt.Sprintf("backup %s does not exist\nHINT: run the info command and confirm the backup is listed", e.set))
		}
	}
	rules := Rules{Name: e.name, Keep: e.Keep}
	keep, steps, err := Backups(rules, e.list.Entries(), Asked{e.set, e.Oldest}, e.Now())
	if err != nil {
		return err
	}
	if err := e.doAll(ctx, steps); err != nil {
		return err
	}
	if err := e.saveList(ctx); err != nil {
		return err
	}
	if err := e.linkLatest(ctx); err != nil {
		return err
	}
	if err := e.removeBackups(ctx, rules); err != nil {
		return err
	}
	rules.Keep = keep
	if steps, err = WAL(ctx, rules, e.list, e.ArchiveBefore, e.repo); err != nil {
		return err
	}
	if err := e.doAll(ctx, steps); err != nil {
		return err
	}
	if steps, err = History(ctx, rules, e.list, e.Now(), e.repo); err != nil {
		return err
	}
	if err := e.doAll(ctx, steps); err != nil {
		return err
	}
	return e.removeLeftovers(ctx)
}

// load loads backup.info as it should be, and tells of what it did not say.
func (e *expiry) load(ctx context.Context) error {
	var err error
	if e.list, err = e.repo.BackupInfo(ctx); err != nil {
		return err
	}
	dropped, added, err := e.repo.Reconstruct(ctx, e.list)
	if err != nil {
		return err
	}
	for _, l := range dropped {
		e.Log.Warn(fmt.Sprintf("backup '%s' missing manifest removed from backup.info", l))
	}
	settled, err := e.repo.BackupInfoSettled(ctx)
	if err != nil {
		return err
	}
	e.changed = len(dropped)+len(added) > 0 || !settled
	labels, err := e.repo.Labels(ctx)
	if err != nil {
		return err
	}
	for _, l := range labels {
		if _, found := slices.BinarySearch(added, l); found {
			e.Log.Warn(fmt.Sprintf("backup '%s' found in repository added to backup.info", l))
		}
		// Of a set that is gone nothing was to be expected.
		if e.list.Entry(l) != nil || l.Type() != format.Full && !e.list.HasSet(l) {
			continue
		}
		whole, err := e.repo.Complete(ctx, l)
		if err != nil {
			return err
		}
		if whole {
			e.Log.Warn(fmt.Sprintf("invalid backup '%s' cannot be added to current backups", l))
		}
	}
	return nil
}

// saveList saves backup.info, if it changed.
func (e *expiry) saveList(ctx context.Context) error {
	if !e.changed || e.DryRun {
		return nil
	}
	return e.repo.SaveBackupInfo(ctx, e.list)
}

// linkLatest lets a link that names a backup which has gone, or not the newest, name the newest.
func (e *expiry) linkLatest(ctx context.Context) error {
	if e.DryRun {
		return nil
	}
	named, err := e.repo.Latest(ctx)
	if err != nil || named == "" {
		return err
	}
	var newest format.Label
	if all := e.list.Entries(); len(all) > 0 {
		newest = all[len(all)-1].Label
	}
	if named == string(newest) {
		return nil
	}
	return e.repo.SetLatest(ctx, newest)
}

// removeBackups removes the directories that are not listed. All are withdrawn before
// anything else of them goes.
func (e *expiry) removeBackups(ctx context.Context, rules Rules) error {
	found, err := e.repo.Labels(ctx)
	if err != nil {
		return err
	}
	var spared format.Label
	if len(found) > 0 {
		newest := found[len(found)-1]
		spare, err := e.spare(ctx, newest)
		if err != nil {
			return err
		}
		if spare {
			spared = newest
		}
	}
	steps := Directories(rules, e.list, found, spared)
	if !e.DryRun {
		for _, s := range steps {
			if s.Op == RemoveBackup {
				if err := e.repo.Withdraw(ctx, s.Label); err != nil {
					return err
				}
			}
		}
	}
	return e.doAll(ctx, steps)
}

// spare says whether the newest directory is that of a backup that may be under way on another
// host, or be resumed: it has a copy of its manifest only. One that is based on what --set has
// removed cannot be, and one that --set itself names is not to be.
func (e *expiry) spare(ctx context.Context, newest format.Label) (bool, error) {
	interrupted, err := e.repo.Interrupted(ctx, newest)
	if err != nil || !interrupted || e.set == "" || newest.Full() != e.set.Full() {
		return interrupted, err
	}
	m, err := e.repo.Manifest(ctx, newest)
	if err != nil {
		return false, err
	}
	return m.Prior != "" && e.list.Entry(m.Prior) != nil, nil
}

// removeLeftovers removes the temporary files of processes that were killed.
func (e *expiry) removeLeftovers(ctx context.Context) error {
	names, err := e.repo.Leftovers(ctx, e.Now().Add(-leftover))
	if err != nil || len(names) == 0 {
		return err
	}
	e.Log.Info(fmt.Sprintf("%s: remove %d temporary file(s) left by interrupted processes", e.name, len(names)))
	for _, n := range names {
		e.Log.Log(ctx, logging.LevelDetail, fmt.Sprintf("%s: remove temporary file %s", e.name, e.repo.Storage().Path(n)))
	}
	e.because(ctx, "nobody has written to them for more than an hour, and nothing reads them")
	if e.DryRun {
		return nil
	}
	return e.repo.RemoveLeftovers(ctx, names)
}

// doAll does steps in their order, and takes backups off the list at the end.
func (e *expiry) doAll(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if s.Op.deletes() {
			e.all++
		}
	}
	var gone []format.Label
	for _, s := range steps {
		if s.Op == Unlist {
			gone = append(gone, s.Labels...)
		}
		if err := e.do(ctx, s); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		e.list.Remove(gone...)
		e.changed = true
	}
	return nil
}

// do says what a step is, and does it.
func (e *expiry) do(ctx context.Context, s Step) error {
	if s.Text != "" {
		e.Log.Log(ctx, s.Level, s.Text)
	}
	if s.Why != "" {
		e.because(ctx, s.Why)
	}
	if !s.Op.deletes() || e.DryRun {
		return nil
	}
	if e.Progress != nil {
		e.Progress(e.done, e.all)
		e.done++
	}
	switch s.Op {
	case RemoveBackup:
		return e.repo.RemoveWithdrawn(ctx, s.Label)
	case RemoveWAL:
		return e.repo.RemoveWAL(ctx, s.ID, s.Dir, s.Names...)
	case RemoveTimeline:
		return e.repo.RemoveTimeline(ctx, s.ID, s.Timeline)
	case RemoveArchive:
		return e.repo.RemoveArchive(ctx, s.ID)
	case RemoveHistory:
		return e.repo.RemoveHistory(ctx, s.Label)
	case RemoveHistoryYear:
		return e.repo.RemoveHistoryYear(ctx, s.Dir)
	}
	return errors.New("a step that nobody knows how to do")
}

// because gives the reason for a step. It is what somebody who tries a retention out wants to know,
// and in a real run what somebody asks who misses something.
func (e *expiry) because(ctx context.Context, why string) {
	level := logging.LevelDetail
	if e.DryRun {
		level = slog.LevelInfo
	}
	e.Log.Log(ctx, level, e.name+": why: "+why)
}
