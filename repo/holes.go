package repo

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// span is a run of positions, both ends included.
type span struct{ first, last uint64 }

// loss is a span that was dropped.
type loss struct {
	span
	Dropped
}

// An archive can have as many gaps as there are backups, and each backup lacks all that come
// after it. So what is missing on a timeline is found once, and shared by all that get there.

// courses are what recovery can follow, by how many drops came before the backup: those
// are about another cluster that had the name of the stanza.
type courses struct {
	*archived
	drops []dropped
	times []time.Time // of the drops, sorted
	known map[int]*course
}

// dropped is a Drop with its position.
type dropped struct {
	timeline postgres.Timeline
	loss
}

func (a *archived) courses(drops []Drop) *courses {
	c := &courses{archived: a, known: map[int]*course{}}
	for _, d := range drops {
		from, err := postgres.ParseWALName(d.From)
		to, terr := postgres.ParseWALName(d.To)
		if err != nil || terr != nil || from.Kind != postgres.Segment || to.Kind != postgres.Segment || from.Timeline != to.Timeline {
			continue
		}
		if s := (span{a.position(from), a.position(to)}); s.first <= s.last {
			c.drops = append(c.drops, dropped{from.Timeline, loss{s, Dropped{d.At, d.At, d.Limit}}})
			c.times = append(c.times, d.At)
		}
	}
	slices.SortFunc(c.times, time.Time.Compare)
	return c
}

// of gives the course of a backup.
func (c *courses) of(s start) *course {
	before, _ := slices.BinarySearchFunc(c.times, s.at, time.Time.Compare)
	if c.known[before] == nil {
		c.known[before] = &course{
			archived: c.archived, losses: c.losses(s.at), lines: map[postgres.Timeline]*line{}, ways: map[turn]*way{},
		}
	}
	return c.known[before]
}

// losses sorts what was dropped since a time by timeline and position; what touches is one.
func (c *courses) losses(since time.Time) map[postgres.Timeline][]loss {
	all := map[postgres.Timeline][]loss{}
	for _, d := range c.drops {
		if !d.First.Before(since) {
			all[d.timeline] = append(all[d.timeline], d.loss)
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

// course is what recovery can follow from backups for which the same was dropped.
type course struct {
	*archived
	losses map[postgres.Timeline][]loss
	lines  map[postgres.Timeline]*line
	ways   map[turn]*way // that begin with a turn
}

// turn is where a timeline begins, and whether recovery gets there.
type turn struct {
	timeline postgres.Timeline
	open     bool
}

// line is what is missing on a timeline behind its first segment in the archive.
type line struct {
	holes []missing
	end   uint64 // behind the last segment, and the last that another timeline begins in
}

// missing is a hole with the position of its first segment.
type missing struct {
	Hole
	at uint64
}

// way is what follows on a timeline and on those that branch off.
type way struct {
	timeline postgres.Timeline

	own   []missing // before what it shares
	line  *line     // nil if it shares nothing
	from  int       // the first hole of the line that it has
	below []*way
	lacks *Hole // the first hole of all

	tip  bool // recovery gets further than to where it begins
	tips []string
}

// all appends the holes of a way.
func (w *way) all(holes []Hole) []Hole {
	for _, m := range w.own {
		holes = append(holes, m.Hole)
	}
	for _, m := range w.shared() {
		holes = append(holes, m.Hole)
	}
	for _, b := range w.below {
		holes = b.all(holes)
	}
	return holes
}

func (w *way) shared() []missing {
	if w.line == nil {
		return nil
	}
	return w.line.holes[w.from:]
}

// reach follows the WAL from the start of one backup through the timelines.
func (c *course) reach(ctx context.Context, s start) (Reach, error) {
	from := leg{timeline: s.first.Timeline, begin: c.position(s.first), need: c.position(s.last) + 1, open: true, branched: s.stop}
	if s.copied {
		from.begin = from.need
	}
	if s.stop == 0 { // a timeline that leaves in the last segment may do so before the end
		from.branched = postgres.LSN(from.need * uint64(c.size))
	}
	w, err := c.follow(ctx, from)
	if err != nil {
		return Reach{}, err
	}
	r := Reach{Label: s.label, Tips: slices.Clone(w.tips), way: w}
	if !w.tip && s.copied {
		r.Tips = append(r.Tips, c.name(from.timeline, from.need-1))
	}
	slices.Sort(r.Tips)
	return r, nil
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
// recovery gets.
func (c *course) follow(ctx context.Context, l leg) (*way, error) {
	runs := c.runs[l.timeline]
	next := sort.Search(len(runs), func(i int) bool { return runs[i].last >= l.begin })
	end, whole := l.begin, l.begin // whole is the first that is missing, or to come
	if next < len(runs) {
		end = runs[len(runs)-1].last + 1
		if runs[next].first <= l.begin {
			whole = runs[next].last + 1
		}
	}
	var branches []branch
	for _, b := range c.branches[l.timeline] {
		if b.lsn >= l.branched && b.at >= l.begin {
			branches, end = append(branches, b), max(end, b.at)
		}
	}
	w, err := c.lacks(ctx, l, next, end)
	if err != nil {
		return nil, err
	}
	open := l.open && whole >= l.need
	w.tip = open && whole > l.begin
	further := false // recovery goes on from there on another timeline
	for _, b := range branches {
		below, err := c.branch(ctx, b, open && whole >= b.at)
		if err != nil {
			return nil, err
		}
		w.below = append(w.below, below)
		w.tips = append(w.tips, below.tips...)
		w.tip = w.tip || below.tip
		further = further || below.tip && b.at == whole
	}
	if open && whole > l.begin && !further {
		w.tips = append(w.tips, c.name(l.timeline, whole-1))
	}
	for _, b := range w.below {
		if b.lacks != nil && (w.lacks == nil || b.lacks.From < w.lacks.From) {
			w.lacks = b.lacks
		}
	}
	return w, nil
}

// branch is follow for a timeline from its beginning.
func (c *course) branch(ctx context.Context, b branch, open bool) (*way, error) {
	t := turn{b.timeline, open}
	if w := c.ways[t]; w != nil {
		return w, nil
	}
	w, err := c.follow(ctx, leg{timeline: b.timeline, begin: b.at, branched: b.lsn, open: open})
	c.ways[t] = w
	return w, err
}

// lacks begins the way of a leg with what is missing on it, before end. The run next is the first
// that has anything of it.
func (c *course) lacks(ctx context.Context, l leg, next int, end uint64) (*way, error) {
	w, runs := &way{timeline: l.timeline}, c.runs[l.timeline]
	full, err := c.line(ctx, l.timeline)
	if err != nil {
		return nil, err
	}
	at := l.begin
	// A timeline may leave before the backup is consistent: the end is another then.
	if next < len(runs) && full.end == end {
		w.line = full
		w.from = sort.Search(len(full.holes), func(i int) bool { return full.holes[i].at > runs[next].last })
		if at < runs[next].first {
			w.own, err = c.gap(ctx, nil, l.timeline, span{at, runs[next].first - 1})
		}
	} else {
		w.own, err = c.gaps(ctx, l.timeline, at, runs[next:], end)
	}
	if len(w.own) > 0 {
		w.lacks = &w.own[0].Hole
	} else if shared := w.shared(); len(shared) > 0 {
		w.lacks = &shared[0].Hole
	}
	return w, err
}

// line gives what is missing on a timeline.
func (c *course) line(ctx context.Context, t postgres.Timeline) (*line, error) {
	if c.lines[t] != nil {
		return c.lines[t], nil
	}
	l, runs := &line{}, c.runs[t]
	if len(runs) > 0 {
		l.end = runs[len(runs)-1].last + 1
		for _, b := range c.branches[t] {
			l.end = max(l.end, b.at)
		}
		var err error
		if l.holes, err = c.gaps(ctx, t, runs[0].first, runs, l.end); err != nil {
			return nil, err
		}
	}
	c.lines[t] = l
	return l, nil
}

// gaps gives the holes between at and end where the runs are not, and what was dropped from end on,
// which nothing follows yet.
func (c *course) gaps(ctx context.Context, t postgres.Timeline, at uint64, runs []run, end uint64) (holes []missing, err error) {
	for _, r := range runs {
		if r.first > at {
			if holes, err = c.gap(ctx, holes, t, span{at, r.first - 1}); err != nil {
				return nil, err
			}
		}
		at = r.last + 1
	}
	if end > at {
		if holes, err = c.gap(ctx, holes, t, span{at, end - 1}); err != nil {
			return nil, err
		}
	}
	for _, d := range c.losses[t] {
		if d.last >= end {
			holes = c.dropped(holes, t, span{max(d.first, end), d.last}, d.Dropped)
		}
	}
	return holes, nil
}

// gap adds the holes of a span that is missing.
func (c *course) gap(ctx context.Context, holes []missing, t postgres.Timeline, s span) (_ []missing, err error) {
	losses := c.losses[t] // apart from one another
	first := sort.Search(len(losses), func(i int) bool { return losses[i].last >= s.first })
	for _, d := range losses[first:] {
		if d.first > s.last {
			break
		}
		if d.first > s.first {
			if holes, err = c.unexplained(ctx, holes, t, span{s.first, d.first - 1}); err != nil {
				return nil, err
			}
		}
		last := min(d.last, s.last)
		holes = c.dropped(holes, t, span{max(d.first, s.first), last}, d.Dropped)
		s.first = last + 1
	}
	if s.first <= s.last {
		return c.unexplained(ctx, holes, t, s)
	}
	return holes, nil
}

// unexplained adds the holes of a span that was not dropped, if it is not merely late.
func (c *course) unexplained(ctx context.Context, holes []missing, t postgres.Timeline, s span) ([]missing, error) {
	settled, err := c.settled(ctx, t)
	if err != nil || settled <= s.last {
		return holes, err
	}
	at := s.first
	first := sort.Search(len(c.stretches), func(i int) bool { return c.stretches[i].before.compare(place{t, s.first}) > 0 })
	for _, e := range c.stretches[first:] {
		if e.after.compare(place{t, s.last}) >= 0 {
			break
		}
		part := e.on(t)
		part.first, part.last = max(part.first, at), min(part.last, s.last)
		if part.first > part.last {
			continue
		}
		if part.first > at {
			holes = c.hole(holes, t, span{at, part.first - 1}, ReasonUnknown)
		}
		holes = c.hole(holes, t, part, e.reason)
		at = part.last + 1
	}
	if at <= s.last {
		holes = c.hole(holes, t, span{at, s.last}, ReasonUnknown)
	}
	return holes, nil
}

func (c *course) dropped(holes []missing, t postgres.Timeline, s span, d Dropped) []missing {
	holes = c.hole(holes, t, s, ReasonDropped)
	holes[len(holes)-1].Dropped = &d
	return holes
}

func (c *course) hole(holes []missing, t postgres.Timeline, s span, why Reason) []missing {
	h := Hole{From: c.name(t, s.first), To: c.name(t, s.last), Segments: int64(s.last - s.first + 1), Reason: why}
	return append(holes, missing{h, s.first})
}
