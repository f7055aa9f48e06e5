package repo

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// span is a run of positions, both ends included.
type span struct{ first, last uint64 }

// loss is a span that was dropped.
type loss struct {
	span
	Dropped
}

// reach follows the WAL from the start of a backup through the timelines.
func (a *archived) reach(ctx context.Context, s start, drops []Drop) (Reach, error) {
	w := walk{archived: a, start: s, losses: a.losses(s, drops), reach: Reach{Label: s.label}}
	from := leg{timeline: s.first.Timeline, begin: a.position(s.first), need: a.position(s.last) + 1, open: true, branched: s.stop}
	if s.copied {
		from.begin = from.need
	}
	if s.stop == 0 { // a timeline that leaves in the last segment may do so before the end
		from.branched = postgres.LSN(from.need * uint64(a.size))
	}
	tip, err := w.follow(ctx, from)
	if !tip && s.copied {
		w.reach.Tips = append(w.reach.Tips, a.name(from.timeline, from.need-1))
	}
	slices.Sort(w.reach.Tips)
	slices.SortFunc(w.reach.Holes, func(a, b Hole) int { return strings.Compare(a.From, b.From) })
	return w.reach, err
}

// losses sorts what was dropped since a backup began by timeline and position; what touches
// is one. Earlier entries are about another cluster that had the name of the stanza.
func (a *archived) losses(s start, drops []Drop) map[postgres.Timeline][]loss {
	all := map[postgres.Timeline][]loss{}
	for _, d := range drops {
		from, err := postgres.ParseWALName(d.From)
		to, terr := postgres.ParseWALName(d.To)
		if err != nil || terr != nil || from.Kind != postgres.Segment || to.Kind != postgres.Segment ||
			from.Timeline != to.Timeline || d.At.Before(s.at) {
			continue
		}
		l := loss{span{a.position(from), a.position(to)}, Dropped{d.At, d.At, d.Limit}}
		if l.first <= l.last {
			all[from.Timeline] = append(all[from.Timeline], l)
		}
	}
	for t, list := range all {
		slices.SortStableFunc(list, func(a, b loss) int { return cmp.Compare(a.first, b.first) })
		merged := list[:1]
		for _, l := range list[1:] {
			into := &merged[len(merged)-1]
			if l.first > into.last+1 {
				merged = append(merged, l)
				continue
			}
			into.last = max(into.last, l.last)
			if l.First.Before(into.First) {
				into.First = l.First
			}
			if l.Last.After(into.Last) {
				into.Last, into.Limit = l.Last, l.Limit
			}
		}
		all[t] = merged
	}
	return all
}

// walk is the way from the start of one backup.
type walk struct {
	*archived
	start  start
	losses map[postgres.Timeline][]loss
	reach  Reach
}

// leg is the part of a way that is on one timeline.
type leg struct {
	timeline postgres.Timeline
	begin    uint64       // first segment
	need     uint64       // recovery must get here, not included, for the cluster to be consistent
	branched postgres.LSN // where the timeline begins: others leave it later
	open     bool         // recovery gets to begin
}

// follow finds what is missing on a leg and those that branch off from it, and how far
// recovery gets. It says whether that is any further than to where the leg begins.
func (w *walk) follow(ctx context.Context, l leg) (tip bool, err error) {
	var missing []span
	end := l.begin // what is before it is there, or else in missing
	for _, r := range w.runs[l.timeline] {
		if r.last < l.begin {
			continue
		}
		if r.first > end {
			missing = append(missing, span{end, r.first - 1})
		}
		end = r.last + 1
	}
	var branches []branch
	last := end
	for _, b := range w.branches[l.timeline] {
		if b.lsn >= l.branched && b.at >= l.begin {
			branches, last = append(branches, b), max(last, b.at)
		}
	}
	if last > end {
		missing = append(missing, span{end, last - 1})
	}
	whole := last // the first that is missing, or to come
	if len(missing) > 0 {
		whole = missing[0].first
	}
	if err := w.holes(ctx, l, missing, last); err != nil {
		return false, err
	}

	open := l.open && whole >= l.need
	tip = open && whole > l.begin
	further := false // recovery goes on from there on another timeline
	for _, b := range branches {
		got, err := w.follow(ctx, leg{timeline: b.timeline, begin: b.at, branched: b.lsn, open: open && whole >= b.at})
		if err != nil {
			return false, err
		}
		tip = tip || got
		further = further || got && b.at == whole
	}
	if open && whole > l.begin && !further {
		w.reach.Tips = append(w.reach.Tips, w.name(l.timeline, whole-1))
	}
	return tip, nil
}

// holes adds what counts of the missing spans, and what was dropped from end on, which
// nothing follows yet.
func (w *walk) holes(ctx context.Context, l leg, missing []span, end uint64) error {
	losses := w.losses[l.timeline]
	for _, m := range missing {
		at := m.first
		for _, d := range losses {
			if d.last < at || d.first > m.last {
				continue
			}
			if d.first > at {
				if err := w.unexplained(ctx, l.timeline, span{at, d.first - 1}); err != nil {
					return err
				}
			}
			last := min(d.last, m.last)
			w.hole(l.timeline, span{max(d.first, at), last}, &d.Dropped)
			at = last + 1
		}
		if at <= m.last {
			if err := w.unexplained(ctx, l.timeline, span{at, m.last}); err != nil {
				return err
			}
		}
	}
	for _, d := range losses {
		if d.last >= end {
			w.hole(l.timeline, span{max(d.first, end), d.last}, &d.Dropped)
		}
	}
	return nil
}

// unexplained adds a hole, if it is not merely late.
func (w *walk) unexplained(ctx context.Context, t postgres.Timeline, s span) error {
	settled, err := w.settled(ctx, t)
	if err == nil && settled > s.last {
		w.hole(t, s, nil)
	}
	return err
}

func (w *walk) hole(t postgres.Timeline, s span, why *Dropped) {
	if why != nil {
		d := *why
		why = &d
	}
	w.reach.Holes = append(w.reach.Holes, Hole{
		From: w.name(t, s.first), To: w.name(t, s.last), Segments: int64(s.last - s.first + 1), Dropped: why,
	})
}
