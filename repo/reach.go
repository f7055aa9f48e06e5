package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// late is how long what follows a gap has to be in the archive before the gap counts.
// Segments are pushed side by side and arrive in any order, and archive-timeout gives up on
// one after a minute.
const late = 2 * time.Minute

// Drop is a run of consecutive WAL files of which the PostgreSQL host knows that they were
// acknowledged without being stored.
type Drop struct {
	From, To     string
	At           time.Time
	Queue, Limit int64 // bytes that waited, and that may
}

// Reach says how far recovery from a backup gets with what the archive has.
type Reach struct {
	Label format.Label

	// Tips are the last segments that it gets to: one for each way through the timelines
	// that recovery can choose. There is none where WAL is missing that makes
	// the backup consistent.
	Tips []string

	// Holes are what is missing of the WAL that follows the start of the backup, sorted.
	Holes []Hole
}

// Hole is a run of consecutive segments that recovery needs and the archive does not have.
type Hole struct {
	From, To string   // first and last segment
	Segments int64    // how many
	Dropped  *Dropped // why; nil where it is not known
}

// Dropped says when segments were dropped, and the limit that the queue had exceeded.
type Dropped struct {
	First, Last time.Time
	Limit       int64 // bytes
}

// Text says what is missing and why, with times in zone.
func (h Hole) Text(zone *time.Location) string {
	what, why := "WAL "+h.From, "not archived yet, or lost"
	if h.To != h.From {
		what += " to " + h.To
	}
	if d := h.Dropped; d != nil {
		why = "dropped " + logging.Time(d.First.In(zone))
		if !d.Last.Equal(d.First) {
			why += " to " + logging.Time(d.Last.In(zone))
		}
		why += ": archive queue exceeded " + logging.Size(d.Limit)
	}
	return fmt.Sprintf("%s is missing (%s)", what, why)
}

// Covers says whether o is all or a part of what is missing.
func (h Hole) Covers(o Hole) bool { return h.From <= o.From && o.To <= h.To }

// Holes gives the holes of several backups, each once.
func Holes(all []Reach) []Hole {
	var holes []Hole
	for _, r := range all {
		holes = append(holes, r.Holes...)
	}
	// The range of a backup may begin within a hole: then it has a part of it only.
	slices.SortStableFunc(holes, func(a, b Hole) int {
		return cmp.Or(strings.Compare(a.From, b.From), -strings.Compare(a.To, b.To))
	})
	covered := ""
	return slices.DeleteFunc(holes, func(h Hole) bool {
		if h.To <= covered {
			return true
		}
		covered = h.To
		return false
	})
}

// Reaches says how far recovery from each of the backups gets. All are of the cluster that
// archives to the directory id; those made offline have no WAL and are left out. drops is
// what is known to have been dropped, now the time.
//
// A segment counts as missing when something later is in the archive, on its timeline
// or on one that branches off behind it, and has been there for a while; or when it is known
// to have been dropped. What the end of the archive lacks is merely to come. Only names are
// read, of the directories that can hold WAL of the backups.
func (r *Repo) Reaches(ctx context.Context, id format.ArchiveID, backups []info.BackupEntry, drops []Drop, now time.Time) ([]Reach, error) {
	var starts []start
	for _, b := range backups {
		if b.ArchiveStart == "" || b.ArchiveStop == "" {
			continue
		}
		s, err := startOf(b)
		if err != nil {
			return nil, errs.Wrap(err, "backup '%s'", b.Label)
		}
		starts = append(starts, s)
	}
	if len(starts) == 0 {
		return nil, nil
	}
	a, err := r.survey(ctx, id, starts)
	if err != nil {
		return nil, err
	}
	a.before = now.Add(-late)
	var all []Reach
	for _, s := range starts {
		reach, err := a.reach(ctx, s, drops)
		if err != nil {
			return nil, err
		}
		all = append(all, reach)
	}
	return all, nil
}

// start is where recovery from a backup begins.
type start struct {
	label       format.Label
	first, last postgres.WALName // which make the backup consistent
	stop        postgres.LSN     // 0 where it is not known
	copied      bool             // the backup has them itself
	at          time.Time
	size        int64 // of segments; 0 where the backup does not say it
}

func startOf(b info.BackupEntry) (s start, err error) {
	s = start{label: b.Label, copied: b.ArchiveCopy, at: time.Unix(b.Start, 0)}
	if s.first, err = postgres.ParseWALName(b.ArchiveStart); err != nil {
		return s, err
	}
	if s.last, err = postgres.ParseWALName(b.ArchiveStop); err != nil {
		return s, err
	}
	// Neither is known before 2.38.
	if b.LSNStart != "" {
		begin, err := postgres.ParseLSN(b.LSNStart)
		if err != nil {
			return s, err
		}
		s.size = s.first.SegmentSize(begin)
	}
	if b.LSNStop != "" {
		s.stop, err = postgres.ParseLSN(b.LSNStop)
	}
	return s, err
}

// archived is the WAL of a cluster as far as it can follow some backups. A segment is known
// by its position: how many come before it from LSN 0 on.
type archived struct {
	repo     *Repo
	size     int64 // of a segment, bytes
	runs     map[postgres.Timeline][]run
	branches map[postgres.Timeline][]branch // that leave the timeline
	before   time.Time                      // what arrived later may have overtaken others
	old      map[postgres.Timeline]uint64   // what arrived last on the timeline before that time
}

// run is a run of consecutive segments.
type run struct {
	first, last uint64
	object      string // of the first
}

// branch is a timeline that begins on another.
type branch struct {
	timeline postgres.Timeline
	lsn      postgres.LSN
	at       uint64 // its first segment, that holds lsn
	object   string // the history that tells so
}

// survey lists the WAL that can follow the backups.
func (r *Repo) survey(ctx context.Context, id format.ArchiveID, starts []start) (*archived, error) {
	a := &archived{repo: r, runs: map[postgres.Timeline][]run{}, branches: map[postgres.Timeline][]branch{}, old: map[postgres.Timeline]uint64{}}
	for _, s := range starts {
		a.size = max(a.size, s.size)
	}
	dirs, histories, err := r.top(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		w, err := postgres.ParseWALName(path.Base(d) + "00000000")
		// A timeline descends from earlier ones, and its WAL follows theirs.
		if err != nil || !slices.ContainsFunc(starts, func(s start) bool {
			return s.first.Timeline <= w.Timeline && s.first.Log <= w.Log
		}) {
			continue
		}
		files, err := r.segments(ctx, id, d)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := a.add(ctx, f); err != nil {
				return nil, err
			}
		}
	}
	if a.size == 0 {
		a.size = 16 << 20 // PostgreSQL's default; there is no WAL
	}
	earliest := slices.MinFunc(starts, func(a, b start) int { return cmp.Compare(a.first.Timeline, b.first.Timeline) }).first.Timeline
	known := map[postgres.Timeline]bool{}
	for _, t := range slices.Backward(histories) {
		if t <= earliest || known[t] { // a history tells those of its ancestors, too
			continue
		}
		entries, err := r.History(ctx, id, t)
		if err != nil {
			return nil, err
		}
		object := format.ArchivePath(r.stanza, id, t.String()+".history")
		for _, e := range slices.Backward(entries) {
			if known[t] {
				break
			}
			known[t] = true
			a.branches[e.Timeline] = append(a.branches[e.Timeline], branch{t, e.Switch, uint64(e.Switch) / uint64(a.size), object})
			t = e.Timeline
		}
	}
	return a, nil
}

// add takes the next segment, in the order of names.
func (a *archived) add(ctx context.Context, f WALFile) error {
	w, err := postgres.ParseWALName(f.Request)
	if err != nil {
		return nil // no segment of PostgreSQL's
	}
	if a.size == 0 {
		if a.size, err = a.repo.segmentSize(ctx, f); err != nil {
			return err
		}
	}
	at, runs := a.position(w), a.runs[w.Timeline]
	if n := len(runs); n > 0 && at <= runs[n-1].last+1 {
		runs[n-1].last = max(runs[n-1].last, at)
		return nil
	}
	a.runs[w.Timeline] = append(runs, run{at, at, f.Object})
	return nil
}

// segmentSize asks a segment how large those of its cluster are.
func (r *Repo) segmentSize(ctx context.Context, f WALFile) (int64, error) {
	in, err := r.OpenWAL(ctx, f, -1)
	if err != nil {
		return 0, err
	}
	var b [postgres.WALHeaderSize]byte
	_, err = io.ReadFull(in, b[:])
	if err := errors.Join(err, in.Close()); err != nil {
		return 0, errs.WrapAs(errs.Format, err, "unable to read the header of '%s'", r.storage.Path(f.Object))
	}
	h, err := postgres.ParseWALHeader(b[:])
	return h.SegmentSize, errs.Wrap(err, "'%s'", r.storage.Path(f.Object))
}

func (a *archived) position(w postgres.WALName) uint64 {
	return uint64(w.Start(a.size)) / uint64(a.size)
}

func (a *archived) name(t postgres.Timeline, at uint64) string {
	return postgres.SegmentName(t, postgres.LSN(at*uint64(a.size)), a.size)
}

// settled gives the position of the last thing on a timeline, segment or branch, that follows
// a gap and has been there for long enough: what is missing before it is not merely late.
func (a *archived) settled(ctx context.Context, t postgres.Timeline) (uint64, error) {
	if at, known := a.old[t]; known {
		return at, nil
	}
	objects := map[uint64]string{}
	for _, r := range a.runs[t] {
		objects[r.first] = r.object
	}
	for _, b := range a.branches[t] {
		objects[b.at] = b.object
	}
	a.old[t] = 0
	positions := slices.Sorted(maps.Keys(objects))
	for _, at := range slices.Backward(positions) {
		o, err := a.repo.storage.Stat(ctx, objects[at])
		if errors.Is(err, fs.ErrNotExist) {
			continue // expired meanwhile
		}
		if err != nil {
			return 0, err
		}
		if o.ModTime.Before(a.before) {
			a.old[t] = at
			break
		}
	}
	return a.old[t], nil
}
