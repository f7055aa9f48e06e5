package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
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

	way *way // what is missing
}

// Lacks gives the first hole in the WAL that follows the start of the backup, nil where there is
// none.
func (r Reach) Lacks() *Hole { return r.way.lacks }

// Holes gives all that is missing of that WAL, sorted. Of many backups it can be many times the
// same: see Missing.
func (r Reach) Holes() []Hole {
	holes := r.way.all(nil)
	slices.SortFunc(holes, func(a, b Hole) int { return strings.Compare(a.From, b.From) })
	return holes
}

// Hole is a run of consecutive segments that recovery needs and the archive does not have.
type Hole struct {
	From, To string // first and last segment
	Segments int64  // how many
	Reason   Reason
	Dropped  *Dropped // with ReasonDropped
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
	switch d := h.Dropped; h.Reason {
	case ReasonExpired:
		return what + " was removed by retention"
	case ReasonExpiredOrLost:
		why = "removed by retention, or lost"
	case ReasonDropped:
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

// Reaches says how far recovery from each of the backups gets. All are of the cluster that
// archives to the directory id: all that are listed, since what lies between them may have
// expired; those made offline have no WAL and are left out. now is the time.
//
// A segment counts as missing when something later is in the archive, on its timeline
// or on one that branches off behind it, and has been there for a while; or when it is known
// to have been dropped. What the end of the archive lacks is merely to come. Only names are
// read, of the directories that can hold WAL of the backups.
func (r *Repo) Reaches(ctx context.Context, id format.ArchiveID, backups []info.BackupEntry, known Known, now time.Time) ([]Reach, error) {
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
	a.before, a.stretches = now.Add(-late), a.emptied(starts, known.Thinned)
	courses := a.courses(known.Drops)
	all := make([]Reach, 0, len(starts))
	for _, s := range starts {
		reach, err := courses.of(s).reach(ctx, s)
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
	repo      *Repo
	size      int64 // of a segment, bytes
	runs      map[postgres.Timeline][]run
	timelines []postgres.Timeline            // that have runs, sorted
	branches  map[postgres.Timeline][]branch // that leave the timeline
	stretches []stretch                      // that have nothing
	before    time.Time                      // what arrived later may have overtaken others
	old       map[postgres.Timeline]uint64   // what arrived last on the timeline before that time
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
	// The directories are sorted by timeline, and here the backups are.
	waiting := slices.SortedFunc(slices.Values(starts), func(a, b start) int { return cmp.Compare(a.first.Timeline, b.first.Timeline) })
	earliest, from := waiting[0].first.Timeline, uint32(math.MaxUint32)
	for _, d := range dirs {
		w, err := postgres.ParseWALName(path.Base(d) + "00000000")
		if err != nil {
			continue
		}
		// A timeline descends from earlier ones, and its WAL follows theirs.
		for len(waiting) > 0 && waiting[0].first.Timeline <= w.Timeline {
			from, waiting = min(from, waiting[0].first.Log), waiting[1:]
		}
		if w.Timeline < earliest || w.Log < from {
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
	a.timelines = slices.Sorted(maps.Keys(a.runs))
	if a.size == 0 {
		a.size = 16 << 20 // PostgreSQL's default; there is no WAL
	}
	const most = 10_000 // each that is followed needs some stack
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
			if known[t] || e.Timeline >= t { // a parent is older than its child
				break
			}
			known[t] = true
			if len(known) > most {
				return nil, errs.New(errs.Format, "'%s' has more than %d timelines", r.storage.Path(format.ArchiveIDDir(r.stanza, id)), most)
			}
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
