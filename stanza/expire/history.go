package expire

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Manifests is what has to be known of the manifests that are kept when backups go.
type Manifests interface {
	// HistoryYears gives the years that there are, HistoryLabels the backups of one, sorted.
	HistoryYears(ctx context.Context) ([]string, error)
	HistoryLabels(ctx context.Context, year string) ([]format.Label, error)
}

// History decides which manifests in the history are to go: those older than retention asks
// for and of no backup that is listed, and the years before as a whole.
func History(ctx context.Context, r Rules, list *info.Backup, now time.Time, history Manifests) ([]Step, error) {
	if r.Keep.History == nil {
		return nil, nil
	}
	p := &planner{Rules: r}
	oldest := format.NewLabel(format.Full, "", days(now, *r.Keep.History))
	limit := string(oldest[:4])
	why := fmt.Sprintf("older than %s=%d days", p.option("history"), *r.Keep.History)
	years, err := history.HistoryYears(ctx)
	if err != nil {
		return nil, err
	}
	for _, year := range years {
		if year > limit {
			break
		}
		if year < limit {
			s := say(slog.LevelInfo, "%s: remove expired backup history path %s", p.Name, year)
			s.Op, s.Dir = RemoveHistoryYear, year
			s.Why = "all manifests of " + year + " are " + why
			p.add(s)
			continue
		}
		labels, err := history.HistoryLabels(ctx, year)
		if err != nil {
			return nil, err
		}
		for _, label := range slices.Backward(labels) {
			if label < oldest && list.Entry(label) == nil {
				s := say(slog.LevelInfo, "%s: remove expired backup history manifest %s.manifest.gz", p.Name, label)
				s.Op, s.Label = RemoveHistory, label
				s.Why = "the backup is gone, and its manifest is " + why
				p.add(s)
			}
		}
	}
	return p.steps, nil
}
