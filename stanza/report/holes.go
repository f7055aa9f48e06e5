package report

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Hole is WAL that a listed backup needs to be recovered beyond it, and that the archive
// does not have.
type Hole struct {
	Database Key      `json:"database"`
	Dropped  *Dropped `json:"dropped"` // null where the reason is another
	Reason   string   `json:"reason"`  // of repo.Reason
	Segments int64    `json:"segments"`
	Start    string   `json:"start"` // first and
	Stop     string   `json:"stop"`  // last segment

	hole repo.Hole
}

// Dropped says when WAL was dropped, in seconds since 1970, and the limit in bytes that
// the queue had exceeded.
type Dropped struct {
	Limit int64 `json:"limit"`
	Start int64 `json:"start"`
	Stop  int64 `json:"stop"`
}

// holes looks for what backups lack, if that is asked for. Where it cannot be told the rest
// of the report still is.
func (c *collector) holes(ctx context.Context, s *Stanza, states []state) error {
	if c.q.Dropped == nil {
		return nil
	}
	drops, err := c.q.Dropped(s.Name)
	if err != nil {
		s.Warning = append(s.Warning, other(err))
	}
	for i := range states {
		st := &states[i]
		if st.backups == nil {
			continue
		}
		for _, h := range st.backups.History() {
			if err := c.holesOf(ctx, s, st, h, drops); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s.Warning = append(s.Warning, fmt.Sprintf("%s: unable to look for missing WAL: %s", st.repo.Name(), other(err)))
			}
		}
	}
	return nil
}

// holesOf is holes for one cluster of one source.
func (c *collector) holesOf(ctx context.Context, s *Stanza, st *state, cluster format.Cluster, drops []repo.Drop) error {
	entries := slices.DeleteFunc(st.backups.Entries(), func(e info.BackupEntry) bool { return e.ClusterID != cluster.ID })
	if len(entries) == 0 {
		return nil
	}
	id, err := archiveID(st.archive, cluster)
	if err != nil {
		return err
	}
	known := repo.Known{Drops: drops}
	if c.q.Thinned != nil {
		known.Thinned = c.q.Thinned(s.Name, st.repo.Key(), st.backups.Entries(), cluster.ID)
	}
	reaches, err := st.repo.Reaches(ctx, id, entries, known, c.q.Now)
	if err != nil {
		return err
	}
	if st.reaches == nil {
		st.reaches = map[format.Label]repo.Reach{}
	}
	for _, r := range reaches {
		if r.Lacks() != nil {
			st.reaches[r.Label] = r
		}
	}
	for _, m := range repo.MissingOf(reaches) {
		h := m.Hole
		hole := Hole{Database: Key{cluster.ID, st.repo.Key()}, Reason: h.Reason.String(), Segments: h.Segments, Start: h.From, Stop: h.To, hole: h}
		if d := h.Dropped; d != nil {
			hole.Dropped = &Dropped{Limit: d.Limit, Start: d.First.Unix(), Stop: d.Last.Unix()}
		}
		s.Hole = append(s.Hole, hole)
	}
	return nil
}

// reach adds how far recovery gets.
func (b *Backup) reach(r repo.Reach) {
	ranges := []Range{}
	for _, tip := range r.Tips {
		ranges = append(ranges, Range{b.Archive.Stop, &tip})
	}
	b.Restorable, b.lacks = &ranges, r.Lacks()
}

// warnings shows what an operator should act on. What retention has removed is not of it.
func (t *text) warnings(s Stanza) {
	for _, h := range s.Hole {
		if h.hole.Reason == repo.ReasonExpired {
			continue
		}
		t.add("    warning: %s on repo%d\n", h.hole.Text(t.zone), h.Database.RepoKey)
	}
	for _, w := range s.Warning {
		t.add("    warning: %s\n", strings.ReplaceAll(w, "\n", "\n             "))
	}
}

// restorable shows how far recovery from a backup gets, and what it stops at.
func (t *text) restorable(b Backup) {
	if b.Restorable == nil {
		return
	}
	t.add("            restorable: ")
	for i, r := range *b.Restorable {
		if i == 0 {
			t.add("to ")
		} else {
			t.add(", ")
		}
		t.add("%s", *r.Stop)
	}
	if len(*b.Restorable) == 0 {
		t.add("no")
	}
	t.add("; %s\n", b.lacks.Text(t.zone))
}
