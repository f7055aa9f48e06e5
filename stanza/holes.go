package stanza

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Waiting is how far archiving of a cluster is behind.
type Waiting struct {
	Files     int       // that wait
	Bytes     int64     // of them
	Oldest    string    // the one PostgreSQL asks for next
	Since     time.Time // when that became ready
	LastError string    // "[104] message" of the last try; empty when it is not known to have failed
}

// waiting tells what waits to be archived: a warning when something does for longer than it
// may take, or when it is known to fail.
func (c *Check) waiting(n Node) {
	if c.Waiting == nil {
		return
	}
	w, err := c.Waiting(n)
	switch {
	case err != nil:
		c.Log.Warn(fmt.Sprintf("unable to tell what WAL of pg%d waits to be archived: [%s] %s", n.Key, errs.CodeOf(err), err))
	case w == nil: // on another host
	case w.Files == 0:
		c.Log.Info(fmt.Sprintf("no WAL of pg%d waits to be archived", n.Key))
	default:
		age := max(c.Now().Sub(w.Since), 0) // the clock may have been set back
		text := fmt.Sprintf("%d WAL file(s) (%s) of pg%d wait to be archived, the oldest, %s, for %s",
			w.Files, logging.Size(w.Bytes), n.Key, w.Oldest, age.Round(time.Second))
		if w.LastError != "" {
			text += ". The last try failed: " + w.LastError
		}
		if w.LastError != "" || age > c.Timeout {
			c.Log.Warn(text)
		} else {
			c.Log.Info(text)
		}
	}
}

// holes warns of WAL that listed backups need and the repositories do not have, but for what
// retention has removed. Failing to look is a warning too: what check is for has been, or
// will be, checked.
func (c *Check) holes(ctx context.Context) error {
	for _, p := range c.Repos {
		r := c.opened[p.Key]
		if err := c.holesOf(ctx, r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.Log.Warn(fmt.Sprintf("unable to look for missing WAL on %s: [%s] %s", r.Name(), errs.CodeOf(err), err))
		}
	}
	return nil
}

func (c *Check) holesOf(ctx context.Context, r *repo.Repo) error {
	list, err := r.BackupInfo(ctx)
	if err != nil {
		return err
	}
	id, _, err := r.ArchiveID(ctx)
	if err != nil {
		return err
	}
	current := list.Current().ID
	backups := slices.DeleteFunc(list.Entries(), func(e info.BackupEntry) bool { return e.ClusterID != current })
	known := repo.Known{Drops: c.Dropped}
	if c.Thinned != nil {
		known.Thinned = c.Thinned(r.Key(), list.Entries(), current)
	}
	reaches, err := r.Reaches(ctx, id, backups, known, c.Now())
	if err != nil {
		return err
	}
	for _, h := range repo.MissingOf(reaches) {
		if h.Reason == repo.ReasonExpired {
			continue
		}
		newest := reaches[h.Newest].Label
		whom := fmt.Sprintf("backup %s", newest)
		if h.Backups > 1 {
			whom = fmt.Sprintf("%d backups, the newest of them %s,", h.Backups, newest)
		}
		text := fmt.Sprintf("%s on %s: recovery from %s ends before it", h.Text(time.Local), r.Name(), whom)
		if newest == backups[len(backups)-1].Label {
			text += "\nHINT: make a new backup: recovery from that does not need this WAL."
		}
		c.Log.Warn(text)
	}
	return nil
}
