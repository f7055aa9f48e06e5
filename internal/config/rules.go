package config

import (
	"slices"

	"github.com/pgx-backup/pgx/internal/errs"
)

// margin is kept between db-timeout and protocol-timeout when one of them follows
// the other, in milliseconds.
const margin = 30_000

// rules checks what options say together and fills in what follows from others.
func (l *loader) rules() error {
	for _, rule := range []func() error{
		l.refuseRoot, l.repoForDelete, l.differentPaths, l.timeouts, l.oneRemote, l.retention, l.compression,
		l.targetTime, l.deprecated, l.supported, l.service,
	} {
		if err := rule(); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) refuseRoot() error {
	v := l.cfg.value(OptAllowRoot, 1)
	if !l.in.AsRoot || v == nil || v.text == "y" {
		return nil
	}
	err := errs.WithHint(errs.New(errs.OptionInvalid, "the '%s' command must not be run as the root user", l.cfg.Command),
		"running as root can create files that the regular user cannot access, causing later commands to fail.")
	return errs.WithHint(err, "set the 'allow-root' option to allow running this command as root.")
}

func (l *loader) repoForDelete() error {
	repos := l.cfg.groups[groupRepo].numbers
	if l.cfg.Command != CmdStanzaDelete || l.cfg.IsSet(OptRepo) || (len(repos) == 1 && repos[0] == 1) {
		return nil
	}
	return errs.WithHint(errs.New(errs.OptionRequired, "%s command requires option: repo", l.cfg.Command),
		"this command requires a specific repository to operate on")
}

// differentPaths refuses two repositories in one place.
func (l *loader) differentPaths() error {
	c := l.cfg
	if c.values[OptRepoPath] == nil {
		return nil
	}
	local := func(n int) bool {
		typ := c.value(OptRepoType, n).text
		return c.RepoIsLocal(n) && (typ == "posix" || typ == "cifs")
	}
	for _, a := range c.groups[groupRepo].numbers {
		for _, b := range c.groups[groupRepo].numbers {
			if a < b && local(a) && local(b) && c.value(OptRepoType, a).text == c.value(OptRepoType, b).text &&
				c.value(OptRepoPath, a).path == c.value(OptRepoPath, b).path {
				return errs.New(errs.OptionInvalidValue, "local repo%d and repo%d paths are both '%s' but must be different",
					a, b, c.value(OptRepoPath, b).text)
			}
		}
	}
	return nil
}

// timeouts keeps protocol-timeout above db-timeout.
func (l *loader) timeouts() error {
	db, protocol := l.cfg.value(OptDBTimeout, 1), l.cfg.value(OptProtocolTimeout, 1)
	if db == nil || protocol == nil || !db.set || !protocol.set || protocol.number > db.number {
		return nil
	}
	follow := func(v *value, ms int64) {
		v.number, v.text = ms, itoa(int(ms))+"ms"
	}
	switch {
	case protocol.source.Kind == FromDefault:
		follow(protocol, db.number+margin)
	case db.source.Kind == FromDefault:
		if ms := protocol.number - margin; ms >= margin/2 {
			follow(db, ms)
		} else {
			follow(db, protocol.number/2)
		}
	default:
		err := errs.New(errs.OptionInvalidValue, "'%s' is not valid for 'protocol-timeout' option", protocol.text)
		if l.dropIn { // whose hint has no colon
			err.Message += "\nHINT 'protocol-timeout' option (" + protocol.text + ") should be greater than 'db-timeout' option (" + db.text + ")."
			return err
		}
		return errs.WithHint(err, "'protocol-timeout' option (%s) should be greater than 'db-timeout' option (%s).",
			protocol.text, db.text)
	}
	return nil
}

func (l *loader) oneRemote() error {
	if pg, repo := l.remote(); pg && repo {
		return errs.New(errs.Config, "pg and repo hosts cannot both be configured as remote")
	}
	return nil
}

// remote says whether any cluster and any repository is on another host.
func (l *loader) remote() (pg, repo bool) {
	not := func(is func(int) bool) func(int) bool { return func(n int) bool { return !is(n) } }
	return slices.ContainsFunc(l.cfg.groups[groupPg].numbers, not(l.cfg.PgIsLocal)),
		slices.ContainsFunc(l.cfg.groups[groupRepo].numbers, not(l.cfg.RepoIsLocal))
}

// retention warns of retention that is not set and lets the archive follow backups.
func (l *loader) retention() error {
	c := l.cfg
	if c.values[OptRepoRetentionArchive] == nil {
		return nil
	}
	numbers := c.groups[groupRepo].numbers
	for _, n := range numbers {
		if !c.value(OptRepoRetentionFull, n).set {
			l.warn("option '%s' is not set for '%s=%s', the repository may run out of space"+
				"\nHINT: to retain full backups indefinitely (without warning), set option '%s' to the maximum.",
				OptRepoRetentionFull.at(n), OptRepoRetentionFullType.at(n), c.value(OptRepoRetentionFullType, n).text,
				OptRepoRetentionFull.at(n))
		}
	}
	for _, n := range numbers {
		archive, kind := c.value(OptRepoRetentionArchive, n), c.value(OptRepoRetentionArchiveType, n).text
		full, diff := c.value(OptRepoRetentionFull, n), c.value(OptRepoRetentionDiff, n)
		off := "WAL segments will not be expired: option '" + OptRepoRetentionArchiveType.at(n) + "=" + kind + "' but"
		follow := func(v *value) { archive.set, archive.number, archive.text = true, v.number, v.text }
		switch {
		case archive.set:
			if kind == "diff" && !diff.set {
				l.warn("option '%s' is not set for '%s=diff'"+
					"\nHINT: to retain differential backups indefinitely (without warning), set option '%s' to the maximum.",
					OptRepoRetentionDiff.at(n), OptRepoRetentionArchiveType.at(n), OptRepoRetentionDiff.at(n))
			}
		case kind == "full":
			if full.set && c.value(OptRepoRetentionFullType, n).text == "count" {
				follow(full)
			}
		case kind == "diff" && diff.set:
			follow(diff)
		case kind == "diff":
			l.warn("%s neither option '%s' nor option '%s' is set", off, OptRepoRetentionArchive.at(n), OptRepoRetentionDiff.at(n))
		default:
			l.warn("%s option '%s' is not set", off, OptRepoRetentionArchive.at(n))
		}
	}
	return nil
}

// compression lets the option compress of the past choose the type. No other place
// looks at it.
func (l *loader) compression() error {
	compress, typ := l.cfg.value(OptCompress, 1), l.cfg.value(OptCompressType, 1)
	if compress == nil || compress.source.Kind == FromDefault {
		return nil
	}
	if typ.source.Kind != FromDefault {
		l.warn("'compress' and 'compress-type' options should not both be set" +
			"\nHINT: 'compress-type' is preferred and 'compress' is deprecated.")
	} else if compress.text == "n" {
		typ.text = "none"
		*l.cfg.value(OptCompressLevel, 1) = value{set: true, text: "0"}
	}
	return nil
}

func (l *loader) targetTime() error {
	c := l.cfg
	if v := c.value(OptRepoTargetTime, 1); v != nil && v.set && !c.IsSet(OptRepo) {
		return errs.New(errs.OptionInvalid, "option 'repo-target-time' not valid without option 'repo'")
	}
	return nil
}

func (l *loader) deprecated() error {
	if v := l.cfg.value(OptStopAuto, 1); v != nil && v.source.Kind != FromDefault {
		l.warn("option 'stop-auto' is deprecated\nHINT: all supported versions use non-exclusive backup." +
			"\nHINT: stop using this option to avoid an error when it is removed.")
	}
	return nil
}

// supported looks for values whose function does not exist yet. Repositories that
// --repo leaves aside do not count.
func (l *loader) supported() error {
	if err := l.onPostgresHost(); err != nil {
		return err
	}
	// What stands behind repoN-type is refused with it, which says more.
	for _, level := range []level{refused, ignored} {
		if err := l.supports(OptRepoType, level); err != nil {
			return err
		}
		for i := range table {
			if o := Option(i); o != OptRepoType {
				if err := l.supports(o, level); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (l *loader) supports(o Option, level level) error {
	row := &table[o]
	if row.later == nil || l.cfg.values[o] == nil {
		return nil
	}
	numbers := []int{1}
	if row.group != groupNone {
		numbers = l.cfg.groups[row.group].numbers
		if chosen := l.cfg.groups[row.group].chosen; chosen != 0 {
			numbers = []int{chosen}
		}
	}
	for _, n := range numbers {
		v := l.cfg.value(o, n)
		if !v.set || v.source.Kind == FromDefault {
			continue
		}
		for i := range row.later {
			if r := &row.later[i]; r.level == level && l.applies(r, v) {
				if err := l.notYet(o, n, v, r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (l *loader) applies(r *later, v *value) bool {
	if r.commands != 0 && !r.commands.has(l.cfg.Command) {
		return false
	}
	if r.remote {
		if pg, repo := l.remote(); !pg && !repo {
			return false
		}
	}
	return r.values == nil || slices.Contains(r.values, v.text)
}

func (l *loader) notYet(o Option, index int, v *value, r *later) error {
	what := "option '" + o.at(index) + "'"
	if v.text != "" {
		what += " = '" + v.text + "'"
	}
	what += " is not supported"
	if !r.never {
		what += " yet"
	}
	what += ": " + r.text + " (" + l.locate(v.source).String() + ")"
	if r.level == ignored {
		l.warn("%s", what)
		return nil
	}
	err := errs.New(errs.FeatureNotSupported, "%s", what)
	if table[o].group == groupRepo && len(l.cfg.groups[groupRepo].numbers) > 1 && l.valid(OptRepo) {
		return errs.WithHint(err, "choose another repository with --repo.")
	}
	return err
}

// onPostgresHost refuses the commands that work on local files where the cluster is on
// another host. Under its own name pgx restores through that host's agent.
func (l *loader) onPostgresHost() error {
	switch l.cfg.Command {
	case CmdArchiveGet, CmdArchivePush, CmdRestore:
		if l.cfg.Command == CmdRestore && !l.dropIn {
			return nil
		}
		if !l.cfg.PgIsLocal(l.cfg.Pg()) {
			return errs.New(errs.HostInvalid, "%s command must be run on the PostgreSQL host", l.cfg.Command)
		}
	}
	return nil
}
