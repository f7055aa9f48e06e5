package expire

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Archive is what has to be known of an archive to decide about WAL.
type Archive interface {
	ArchiveInfo(ctx context.Context) (*info.Archive, error)

	// HasArchive says whether a directory is there, Contents what is directly in it:
	// the directories of segments, sorted, and the timelines that have a history file.
	HasArchive(ctx context.Context, id format.ArchiveID) (bool, error)
	Contents(ctx context.Context, id format.ArchiveID) (dirs []string, histories []postgres.Timeline, err error)

	// WALNames gives what is in a directory of segments, sorted. Each name begins with a segment's.
	WALNames(ctx context.Context, id format.ArchiveID, dir string) ([]string, error)

	// ArchivePath names a directory for messages.
	ArchivePath(id format.ArchiveID) string
}

// span is a run of segments that stays. It has no end if last is empty.
type span struct{ first, last string }

// spans are what stays, by the segments they begin with.
type spans struct{ firsts, lasts []string }

// newSpans puts spans in order. Behind each first is the last segment that this or any before has.
func newSpans(kept []span) (all spans) {
	slices.SortFunc(kept, func(a, b span) int { return strings.Compare(a.first, b.first) })
	last := "0"
	for _, s := range kept {
		switch {
		case s.last == "" || last == "":
			last = ""
		default:
			last = max(last, s.last)
		}
		all.firsts, all.lasts = append(all.firsts, s.first), append(all.lasts, last)
	}
	return all
}

// holds says whether the segment of that name is in one, or could be, if name is only the first
// digits. Names are compared as text, as pgBackRest does: to a span without end all higher
// timelines belong.
func (a spans) holds(name string) bool {
	behind := sort.Search(len(a.firsts), func(i int) bool { return a.firsts[i][:len(name)] > name })
	if behind == 0 {
		return false
	}
	last := a.lasts[behind-1]
	return last == "" || name <= last[:len(name)]
}

// digits in the name of a segment, and in that of the directory it is in.
const (
	segmentDigits = 24
	dirDigits     = 16
)

// WAL decides which WAL is to go: what neither makes a listed backup consistent nor follows
// the oldest backup from which on retention keeps all. before, if not empty, is a segment
// from which on nothing goes that retention would let go.
func WAL(ctx context.Context, r Rules, list *info.Backup, before string, archive Archive) ([]Step, error) {
	p := &walPlanner{planner: planner{Rules: r, left: list.Entries()}, before: before, archive: archive}
	keep := r.Keep
	if keep.Archive == 0 {
		if keep.FullByTime {
			p.add(say(slog.LevelInfo, "%s: time-based archive retention not met - archive logs will not be expired", p.Name))
		} else {
			p.add(say(slog.LevelInfo, "option '%s' is not set - archive logs will not be expired", p.option("archive")))
		}
		return p.steps, nil
	}
	n := len(keep.candidates(p.left))
	if before == "" && !keep.met(n) {
		p.add(because("no WAL goes: %s=%d asks for as many backups (%s=%s) before any does, and there are %d",
			p.option("archive"), keep.Archive, p.option("archive-type"), keep.ArchiveType, n))
		return p.steps, nil
	}
	own, err := archive.ArchiveInfo(ctx)
	if err != nil {
		return nil, err
	}
	if !sameHistory(own.History(), list.History()) {
		return nil, errs.New(errs.Format, "archive expiration cannot continue - archive and backup history lists do not match")
	}
	for _, cluster := range own.History() {
		if err := p.expire(ctx, cluster, cluster.ID == own.Current().ID); err != nil {
			return nil, err
		}
	}
	return p.steps, nil
}

// sameHistory says whether the clusters that the archive knows are the newest that the list of
// backups knows. That may know older ones: archive.info can have been made anew.
func sameHistory(archive, backup []format.Cluster) bool {
	if len(archive) > len(backup) {
		return false
	}
	backup = backup[len(backup)-len(archive):]
	return slices.EqualFunc(archive, backup, func(a, b format.Cluster) bool {
		return a.ID == b.ID && a.SystemID == b.SystemID && a.Version == b.Version
	})
}

// walPlanner collects steps about WAL.
type walPlanner struct {
	planner
	before  string
	archive Archive
}

// expire decides about the directory of one cluster.
func (p *walPlanner) expire(ctx context.Context, cluster format.Cluster, current bool) error {
	id := format.ArchiveID{Version: cluster.Version, ID: cluster.ID}
	if there, err := p.archive.HasArchive(ctx, id); err != nil || !there {
		return err
	}
	own := slices.DeleteFunc(slices.Clone(p.left), func(b info.BackupEntry) bool { return b.ClusterID != cluster.ID })
	from, counted, found := p.Keep.whole(p.left, cluster.ID)
	if !found {
		switch {
		case !current:
			s := say(slog.LevelInfo, "%s: remove archive path %s", p.Name, p.archive.ArchivePath(id))
			s.Op, s.ID = RemoveArchive, id
			s.Why = fmt.Sprintf("%s is of a cluster that the stanza belongs to no more, and no backup of it is left", id)
			p.add(s)
		case p.before != "":
			p.add(because("%s: WAL from %s on stays (--archive-expire-before), and there is no backup", id, p.before))
			return p.ranges(ctx, id, []span{{first: p.before}}, "")
		default:
			p.add(because("%s: no WAL goes: there is no backup that it could follow, and it is where WAL arrives", id))
		}
		return nil
	}

	why := fmt.Sprintf("%s=%d, %s=%s", p.option("archive"), p.Keep.Archive, p.option("archive-type"), p.Keep.ArchiveType)
	if !counted {
		why = "the newest of this cluster"
	}
	if from.ArchiveStart == "" {
		p.add(because("%s: no WAL goes: backup %s, from which on all of it is kept (%s), was made offline", id, from.Label, why))
		return nil
	}

	var kept []span
	for _, b := range own {
		if b.Label > from.Label || b.ArchiveStart == "" {
			continue
		}
		s, text := span{first: b.ArchiveStart}, ""
		reason := fmt.Sprintf("%s: recovery can go on from backup %s to any later moment (%s)", id, b.Label, why)
		if b.Label != from.Label {
			s.last, text = b.ArchiveStop, ", stop = "+b.ArchiveStop
			reason = fmt.Sprintf("%s: backup %s is not consistent without this WAL", id, b.Label)
		}
		if err := s.check(b.Label); err != nil {
			return err
		}
		if b.Label != from.Label && s.last == "" {
			return errs.New(errs.Format, "backup '%s' does not name the last WAL segment that it needs", b.Label)
		}
		step := say(logging.LevelDetail, "%s: %s archive retention on backup %s, start = %s%s", p.Name, id, b.Label, s.first, text)
		step.Why = reason
		p.add(step)
		kept = append(kept, s)
	}
	if p.before != "" && p.before < from.ArchiveStart {
		kept = append(kept, span{p.before, from.ArchiveStart})
		p.add(because("%s: WAL from %s on stays (--archive-expire-before)", id, p.before))
	}
	if err := p.ranges(ctx, id, kept, from.ArchiveStart); err != nil {
		return err
	}
	return p.timelines(ctx, id, from)
}

// check makes sure that what a backup says of its WAL is about WAL: nothing is deleted by what
// cannot be.
func (s span) check(label format.Label) error {
	for _, name := range []string{s.first, cmp.Or(s.last, s.first)} {
		if w, err := postgres.ParseWALName(name); err != nil || w.Kind != postgres.Segment {
			return errs.New(errs.Format, "backup '%s' names '%s' as a WAL segment that it needs", label, name)
		}
	}
	return nil
}

// ranges decides about what is outside of the spans that are kept. Behind the segment last
// everything stays, if it is not empty.
func (p *walPlanner) ranges(ctx context.Context, id format.ArchiveID, kept []span, last string) error {
	dirs, _, err := p.archive.Contents(ctx, id)
	if err != nil {
		return err
	}
	keeps := newSpans(kept).holds
	gone, begun, end := false, "", ""
	ended := func() {
		if begun != "" {
			s := say(slog.LevelInfo, "%s: %s remove archive, start = %s, stop = %s", p.Name, id, begun, end)
			s.Why = "no backup needs it, and none from which on all WAL is kept comes before it"
			p.add(s)
		}
		begun = ""
	}
	goes := func(name string) {
		gone, end = true, name
		if begun == "" {
			begun = name
		}
	}
	for _, dir := range dirs {
		if !keeps(dir) {
			s := say(logging.LevelDetail, "%s: %s remove archive path %s", p.Name, id, dir)
			s.Op, s.ID, s.Dir = RemoveWAL, id, dir
			p.add(s)
			goes(dir)
			continue
		}
		if last != "" && dir > last[:dirDigits] {
			continue
		}
		names, err := p.archive.WALNames(ctx, id, dir)
		if err != nil {
			return err
		}
		s := Step{Op: RemoveWAL, ID: id, Dir: dir}
		for _, name := range names {
			if segment := name[:segmentDigits]; keeps(segment) {
				ended()
			} else {
				s.Names = append(s.Names, name)
				goes(segment)
			}
		}
		if len(s.Names) > 0 {
			p.add(s)
		}
	}
	if !gone {
		p.add(say(slog.LevelInfo, "%s: %s no archive to remove", p.Name, id))
	}
	ended()
	return nil
}

// timelines decides about history files: those of timelines before that of the backup from which
// on all WAL is kept go.
func (p *walPlanner) timelines(ctx context.Context, id format.ArchiveID, from info.BackupEntry) error {
	_, histories, err := p.archive.Contents(ctx, id)
	if err != nil {
		return err
	}
	for _, t := range histories {
		if t.String() < from.ArchiveStart[:len(t.String())] {
			s := say(slog.LevelInfo, "%s: %s remove history file %s.history", p.Name, id, t)
			s.Op, s.ID, s.Timeline = RemoveTimeline, id, t
			s.Why = fmt.Sprintf("backup %s, from which on all WAL is kept, is on a later timeline", from.Label)
			p.add(s)
		}
	}
	return nil
}
