package config

import (
	"slices"
	"sort"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

// resolve makes the values of all options of the command from what was given.
func (l *loader) resolve() error {
	c := l.cfg
	c.target = l.target
	if c.in.ExecID != "" && l.valid(OptExecID) {
		if g := at(l.given, OptExecID, 1); !g.found {
			*g = given{found: true, values: []string{c.in.ExecID}, source: Source{Kind: FromCommandLine}}
		}
	}
	for i := range table {
		if len(l.given[i]) > 0 && !l.valid(Option(i)) && !l.lenient {
			return errs.New(errs.OptionInvalid, "option '%s' not valid for command '%s'", Option(i), l.cfg.Command)
		}
	}
	l.number()

	var keep [groupTotal]map[int]bool
	for _, o := range resolveOrder() {
		if !l.valid(o) {
			continue
		}
		row := &table[o]
		numbers := c.groups[row.group].numbers
		if row.group == groupNone {
			numbers = []int{1}
		}
		c.values[o] = make([]value, len(numbers))
		for i, n := range numbers {
			v, err := l.resolveOne(o, n)
			if err != nil {
				return err
			}
			c.values[o][i] = v
			if row.group != groupNone && v.missing == nil && v.source.Kind != FromDefault {
				if keep[row.group] == nil {
					keep[row.group] = map[int]bool{}
				}
				keep[row.group][n] = true
			}
		}
	}
	l.prune(keep)
	return l.choose()
}

// number finds which numbers of each group are in use. Number 1 of pg is always.
func (l *loader) number() {
	for _, g := range []group{groupPg, groupRepo} {
		used := map[int]bool{}
		for i := range table {
			if table[i].group != g || !l.valid(Option(i)) {
				continue
			}
			for _, n := range l.given[i] {
				if n.given.found && !n.given.reset {
					used[n.index] = true
				}
			}
		}
		if g == groupPg || len(used) == 0 {
			used[1] = true
		}
		numbers := make([]int, 0, len(used))
		for n := range used {
			numbers = append(numbers, n)
		}
		sort.Ints(numbers)
		l.cfg.groups[g].numbers = numbers
	}
}

// prune takes away the numbers that have nothing but defaults, except the last; one
// that is left alone so becomes number 1.
func (l *loader) prune(keep [groupTotal]map[int]bool) {
	for _, g := range []group{groupPg, groupRepo} {
		group := &l.cfg.groups[g]
		for i := len(group.numbers) - 1; i >= 0 && len(group.numbers) > 1; i-- {
			if keep[g][group.numbers[i]] {
				continue
			}
			group.numbers = slices.Delete(group.numbers, i, i+1)
			for o := range table {
				if table[o].group == g && l.cfg.values[o] != nil {
					l.cfg.values[o] = slices.Delete(l.cfg.values[o], i, i+1)
				}
			}
		}
		if len(group.numbers) == 1 && !keep[g][group.numbers[0]] {
			group.numbers[0] = 1
		}
	}
}

// choose applies the options that select one number of a group.
func (l *loader) choose() error {
	for g, o := range map[group]Option{groupPg: OptPg, groupRepo: OptRepo} {
		v := l.cfg.value(o, 1)
		if v == nil || !v.set {
			continue
		}
		if !slices.Contains(l.cfg.groups[g].numbers, int(v.number)) {
			if l.lenient {
				continue
			}
			return errs.New(errs.OptionInvalidValue, "key '%s' is not valid for '%s' option", v.text, o)
		}
		l.cfg.groups[g].chosen = int(v.number)
	}
	return nil
}

// resolveOne resolves one number of an option. Options that it needs are resolved.
func (l *loader) resolveOne(o Option, index int) (value, error) {
	row := &table[o]
	g := &given{}
	for _, n := range l.given[o] {
		if n.index == index {
			g = n.given
		}
	}
	isGiven := g.found && (row.typ == typeBoolean || !g.negate) && !g.reset
	v := value{negate: g.negate, reset: g.reset}

	need := row.need(l.target)
	if need != nil && need.peer && !l.dropIn {
		need = nil
	}
	matched := ""
	var needed Option
	if need != nil {
		needed = need.option
		by := l.cfg.value(need.option, index)
		fulfilled := false
		if by != nil && by.set {
			matched = by.text
			fulfilled = need.values == nil || slices.Contains(need.values, by.text)
		}
		if !fulfilled {
			if isGiven && g.source.Kind == FromCommandLine {
				return v, l.needError(o, need, index, by)
			}
			if need.otherwise != "" {
				v = value{set: true, missing: need}
				v.text = need.otherwise
				v.number, _ = parseNumber(row.typ, need.otherwise)
				return v, nil
			}
			v.missing = need
			return v, nil
		}
	}

	switch {
	case isGiven:
		if row.beta && o != OptBeta && !l.cfg.flag(OptBeta) {
			err := errs.New(errs.OptionInvalid, "option '%s' is not valid without option 'beta'", o.at(index))
			return v, errs.WithHint(err, "beta features require the --beta option to prevent accidental usage.")
		}
		if err := l.read(&v, o, index, g, matched, needed); err != nil {
			if l.lenient {
				return value{}, nil
			}
			return v, err
		}
	case g.negate:
		v.source = g.source
	default:
		if text, is := row.defaultFor(l.target, matched, l.in.Program); is {
			v.set = true
			v.setText(row.typ, text)
			if row.secret {
				v.secret, v.text = logging.NewSecret(text), ""
			}
		} else if row.isRequired(l.target) && !l.lenient && l.cfg.Command != CmdConfigShow {
			// What it belongs to may not be there yet: the bucket of an object store is not
			// asked for only to refuse the store then.
			if need != nil && !l.dropIn {
				if err := l.supports(needed, refused); err != nil {
					return v, err
				}
			}
			err := errs.New(errs.OptionRequired, "%s command requires option: %s", l.target, o.at(index))
			switch {
			case l.target == CmdAgent && o == OptPgPath:
				// Who reads this is often on another host.
				return v, errs.WithHint(err, "%s", l.whereStanza(l.stanza()))
			case o == OptRole:
				return v, errs.WithHint(err, "it says what the client may do; ssh-setup on the client's host prints the line for authorized_keys.")
			case row.section == sectionStanza:
				return v, errs.WithHint(err, "does this stanza exist?")
			}
			return v, err
		}
	}
	return v, nil
}

// setText fills in a value of the table, which is known to be well formed.
func (v *value) setText(typ optionType, text string) {
	v.text = text
	switch typ {
	case typeInteger, typeSize, typeTime:
		v.number, _ = parseNumber(typ, text)
	case typePath:
		v.path = text
	}
}

// needError says which option an option of the command line needs.
func (l *loader) needError(o Option, need *need, index int, by *value) error {
	name := need.option.at(index)
	if by != nil && by.set {
		switch {
		case table[need.option].typ == typeBoolean:
			if need.values[0] == "n" {
				name = "no-" + name
			}
			return errs.New(errs.OptionInvalid, "option '%s' not valid without option '%s'", o.at(index), name)
		case len(need.values) == 1:
			return errs.New(errs.OptionInvalid, "option '%s' not valid without option '%s' = '%s'", o.at(index), name, need.values[0])
		case len(need.values) > 1:
			return errs.New(errs.OptionInvalid, "option '%s' not valid without option '%s' in ('%s')", o.at(index), name,
				strings.Join(need.values, "', '"))
		}
	}
	return errs.New(errs.OptionInvalid, "option '%s' not valid without option '%s'", o.at(index), name)
}
