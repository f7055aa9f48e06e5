// Package restore puts a backup back: it chooses the backup, changes its manifest to
// where the operator wants things, has every file written and verified beside
// PostgreSQL, and tells PostgreSQL how to recover. A restore that ends early, however
// it ends, leaves a cluster that cannot start and that the next restore with delta
// takes up. The server is not started.
package restore

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Config is all that a restore is told. Fields are named like the options they come
// from; what has a zero value is not set.
type Config struct {
	Repos  []repo.Place // to look for the backup in, in this order
	Target agent.Target
	PGPath string // the data directory, absolute, as Target has it
	Log    *slog.Logger
	// Now is the clock; its zone is that of times without one.
	Now func() time.Time
	// Progress, if set, is called, never twice at once, as bytes are restored.
	Progress   func(progress.State)
	ProcessMax int
	DryRun     bool

	Set          string // label of the backup; empty: the one that suits the target
	Delta, Force bool

	Type            Type // empty: Default, of a backup made offline None
	TargetValue     string
	TargetExclusive bool
	TargetAction    string
	TargetTimeline  string
	// RestoreCommand is the command line for archive-get, complete with its two
	// parameters. Where PostgreSQL would take an error of it for the end of the archive,
	// the command line has to say that it must not: all types but Standby.
	RestoreCommand  string
	RecoveryOptions map[string]string
	ArchiveModeOff  bool

	TablespaceMap        map[string]string // by name or oid
	TablespaceMapAll     string
	LinkMap              map[string]string // by path in the data directory
	LinkAll              bool
	DBInclude, DBExclude []string // by name or oid
}

// Result is what a restore did, or would have done.
type Result struct {
	Repo    string // "repo1"
	Label   format.Label
	Files   int
	Matched int   // of Files, those that were there already
	Bytes   int64 // of the restored files
}

// run is one restore.
type run struct {
	cfg   Config
	log   *slog.Logger
	now   time.Time
	clean bool // the target may hold files
	delta bool // those that are as the backup has them are kept
	force bool // as size and time tell

	meter *progress.Meter
}

// Run restores. On an error nothing that can start is left, unless it came before
// anything was changed.
func Run(ctx context.Context, cfg Config) (Result, error) {
	r := &run{cfg: cfg, log: cfg.Log, now: cfg.Now()}
	chosen := cfg.Type
	if chosen == "" {
		r.cfg.Type = Default
	}
	r.cfg.PGPath = path.Clean(cfg.PGPath)
	if err := r.checkTarget(ctx); err != nil {
		return Result{}, err
	}
	g, err := r.readGoal()
	if err != nil {
		return Result{}, err
	}
	from, label, err := r.selectSet(ctx, g)
	if err != nil {
		return Result{}, err
	}
	m, err := r.load(ctx, from, label)
	if err != nil {
		return Result{}, err
	}
	if !m.Options.Online && chosen == "" {
		r.cfg.Type, g.kind = None, None
	}
	return r.restore(ctx, from, m, g)
}

// checkTarget looks at the data directory. In one that does not look like PostgreSQL's
// nothing may be overwritten, whatever the options.
func (r *run) checkTarget(ctx context.Context) error {
	recognised, err := r.cfg.Target.Check(ctx)
	if err != nil {
		return err
	}
	r.clean, r.delta, r.force = r.cfg.Delta || r.cfg.Force, r.cfg.Delta, r.cfg.Delta && r.cfg.Force
	if r.clean && !recognised {
		r.log.Warn(fmt.Sprintf("--delta or --force specified but unable to find 'PG_VERSION' or 'backup.manifest' in '%s' to"+
			" confirm that this is a valid $PGDATA directory. --delta and --force have been disabled and if any files exist"+
			" in the destination directories the restore will be aborted.", r.cfg.PGPath))
		r.clean, r.delta, r.force = false, false, false
	}
	return nil
}

// load gives the manifest of a backup that can be restored.
func (r *run) load(ctx context.Context, from *repo.Repo, label format.Label) (*manifest.Manifest, error) {
	m, err := from.Manifest(ctx, label)
	if err != nil {
		return nil, err
	}
	if m.Label != label {
		return nil, errs.WithHint(errs.New(errs.Format,
			"requested backup '%s' and manifest label '%s' do not match", label, m.Label),
			"this indicates some sort of corruption (at the very least paths have been renamed).")
	}
	version, err := postgres.ParseVersion(m.Cluster.Version)
	if err != nil || !version.Supported() {
		return nil, errs.New(errs.VersionNotSupported,
			"backup set %s is of PostgreSQL %s, which is not supported", label, m.Cluster.Version)
	}
	if m.Options.Online {
		if err := r.checkArchive(ctx, from, m); err != nil {
			return nil, err
		}
	}
	if m.Files.Len() == 0 {
		return nil, errs.New(errs.Format, "manifest missing files")
	}
	if err := m.ValidateChecksums(); err != nil {
		return nil, err
	}
	if err := checkBlocks(ctx, from, m); err != nil {
		return nil, err
	}
	return m, nil
}

// checkBlocks refuses what is stored in the blocks of a release before 2.46, in a format that was given up.
func checkBlocks(ctx context.Context, from *repo.Repo, m *manifest.Manifest) error {
	known, err := from.BackupInfo(ctx)
	if err != nil {
		return err
	}
	if label, program := known.BetaBlocks(m); label != "" {
		return errs.WithHint(errs.New(errs.FeatureNotSupported,
			"backup set %s cannot be restored: backup %s has files in blocks (option repo-block) as only pgBackRest %s stored them",
			m.Label, label, program), "restore it with pgBackRest %s.", program)
	}
	return nil
}

// restore does, or tells, what has been decided.
func (r *run) restore(ctx context.Context, from *repo.Repo, m *manifest.Manifest, g goal) (Result, error) {
	message := fmt.Sprintf("%s: restore backup set %s", from.Name(), m.Label)
	if m.Options.Online {
		start := time.Unix(m.Start, 0).In(r.now.Location())
		message += ", recovery will start at " + start.Format("2006-01-02 15:04:05")
	}
	r.log.Info(message)

	if err := r.remap(m); err != nil {
		return Result{}, err
	}
	r.omit(m)
	if err := m.Check(); err != nil {
		return Result{}, err
	}
	layout, err := layoutOf(m)
	if err != nil {
		return Result{}, err
	}
	layout.Clean = r.clean
	if g.kind == Preserve {
		layout.Keep = []string{autoConf, recoverySignal, standbySignal}
	}
	selected, err := r.selectDatabases(m)
	if err != nil {
		return Result{}, err
	}
	var settings []setting
	if g.kind != None && g.kind != Preserve {
		if settings, err = r.settings(g); err != nil {
			return Result{}, err
		}
	}
	if r.cfg.DryRun {
		if err := r.cfg.Target.Inspect(ctx, layout); err != nil {
			return Result{}, err
		}
		return r.tell(ctx, from, m, g)
	}

	marker := *m
	marker.CipherPass = "" // nobody needs it there
	if err := r.cfg.Target.Begin(ctx, layout, marker.Write); err != nil {
		return Result{}, err
	}
	res, err := r.copyFiles(ctx, from, m, selected)
	if err != nil {
		return Result{}, err
	}
	res.Repo, res.Label = from.Name(), m.Label
	if err := r.writeRecovery(ctx, g, settings); err != nil {
		return Result{}, err
	}
	if err := r.cfg.Target.Finish(ctx, m.Options.Online); err != nil {
		return Result{}, err
	}
	r.log.Info(fmt.Sprintf("restore size = %s, file total = %d", sizeText(res.Bytes), res.Files))
	return res, nil
}

// tell says what a restore would do, with nothing written.
func (r *run) tell(ctx context.Context, from *repo.Repo, m *manifest.Manifest, g goal) (Result, error) {
	_, total := queue(m)
	res := Result{Repo: from.Name(), Label: m.Label, Files: m.Files.Len(), Bytes: total}
	last := ""
	if m.Options.Online {
		var err error
		id := format.ArchiveID{Version: m.Cluster.Version, ID: m.Cluster.ID}
		if _, last, err = from.WALRange(ctx, id); err != nil {
			return res, err
		}
	}
	stop := time.Unix(m.Stop, 0).In(r.now.Location()).Format("2006-01-02 15:04:05-07:00")
	r.log.Info(fmt.Sprintf("would restore %s backup %s, complete at %s, to '%s'", m.Type, m.Label, stop, r.cfg.PGPath))
	r.log.Info("recovery target: " + r.describe(g))
	r.log.Info("WAL needed: " + walNeeded(m, last))
	r.log.Info(fmt.Sprintf("restore size = %s, file total = %d", sizeText(res.Bytes), res.Files))
	return res, nil
}

// describe says in words where recovery will end.
func (r *run) describe(g goal) string {
	switch g.kind {
	case Default:
		return "end of the archive"
	case Immediate:
		return "as soon as the cluster is consistent"
	case None:
		return "none, no recovery settings are written"
	case Preserve:
		return "recovery settings stay as they are"
	case Standby:
		return "none, the cluster becomes a standby"
	}
	s := fmt.Sprintf("%s '%s'", g.kind, g.text)
	if g.kind == Time && g.moment.zoned {
		s += g.moment.In(r.now.Location()).Format(" (2006-01-02 15:04:05-07:00)")
	}
	if r.cfg.TargetExclusive {
		s += ", exclusive"
	}
	return s
}
