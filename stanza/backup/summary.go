package backup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// A backup that goes by WAL summaries takes a relation's file for unchanged when nothing that was
// logged between the starts of the prior backup and of this one names it. What was logged after the start
// is replayed over what either backup holds.
//
// The summaries do not tell all. Free space maps are hardly logged, so their files go the normal way, as do those
// that are no relation's. Of a visibility map the summaries name what was set, but a bit is cleared by the record
// of the change that the page it speaks of has undergone, and with many releases that names this page alone: so a
// visibility map counts as changed as soon as anything of its relation has. And what the server writes without
// logging it must not matter: hints are logged if data checksums or wal_log_hints are on, and without that
// nothing is taken from summaries.
//
// All this holds of a cluster that has gone on from where the prior backup ended. One that was set back since then, by a snapshot of its file
// system or a copy, goes on in the same timeline, and its WAL can have a redo point where the prior backup began: the start of a backup
// is at the beginning of a segment. Then the prior backup may hold changes that no summary names, because they are not in this history. What tells of
// it are an end of the prior backup that is still to come, and the times of those files: they are from before.

// checkSummary makes sure that WAL tells of all changes of a cluster that is to be backed up by
// its summaries. One that has no summaries is backed up without them, whatever it logs.
func (r *run) checkSummary() error {
	f := r.live.Facts
	if !r.Summary || r.control.Version < pgsql.FirstSummarizing || f.DataChecksums || f.WALLogHints {
		return nil
	}
	return errs.WithHint(errs.New(errs.FeatureNotSupported, "option backup-summary needs a cluster with data checksums or with wal_log_hints = on"),
		"without either the WAL does not tell of all pages that change, so a changed file could be taken for one that has not.")
}

// readSummaries finds out what WAL summaries tell of what has changed since the prior backup. Where they do
// not tell, the log says why, and all files go the normal way.
func (r *run) readSummaries(ctx context.Context) error {
	if !r.Summary || r.prior == nil {
		return nil
	}
	of, why := r.summaryRange()
	if why == "" {
		var all []pgsql.Changed
		if all, why = r.askSummaries(ctx, of); ctx.Err() != nil {
			return ctx.Err()
		}
		if why == "" {
			r.changes = newChanges(of, all)
			r.changes.checksums = r.live.Facts.DataChecksums
			return nil
		}
	}
	r.Log.Warn(fmt.Sprintf("WAL summaries are not used, files are compared without them: %s", why))
	return nil
}

// summaryRange gives the WAL between the starts of the prior backup and of this one, or says why
// summaries of it would not tell what has changed.
func (r *run) summaryRange() (of pgsql.SummaryRange, why string) {
	prior := r.prior
	switch began := prior.ArchiveStart; {
	case r.live == nil:
		return of, "the backup is an offline one"
	case r.control.Version < pgsql.FirstSummarizing:
		return of, fmt.Sprintf("PostgreSQL %s has none, they need %s", r.control.Version, pgsql.FirstSummarizing)
	case began == "" || prior.ArchiveStop == "":
		return of, fmt.Sprintf("backup %s was an offline one", prior.Label)
	case timeline(began) != timeline(r.start.Segment) || timeline(prior.ArchiveStop) != timeline(r.start.Segment):
		return of, fmt.Sprintf("the timeline has changed since backup %s", prior.Label)
	case r.live.Facts.DataChecksums && (prior.Options.ChecksumPage == nil || !*prior.Options.ChecksumPage):
		// Where they have been turned on since, all pages have changed and nothing was logged.
		return of, fmt.Sprintf("backup %s does not tell that the cluster had data checksums then", prior.Label)
	case r.anomaly != "":
		return of, r.anomaly + ": was the cluster set back?"
	}
	from, err := postgres.ParseLSN(prior.LSNStart)
	if err != nil || from >= r.start.LSN {
		return of, fmt.Sprintf("backup %s began at lsn = %s, this one at %s", prior.Label, prior.LSNStart, r.start.LSN)
	}
	if ended, err := postgres.ParseLSN(prior.LSNStop); err != nil || ended > r.start.LSN {
		return of, fmt.Sprintf("backup %s ended at lsn = %s, and this one begins at %s: was the cluster set back?", prior.Label, prior.LSNStop, r.start.LSN)
	}
	return pgsql.SummaryRange{Timeline: r.control.Timeline, From: from, To: r.start.LSN}, ""
}

// askSummaries gives what summaries tell of a range, or says why they do not. It asks in a session of its own: a server that
// hangs while it reads a file cannot be asked for anything else any more, and with the session of the backup the backup would end.
func (r *run) askSummaries(ctx context.Context, of pgsql.SummaryRange) (all []pgsql.Changed, why string) {
	s, err := r.node.Host.Connect(ctx)
	if err != nil {
		return nil, err.Error()
	}
	if why, err = r.awaitSummaries(ctx, s, of.To); err == nil && why == "" {
		all, err = s.Changed(ctx, of)
	}
	if err != nil {
		why = err.Error()
	}
	if err := s.Close(ctx); err != nil {
		r.Log.Warn(fmt.Sprintf("unable to end the session that asks for WAL summaries: %s", err))
	}
	return all, why
}

const (
	summaryPoll = 100 * time.Millisecond // how often the summarizer is looked at
	summaryNews = 10 * time.Second       // how often the log tells that it is waited for
)

// awaitSummaries waits until all WAL before an LSN is summarized, as long as the summarizer
// gets on. If it does not it says why.
func (r *run) awaitSummaries(ctx context.Context, in agent.Session, lsn postgres.LSN) (why string, err error) {
	var read postgres.LSN
	var waited, still time.Duration
	for {
		s, err := in.Summaries(ctx)
		switch {
		case err != nil:
			return "", err
		case !s.Enabled:
			return "summarize_wal is off", nil
		case s.Written >= lsn:
			return "", nil
		case s.Read > read:
			read, still = s.Read, 0
		case still >= r.SummaryPatience:
			return fmt.Sprintf("the server has summarized its WAL up to lsn = %s, not to %s, and does not get on", s.Written, lsn), nil
		}
		if waited > 0 && waited%summaryNews == 0 {
			r.Log.Info(fmt.Sprintf("wait for the WAL summary up to lsn = %s: %s in %s", lsn, s.Read, waited))
		}
		if err := sleep(ctx, summaryPoll); err != nil {
			return "", err
		}
		waited, still = waited+summaryPoll, still+summaryPoll
	}
}

// changes is what WAL summaries tell. In nil everything may have changed.
type changes struct {
	of pgsql.SummaryRange
	// checksums says that the cluster has data checksums. What the prior backup holds is then good for it only if it has them
	// too: pg_checksums writes them, and leaves them out of the WAL.
	checksums bool
	all       []pgsql.Changed // by relation; of one those that lead onward first, then those of the main fork, each by segment
}

func newChanges(of pgsql.SummaryRange, all []pgsql.Changed) *changes {
	slices.SortFunc(all, compareChanged)
	return &changes{of: of, all: all}
}

func compareChanged(a, b pgsql.Changed) int {
	return cmp.Or(cmp.Compare(a.Tablespace, b.Tablespace), cmp.Compare(a.Database, b.Database), cmp.Compare(a.Node, b.Node),
		falseLast(a.Onward, b.Onward), falseLast(a.Main, b.Main), cmp.Compare(a.Segment, b.Segment))
}

func falseLast(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// at gives the first of those that are not before c.
func (s *changes) at(c pgsql.Changed) (pgsql.Changed, bool) {
	n, _ := slices.BinarySearchFunc(s.all, c, compareChanged)
	if n == len(s.all) {
		return pgsql.Changed{}, false
	}
	return s.all[n], true
}

// spare says that a file has not changed since the prior backup, as far as that is told. pages is what the prior backup
// knows of it.
func (s *changes) spare(name string, pages manifest.Pages) bool {
	if s == nil || pages == manifest.PagesInvalid || s.checksums && pages != manifest.PagesValid {
		return false
	}
	of, fork, segment, ok := postgres.RelationOf(name)
	if !ok || fork != postgres.MainFork && fork != postgres.VMFork {
		return false
	}
	key := pgsql.Changed{Tablespace: of.Tablespace, Database: of.Database, Onward: true, Main: true}
	if c, found := s.at(key); found && c.Tablespace == of.Tablespace && c.Database == of.Database && c.Node == 0 {
		return false
	}
	key.Node = of.Node
	first, found := s.at(key)
	switch {
	case !found || first.Tablespace != of.Tablespace || first.Database != of.Database || first.Node != of.Node:
		return true
	case fork == postgres.VMFork, first.Onward && first.Segment <= segment:
		return false
	}
	key.Onward, key.Segment = false, segment
	c, found := s.at(key)
	return !found || c != key
}
