package config

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// chooseStanza finds the stanza for a command that needs one and was given none: for
// the archive commands the one whose data directory is the working directory, else
// the only one that is configured. Called as pgbackrest nothing is chosen.
func (l *loader) chooseStanza() error {
	if stanza := l.stanza(); stanza != "" {
		// The name becomes a directory of the repository and part of file names.
		if !isStanza(stanza) {
			for _, n := range l.given[OptStanza] {
				return l.wrong(errs.OptionInvalidValue, n.given, "a name without '/' is expected",
					"'%s' is not valid for 'stanza' option", stanza)
			}
		}
		return nil
	}
	row := &table[OptStanza]
	show := l.cfg.Command == CmdConfigShow
	oneBackup := l.cfg.Command == CmdInfo && len(l.given[OptSet]) > 0 // of some stanza
	if l.dropIn || l.lenient || !l.valid(OptStanza) || (!show && !oneBackup && !row.isRequired(l.cfg.Command)) {
		return nil
	}
	names := l.cfg.stanzas
	choose := func(name, why string) error {
		*at(l.given, OptStanza, 1) = given{found: true, values: []string{name},
			source: Source{Kind: FromConfiguration, Name: why}}
		return nil
	}
	if l.cfg.Command == CmdArchivePush || l.cfg.Command == CmdArchiveGet {
		if here := l.stanzasHere(); len(here) == 1 {
			return choose(here[0], "stanza whose pg-path is the working directory")
		} else if len(here) > 1 {
			names = here
		}
	}
	switch {
	case len(names) == 1:
		return choose(names[0], "only configured stanza")
	case show:
		return nil
	case len(names) == 0:
		return errs.WithHint(errs.New(errs.OptionRequired, "%s command requires option: stanza", l.cfg.Command), "%s", l.whereStanza(""))
	}
	return errs.WithHint(errs.New(errs.OptionRequired, "%s command requires option: stanza", l.cfg.Command),
		"configured are '%s'; choose one with --stanza=NAME.", strings.Join(names, "', '"))
}

// isStanza says whether a text can be the name of a stanza.
func isStanza(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// whereStanza says of which files it is that a stanza, or what belongs to it, is missing;
// "" stands for any stanza.
func (l *loader) whereStanza(name string) string {
	what := "no stanza is configured in"
	switch {
	case slices.Contains(l.cfg.stanzas, name):
		what = "stanza '" + name + "' is configured without it in"
	case name != "":
		what = "stanza '" + name + "' is not configured in"
	}
	if files := l.cfg.Files(); len(files) > 0 {
		return what + " '" + strings.Join(files, "', '") + "'."
	}
	if main := l.whichFiles().main; len(main) > 0 {
		return "there is no configuration file '" + strings.Join(main, "' or '") + "'."
	}
	return "no configuration file is read with --no-config."
}

// stanzasHere gives the stanzas that have the working directory as a data directory.
// PostgreSQL runs archive_command and restore_command there.
func (l *loader) stanzasHere() []string {
	here, err := filepath.EvalSymlinks(l.in.Dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, name := range l.cfg.stanzas {
		for _, section := range []string{name, name + ":" + l.cfg.Command.String()} {
			if l.sectionHasPath(section, here) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

func (l *loader) sectionHasPath(section, path string) bool {
	for _, e := range l.doc.sections[section] {
		f, err := lookup(e.key, false, false)
		if err != nil || !f.ok || f.option != OptPgPath || len(e.values) != 1 {
			continue
		}
		if p, err := filepath.EvalSymlinks(e.values[0]); err == nil && p == path {
			return true
		}
	}
	return false
}

// ForStanza gives the configuration of the same command for one stanza, as if it had been
// named on the command line. It is made of the files as they were when c was.
func (c *Config) ForStanza(name string) (*Config, error) {
	if c.String(OptStanza) == name {
		return c, nil
	}
	in := c.in
	in.Args = append(append([]string(nil), in.Args...), "--"+OptStanza.String()+"="+name)
	return load(in, c.read)
}
