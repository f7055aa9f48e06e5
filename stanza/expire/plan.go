package expire

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Op is what a Step does.
type Op int

// What a step can do, and which fields of Step say to what.
const (
	Say               Op = iota // nothing
	Unlist                      // takes Labels off the list of backups
	RemoveBackup                // the directory of Label
	RemoveWAL                   // Names in the directory Dir of ID, or with no Names all of it
	RemoveTimeline              // the history file of Timeline in ID
	RemoveArchive               // the whole directory ID
	RemoveHistory               // the manifest of Label in the history
	RemoveHistoryYear           // the manifests of the year Dir in the history
)

// deletes says whether the repository is changed.
func (o Op) deletes() bool { return o > Unlist }

// Step is one thing to do, with what is said about it.
type Step struct {
	Op       Op
	Labels   []format.Label // oldest first
	Label    format.Label
	ID       format.ArchiveID
	Dir      string
	Names    []string
	Timeline postgres.Timeline

	Level slog.Level
	Text  string // in pgBackRest's words; empty for none
	Why   string // the reason, beginning with a small letter; empty where Text says it
}

// Rules are what decides about a repository.
type Rules struct {
	Name string // "repo1"
	Keep Retention
}

// option gives the name of an option of the repository: "repo1-retention-full".
func (r Rules) option(name string) string { return r.Name + "-retention-" + name }

// say is a line for the log.
func say(level slog.Level, format string, args ...any) Step {
	return Step{Level: level, Text: fmt.Sprintf(format, args...)}
}

// because is a reason for which nothing is done.
func because(format string, args ...any) Step { return Step{Why: fmt.Sprintf(format, args...)} }

// Asked is what was asked for on the command line.
type Asked struct {
	Set    format.Label // a backup to be removed, whatever retention says; empty for none
	Oldest bool         // the oldest full backup is to be removed
}

// backups are those listed, oldest first.
type backups []info.BackupEntry

// of gives the labels of some types.
func (b backups) of(types ...format.BackupType) []format.Label {
	var labels []format.Label
	for _, e := range b {
		if slices.Contains(types, e.Label.Type()) {
			labels = append(labels, e.Label)
		}
	}
	return labels
}

func (b backups) find(label format.Label) (info.BackupEntry, bool) {
	i := slices.IndexFunc(b, func(e info.BackupEntry) bool { return e.Label == label })
	if i < 0 {
		return info.BackupEntry{}, false
	}
	return b[i], true
}

// without gives those that are not gone.
func (b backups) without(gone map[format.Label]bool) backups {
	return slices.DeleteFunc(slices.Clone(b), func(e info.BackupEntry) bool { return gone[e.Label] })
}

// Backups decides which of the backups listed are to go: the one that was asked for with all
// that depend on it, or what retention does not keep. Keep is the retention that holds for WAL
// then: time decides here how many backups that of WAL counts, and what was asked for
// can change it for this run.
//
// That the last full backup of a cluster would go is an error.
func Backups(r Rules, listed []info.BackupEntry, asked Asked, now time.Time) (keep Retention, steps []Step, err error) {
	p := &planner{Rules: r, left: listed, gone: map[format.Label]bool{}, based: map[format.Label][]format.Label{}}
	for _, e := range listed {
		if e.Prior != "" && e.Label > e.Prior { // a prior comes before what is based on it
			p.based[e.Prior] = append(p.based[e.Prior], e.Label)
		}
	}
	switch {
	case asked.Set != "":
		err = p.adhoc(asked.Set)
	default:
		if asked.Oldest {
			p.oldest()
		}
		if p.Keep.FullByTime {
			p.byTime(now)
		} else {
			p.byCount()
		}
		p.left = p.left.without(p.gone)
		p.diffs()
	}
	return p.Keep, p.steps, err
}

// planner collects steps.
type planner struct {
	Rules
	left  backups // but for those that are gone since a rule began
	gone  map[format.Label]bool
	based map[format.Label][]format.Label // the backups that have one as their prior
	steps []Step
}

func (p *planner) add(s ...Step) { p.steps = append(p.steps, s...) }

// unlist takes a backup and what depends on it off the list. Both texts are without it.
func (p *planner) unlist(kind string, label format.Label, why string) {
	labels := p.set(label)
	set := ""
	if len(labels) > 1 {
		set = "set "
		why += "; what depends on it goes with it"
	}
	s := say(slog.LevelInfo, "%s: expire %s backup %s%s", p.Name, kind, set, join(labels))
	s.Op, s.Labels, s.Why = Unlist, labels, string(label)+" "+why
	for _, l := range labels {
		p.gone[l] = true
	}
	p.add(s)
}

// set gives a backup and all that depend on it and are not gone, oldest first.
func (p *planner) set(label format.Label) []format.Label {
	labels := []format.Label{label}
	taken := map[format.Label]bool{label: true}
	for i := 0; i < len(labels); i++ {
		for _, l := range p.based[labels[i]] {
			if !p.gone[l] && !taken[l] {
				taken[l] = true
				labels = append(labels, l)
			}
		}
	}
	slices.Sort(labels[1:])
	return labels
}

// few names backups where all of them would be too many to read, and to say each time.
func few(labels []format.Label) string {
	if n := len(labels); n > 5 {
		return fmt.Sprintf("%s to %s", labels[0], labels[n-1])
	}
	return join(labels)
}

func join(labels []format.Label) string {
	var all []string
	for _, l := range labels {
		all = append(all, string(l))
	}
	return strings.Join(all, ", ")
}

// adhoc is for one backup, whatever retention says.
func (p *planner) adhoc(label format.Label) error {
	last, there := p.left.find(label)
	if !there {
		p.add(because("no backup goes: only %s was asked for, and it is not listed", label))
		return nil
	}
	fulls := p.left.of(format.Full)
	if n := len(fulls); n > 0 && fulls[n-1] == label {
		var before info.BackupEntry
		if n > 1 {
			before, _ = p.left.find(fulls[n-2])
		}
		if n == 1 || before.ClusterID != last.ClusterID {
			return errs.New(errs.BackupSetInvalid,
				"full backup %s cannot be expired until another full backup has been created on this repo", label)
		}
	}
	latest := p.left[len(p.left)-1].Label
	if slices.Contains(p.set(label), latest) {
		p.add(say(slog.LevelWarn, "%s: expiring latest backup %s - the ability to perform point-in-time-recovery (PITR) may be affected\n"+
			"HINT: non-default settings for '%s'/'%s' (even in prior expires) can cause gaps in the WAL.",
			p.Name, latest, p.option("archive"), p.option("archive-type")))
	}
	p.unlist("adhoc", label, "was asked for with --set")
	return nil
}

// oldest changes the retention of this run so that the oldest full backup goes.
func (p *planner) oldest() {
	keep := len(p.left.of(format.Full)) - 1
	if keep < 1 {
		p.add(say(slog.LevelWarn, "%s: expire oldest requested but no eligible full backup to expire", p.Name))
		return
	}
	if p.Keep.FullByTime {
		p.add(say(slog.LevelInfo,
			"%s: expire oldest overrides configured time-based retention with count-based retention for this execution", p.Name))
	}
	p.Keep.FullByTime, p.Keep.Full = false, keep
	p.Keep.ArchiveType, p.Keep.Archive = format.Full, keep
	p.add(say(logging.LevelDetail, "%s: expire oldest enforcing %s=count, %s=%d, %s=full, and %s=%d for this execution",
		p.Name, p.option("full-type"), p.option("full"), keep, p.option("archive-type"), p.option("archive"), keep))
}

// byCount keeps the newest full backups.
func (p *planner) byCount() {
	fulls, keep := p.left.of(format.Full), p.Keep.Full
	switch {
	case keep == 0:
		p.add(because("no full backup goes, since %s is not set", p.option("full")))
	case len(fulls) <= keep:
		p.add(because("no full backup goes: there are %d, and %s=%d keeps as many", len(fulls), p.option("full"), keep))
	default:
		why := fmt.Sprintf("is not among the newest full backups that %s=%d keeps, %s", p.option("full"), keep, few(fulls[len(fulls)-keep:]))
		for _, label := range fulls[:len(fulls)-keep] {
			p.unlist("full", label, why)
		}
	}
}

// byTime keeps the full backups of the last days and one that is older, from which any moment
// of these days can be reached.
func (p *planner) byTime(now time.Time) {
	if p.Keep.Full == 0 {
		p.add(because("no full backup goes, since %s is not set", p.option("full")))
		return
	}
	fulls, limit := p.left.of(format.Full), days(now, p.Keep.Full)
	met := -1
	i := len(fulls)
	for _, e := range slices.Backward(p.left) {
		if e.Label.Type() != format.Full {
			continue
		}
		if i--; e.Stop < limit.Unix() {
			met = i
			break
		}
	}
	option := fmt.Sprintf("%s, %s=%d days ago", logging.Time(limit), p.option("full"), p.Keep.Full)
	if met < 0 {
		p.add(because("no full backup goes: none ended before %s, and one that did has to stay", option))
		return
	}
	why := fmt.Sprintf("is older than %s, the newest full backup that ended before %s", fulls[met], option)
	for _, e := range p.left {
		if e.Label == fulls[met] && !p.gone[e.Label] {
			break
		}
		if !p.gone[e.Label] {
			p.unlist("time-based", e.Label, why)
		}
	}
	if met == 0 {
		p.add(because("no full backup goes: %s is the only one that ended before %s", fulls[met], option))
	}
	if p.Keep.ArchiveType == format.Full && p.Keep.Archive == 0 {
		p.Keep.Archive = len(fulls) - met
	}
}

// days gives the time so many days, of 24 hours, before now.
func days(now time.Time, n int) time.Time {
	// A Duration has not as many days as an option may.
	return time.Unix(now.Unix()-int64(n)*24*60*60, 0).In(now.Location())
}

// diffs keeps the newest full and differential backups, as far as these are differential.
func (p *planner) diffs() {
	all, keep := p.left.of(format.Full, format.Diff), p.Keep.Diff
	if keep == 0 || len(all) <= keep {
		return
	}
	why := fmt.Sprintf("is not among the newest full and differential backups that %s=%d keeps, %s", p.option("diff"), keep, few(all[len(all)-keep:]))
	for _, label := range all[:len(all)-keep] {
		if label.Type() == format.Diff {
			p.unlist("diff", label, why)
		}
	}
}

// Directories decides which of the directories found, oldest first, are to go: those of
// backups that are not listed, the newest first. Spared is one that stays, empty for none.
func Directories(r Rules, list *info.Backup, found []format.Label, spared format.Label) []Step {
	p := &planner{Rules: r}
	for _, label := range slices.Backward(found) {
		switch {
		case list.Entry(label) != nil:
		case label == spared:
			p.add(because("directory %s stays, though no backup is listed for it: it is the newest and has the mark of a backup under way", label))
		default:
			s := say(slog.LevelInfo, "%s: remove expired backup %s", p.Name, label)
			s.Op, s.Label = RemoveBackup, label
			s.Why = fmt.Sprintf("%s is not a backup that is listed", label)
			p.add(s)
		}
	}
	return p.steps
}
