package config

import (
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// The beginnings of the variables that give options. pgx's own come first and win.
const (
	ownPrefix  = "PGX_"
	peerPrefix = "PGBACKREST_"
)

// environment takes options from variables such as PGX_REPO1_PATH. What the command
// line gave stays.
func (l *loader) environment() error {
	for _, prefix := range []string{ownPrefix, peerPrefix} {
		for _, entry := range l.in.Env {
			variable, val, is := strings.Cut(entry, "=")
			if !is || !strings.HasPrefix(variable, prefix) {
				continue
			}
			if err := l.variable(variable, val, prefix); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) variable(variable, val, prefix string) error {
	key := strings.ReplaceAll(strings.ToLower(variable[len(prefix):]), "_", "-")
	f, err := lookup(key, false, false)
	near := ""
	if !f.ok {
		near = nearOption(key)
		// Other programs name variables PGX_ as well: only what looks like a slip is
		// spoken of.
		if prefix == ownPrefix && near == "" {
			return nil
		}
	}
	switch {
	case err != nil:
		return err
	case !f.ok && near != "" && !l.dropIn:
		l.warn("environment contains invalid option '%s'\nHINT: did you mean %s%s?", key, prefix,
			strings.ToUpper(strings.ReplaceAll(near, "-", "_")))
		return nil
	case !f.ok:
		l.warn("environment contains invalid option '%s'", key)
		return nil
	case f.negate:
		l.warn("environment contains invalid negate option '%s'", key)
		return nil
	case f.reset:
		l.warn("environment contains invalid reset option '%s'", key)
		return nil
	}
	if !l.valid(f.option) {
		return nil
	}
	if val == "" {
		return errs.New(errs.OptionInvalidValue, "environment variable '%s' must have a value", l.spell(variable, key))
	}
	g := at(l.given, f.option, f.index)
	if g.found {
		return nil
	}
	*g = given{found: true, source: Source{Kind: FromEnvironment, Name: variable}}
	row := &table[f.option]
	switch {
	case row.typ == typeBoolean:
		if val != "y" && val != "n" {
			return l.wrong(errs.OptionInvalidValue, g, "", "environment boolean option '%s' must be 'y' or 'n'", key)
		}
		g.negate = val == "n"
	case row.multi():
		g.values = strings.Split(val, ":")
	default:
		g.values = []string{val}
	}
	return nil
}

// spell gives the name of a variable as it is, or, called as pgbackrest, as that
// program writes it.
func (l *loader) spell(variable, key string) string {
	if l.dropIn {
		return key
	}
	return variable
}
