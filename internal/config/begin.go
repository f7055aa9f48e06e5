package config

import (
	"slices"
	"strings"
)

// Begin gives the parameters and options of the line that a command begins its log
// with, as in "[pg_wal/000000010000000000000001] --log-level-console=info
// --stanza=demo": options in the order of their names, those that are not defaults,
// secrets as <redacted>, values with blanks between double quotes. It is "" when
// there is nothing to show.
func (c *Config) Begin() string {
	var words []string
	if len(c.Params) > 0 {
		params := make([]string, len(c.Params))
		for i, p := range c.Params {
			params[i] = quoteBlank(p)
		}
		words = append(words, "["+strings.Join(params, ", ")+"]")
	}
	c.each(func(o Option, index int, v *value) {
		name := o.at(index)
		switch {
		case v.negate:
			words = append(words, "--no-"+name)
		case v.reset:
			words = append(words, "--reset-"+name)
		case v.source.Kind == FromDefault:
		case table[o].secret:
			words = append(words, "--"+name+"="+redacted)
		case table[o].typ == typeBoolean:
			words = append(words, "--"+name)
		default:
			for _, text := range v.texts() {
				words = append(words, "--"+name+"="+quoteBlank(text))
			}
		}
	})
	return strings.Join(words, " ")
}

// each visits every number of every option of the command in the order of names.
func (c *Config) each(visit func(o Option, index int, v *value)) {
	for i := range table {
		for n := range c.values[i] {
			index := 1
			if g := table[i].group; g != groupNone {
				index = c.groups[g].numbers[n]
			}
			visit(Option(i), index, &c.values[i][n])
		}
	}
}

// texts gives a value as it would be given on a command line, one text for each time.
func (v *value) texts() []string {
	switch {
	case v.list != nil:
		return v.list
	case v.hash != nil:
		texts := make([]string, len(v.hash))
		for i, p := range v.hash {
			texts[i] = p.key + "=" + p.value
		}
		return texts
	}
	return []string{v.text}
}

func quoteBlank(text string) string {
	if strings.Contains(text, " ") {
		return `"` + text + `"`
	}
	return text
}

// PassOn gives the options to start another command of this program with on this
// host, so that it sees the same configuration: what the command line gave or reset,
// as far as the other command takes it. Secrets and repo-cipher-type never are,
// nor those in leave. The stanza is, also where it was found without being given.
func (c *Config) PassOn(to Command, leave ...Option) []string {
	var options []string
	c.each(func(o Option, index int, v *value) {
		row := &table[o]
		if !row.validFor(to, c.dropIn) || row.secret || o == OptRepoCipherType || slices.Contains(leave, o) {
			return
		}
		name := o.at(index)
		if v.reset {
			options = append(options, "--reset-"+name)
			return
		}
		if v.source.Kind != FromCommandLine && (o != OptStanza || v.source.Kind == FromDefault) {
			return
		}
		switch {
		case v.negate:
			options = append(options, "--no-"+name)
		case row.typ == typeBoolean:
			options = append(options, "--"+name)
		default:
			for _, text := range v.texts() {
				switch o {
				case OptConfig, OptConfigPath, OptConfigIncludePath:
					// The other command may run in another directory.
					text = c.fromHere(text)
				}
				options = append(options, "--"+name+"="+text)
			}
		}
	})
	return options
}

// RestoreCommand gives the command line for restore_command as restore writes it, with
// the two names that PostgreSQL fills in: the option cmd and the options that concern
// archive-get. Where the cluster is on another host, these are that host's program and
// configuration; what holds here, such as the number of a repository, need not hold
// there.
func (c *Config) RestoreCommand() string {
	if n := c.Pg(); !c.PgIsLocal(n) {
		line := c.RemoteCommand(true, n, "--"+OptStanza.String()+"="+c.String(OptStanza), CmdArchiveGet.String())
		return escapePercent(line) + ` %f "%p"`
	}
	options := c.PassOn(CmdArchiveGet,
		// What was meant for the restore has good defaults there.
		OptExecID, OptJobRetry, OptJobRetryInterval, OptLogLevelConsole, OptLogLevelFile, OptLogLevelStderr,
		OptLogSubprocess, OptLogTimestamp, OptProcessMax, OptCmd)
	words := []string{c.String(OptCmd)}
	for _, o := range options {
		words = append(words, quoteWord(o))
	}
	words = append(words, CmdArchiveGet.String())
	return escapePercent(strings.Join(words, " ")) + ` %f "%p"`
}

// escapePercent keeps PostgreSQL from filling anything in.
func escapePercent(line string) string { return strings.ReplaceAll(line, "%", "%%") }

// quoteWord quotes an option, whose name needs no quotes, or another word for the shell.
func quoteWord(word string) string {
	name, val, is := strings.Cut(word, "=")
	if is && strings.HasPrefix(name, "--") {
		return name + "=" + quoteShell(val)
	}
	return quoteShell(word)
}

// quoteShell puts a value between double quotes when it has blanks, as pgBackRest
// does, and also when it has anything else that the shell, which PostgreSQL starts,
// would read.
func quoteShell(text string) string {
	special := strings.ContainsFunc(text, func(r rune) bool {
		return strings.ContainsRune(" \t\n\"'`$\\&|;<>()*?[]{}~#!^", r)
	})
	if !special {
		return text
	}
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")
	return `"` + r.Replace(text) + `"`
}
