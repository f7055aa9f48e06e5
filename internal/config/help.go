package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// helpWidth is the longest line of help.
const helpWidth = 80

// exitCodes are the codes people and scripts meet. The code of any other error is the
// number in brackets of its message.
var exitCodes = []struct{ code, meaning string }{
	{"0", "success"},
	{"1", "archive-get: the file is in no repository"},
	{"26", "a checksum is wrong"},
	{"27", "the configuration contradicts itself"},
	{"29", "a file has the wrong form"},
	{"30, 48", "no command, or one that does not exist"},
	{"31, 32, 37", "an option is not allowed, has a wrong value, or is missing"},
	{"38", "PostgreSQL is running and must not be"},
	{"39", "the other host does not speak the protocol of pgx, or fell silent"},
	{"40", "the directory to restore to is not empty"},
	{"41, 42, 64", "a file cannot be opened, read or written"},
	{"44, 51, 58", "repository and cluster do not belong together"},
	{"45", "another WAL file of that name is in the archive"},
	{"49", "another host cannot be reached over SSH"},
	{"50", "another process holds the lock"},
	{"55", "a file is missing"},
	{"56, 57", "PostgreSQL cannot be reached, or refuses a query"},
	{"62", "stopped by the command stop"},
	{"63", "ended by a signal"},
	{"67", "not supported"},
	{"72", "the command belongs on the PostgreSQL host"},
	{"75", "no such backup, or none before the target"},
	{"82", "WAL did not arrive in the archive in time"},
	{"87", "archiving is switched off"},
	{"95", "content cannot be decrypted: wrong passphrase, or damage"},
	{"103, 104", "no repository could be used, or several errors"},
	{"105", "the other host does not grant this"},
}

// help prepares Help: the values of the options it is about, as far as they can be
// had, so that a broken file does not keep anybody from the explanation of it.
func (l *loader) help(a arguments) error {
	c := l.cfg
	c.Command, c.topic, c.about = CmdHelp, a.command, optionTotal
	if c.topic == noCommand || c.topic == CmdHelp {
		return nil
	}
	if len(c.Params) > 0 && a.helpWord {
		if len(c.Params) > 1 {
			return errs.New(errs.ParamInvalid, "only one option allowed for option help")
		}
		name := strings.TrimLeft(c.Params[0], "-")
		f, err := lookup(name, false, true)
		if err != nil {
			return err
		}
		if !f.ok || !table[f.option].validFor(c.topic, l.dropIn) {
			err := errs.New(errs.OptionInvalid, "option '%s' is not valid for command '%s'", name, c.topic)
			if near := nearOption(name); near != "" && !f.ok && !l.dropIn {
				return errs.WithHint(err, "did you mean '%s'?", near)
			}
			return err
		}
		c.about = f.option
		if f.index > 1 {
			at(l.given, f.option, f.index) // so that the number is shown
		}
	}
	l.target, l.lenient = c.topic, true
	c.Command = c.topic // whose options are valid
	if !commands[c.topic].noConfig {
		// Whatever is wrong is told when the command runs.
		_ = l.readSources()
	}
	_ = l.resolve()
	c.Command = CmdHelp
	c.Warnings = nil
	return nil
}

// Help gives the text that CmdHelp asks for: about the program, a command or an
// option.
func (c *Config) Help() string {
	switch {
	case c.topic == noCommand || c.topic == CmdHelp:
		return c.helpProgram()
	case c.about != optionTotal:
		return c.helpOption()
	}
	return c.helpCommand()
}

func (c *Config) program() string {
	if c.in.Program == "" {
		return "pgx"
	}
	return filepath.Base(c.in.Program)
}

func (c *Config) helpProgram() string {
	name := c.program()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s - backup and recovery for PostgreSQL\n\nUsage:\n    %s [options] COMMAND [parameters]\n\nCommands:\n", name, c.in.Version, name)
	for i := range commands {
		if cmd := &commands[i]; !cmd.internal && !(c.dropIn && cmd.own) {
			text := cmd.summary
			if cmd.later {
				text += " (not yet)"
			}
			fmt.Fprintf(&b, "    %-15s %s\n", cmd.name, text)
		}
	}
	b.WriteString("\nOptions:\n")
	paragraph(&b, 4, "--name=value or --name value, before or after the command. A boolean is --name, --no-name, --name=y or --name=n. "+
		"--reset-name goes back to the default. pgN- and repoN- options carry a number: --repo1-path.")
	b.WriteString("\nWhere a value comes from, the first that has one:\n")
	for _, line := range c.sourceLines() {
		paragraph(&b, 4, line)
	}
	b.WriteString("\nExit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "    %-11s %s\n", e.code, e.meaning)
	}
	fmt.Fprintf(&b, "\nUse '%s help COMMAND' and '%s help COMMAND OPTION' for more.\n", name, name)
	return b.String()
}

func (c *Config) sourceLines() []string {
	if c.dropIn {
		return []string{
			"1. the command line",
			"2. variables such as PGBACKREST_REPO1_PATH; lists are joined with ':'",
			"3. the configuration file, section [STANZA:COMMAND], [STANZA], [global:COMMAND], [global]",
			"4. the default",
		}
	}
	return []string{
		"1. the command line",
		"2. variables such as PGX_REPO1_PATH, then PGBACKREST_REPO1_PATH; lists are joined with ':'",
		"3. the configuration file: --config, else /etc/pgx/pgx.toml, else /etc/pgbackrest/pgbackrest.conf with conf.d, else " +
			"/etc/pgbackrest.conf. In pgbackrest.conf section [STANZA:COMMAND], [STANZA], [global:COMMAND], [global]; in pgx.toml " +
			"table [stanza.STANZA.COMMAND], [stanza.STANZA], [global.COMMAND], [global]",
		"4. the default",
	}
}

func (c *Config) helpCommand() string {
	cmd := &commands[c.topic]
	name := c.program()
	var b strings.Builder
	usage := strings.TrimSpace(name + " [options] " + cmd.name + " " + cmd.usage)
	fmt.Fprintf(&b, "%s %s - %s\n\nUsage:\n    %s\n\n", name, c.in.Version, cmd.summary, usage)
	if cmd.later {
		b.WriteString("This command is not supported yet.\n\n")
	}
	paragraph(&b, 0, cmd.text)
	for a := range area(areaTotal) {
		heading := false
		for i := range table {
			o := Option(i)
			row := &table[i]
			if row.area != a || !row.shown(c.topic, c.dropIn) {
				continue
			}
			if !heading {
				heading = true
				fmt.Fprintf(&b, "\n%s:\n", areaHeading(a))
			}
			note := c.notes(o)
			text := row.summary
			if note != "" {
				text += " [" + note + "]"
			}
			flag := "--" + generic(o)
			fmt.Fprintf(&b, "  %s", flag)
			lines := wrap(text, helpWidth-36)
			if len(flag) > 32 {
				b.WriteString("\n" + strings.Repeat(" ", 36) + lines[0] + "\n")
			} else {
				b.WriteString(strings.Repeat(" ", 34-len(flag)) + lines[0] + "\n")
			}
			for _, l := range lines[1:] {
				b.WriteString(strings.Repeat(" ", 36) + l + "\n")
			}
		}
	}
	b.WriteString("\nExit codes:\n    0 success, 63 ended by a signal, else the number in brackets of the error\n")
	if c.topic == CmdArchiveGet {
		b.WriteString("    1 the file is in no repository\n")
	}
	fmt.Fprintf(&b, "\nUse '%s help %s OPTION' for more, '%s help' for exit codes and files.\n", name, cmd.name, name)
	return b.String()
}

func areaHeading(a area) string {
	if strings.HasSuffix(areaNames[a], "only") {
		return "Options of this command"
	}
	return areaNames[a] + " options"
}

// generic writes an option with N for its number.
func generic(o Option) string {
	row := &table[o]
	if row.group == groupNone {
		return row.name
	}
	prefix := groupNames[row.group]
	return prefix + "N" + row.name[len(prefix):]
}

// notes gives the present value, where it is no default, and the default.
func (c *Config) notes(o Option) string {
	var parts []string
	var current []string
	for _, n := range c.numbersOf(o) {
		if v := c.value(o, n); v != nil && v.source.Kind != FromDefault {
			text := c.printed(o, v)
			if table[o].group != groupNone && len(c.numbersOf(o)) > 1 {
				text = o.at(n) + "=" + text
			}
			current = append(current, text)
		}
	}
	if len(current) > 0 {
		parts = append(parts, "current="+strings.Join(current, ", "))
	}
	if text := c.defaultText(o); text != "" {
		parts = append(parts, "default="+text)
	}
	return strings.Join(parts, ", ")
}

func (c *Config) numbersOf(o Option) []int {
	if g := table[o].group; g != groupNone {
		return c.groups[g].numbers
	}
	return []int{1}
}

func (c *Config) printed(o Option, v *value) string {
	switch {
	case v.negate && table[o].typ != typeBoolean:
		return "none"
	case table[o].secret:
		return redacted
	}
	return strings.Join(v.texts(), ", ")
}

// defaultText gives the default of an option for the command help is about.
func (c *Config) defaultText(o Option) string {
	row := &table[o]
	if row.defWhen != nil {
		var parts []string
		for _, w := range row.defWhen {
			parts = append(parts, w.value+" for "+w.when)
		}
		return strings.Join(parts, ", ")
	}
	if o == OptConfig && !c.dropIn {
		return ownConfig + ", " + row.def
	}
	program := c.in.Program
	if program == "" {
		program = "the path pgx was run as"
	}
	text, _ := row.defaultFor(c.topic, "", program)
	return text
}

// helpOption explains one option.
func (c *Config) helpOption() string {
	o := c.about
	row := &table[o]
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s - option %s of %s\n\n", c.program(), c.in.Version, generic(o), c.topic)
	paragraph(&b, 0, row.summary)
	if row.more != "" {
		b.WriteByte('\n')
		paragraph(&b, 0, row.more)
	}
	b.WriteByte('\n')
	fact := func(name, text string) {
		if text == "" {
			return
		}
		lines := wrap(text, helpWidth-14)
		fmt.Fprintf(&b, "%-12s  %s\n", name, lines[0])
		for _, l := range lines[1:] {
			fmt.Fprintf(&b, "%-12s  %s\n", "", l)
		}
	}
	for _, n := range c.numbersOf(o) {
		if v := c.value(o, n); v != nil && v.source.Kind != FromDefault {
			label := "current"
			if len(c.numbersOf(o)) > 1 {
				label = o.at(n)
			}
			fact(label, c.printed(o, v)+" ("+c.locate(v.source).String()+")")
		}
	}
	if text := c.defaultText(o); text != "" {
		fact("default", text)
	} else if row.isRequired(c.topic) {
		fact("default", "none: the option must be given")
	} else {
		fact("default", "none")
	}
	fact("type", typeNames[row.typ]+describeLimits(row, c.topic))
	if n := row.need(c.topic); n != nil {
		fact("needs", strings.Replace(n.describe(1), n.option.at(1), generic(n.option), 1))
	}
	laterTexts(row, c.topic, fact)
	name := o.at(1)
	if !row.secret {
		fact("command line", cliForm(row, name))
	} else {
		fact("command line", "no, so that the secret is not seen in the list of processes")
	}
	variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	if c.dropIn {
		fact("variable", peerPrefix+variable)
	} else {
		fact("variable", ownPrefix+variable+" or "+peerPrefix+variable)
	}
	switch row.section {
	case sectionNone:
		fact("file", "no")
	case sectionStanza:
		fact("file", "in the section of a stanza")
	default:
		fact("file", "in any section")
	}
	fact("once called", oldNames(o))
	return b.String()
}

func cliForm(row *option, name string) string {
	switch {
	case row.typ == typeBoolean && row.negate:
		return "--" + name + ", --no-" + name
	case row.typ == typeBoolean:
		return "--" + name
	case row.typ == typeList:
		return "--" + name + "=VALUE, also several times"
	case row.typ == typeHash:
		return "--" + name + "=KEY=VALUE, also several times"
	}
	return "--" + name + "=VALUE"
}

// describeLimits says which values an option takes.
func describeLimits(row *option, c Command) string {
	switch {
	case row.typ == typeBoolean:
		return ": y or n"
	case row.allowed(c) != nil:
		return ": " + strings.Join(row.allowed(c), ", ")
	case row.rangeWhen != nil:
		var parts []string
		for _, r := range row.rangeWhen {
			parts = append(parts, r.min+" to "+r.max+" for "+r.when)
		}
		return ": " + strings.Join(parts, ", ")
	case row.min != "":
		return ": " + row.min + " to " + row.max
	}
	return ""
}

// laterTexts tells of the values that have no function.
func laterTexts(row *option, c Command, fact func(name, text string)) {
	for i := range row.later {
		r := &row.later[i]
		if r.commands != 0 && c != noCommand && !r.commands.has(c) {
			continue
		}
		name, text := "not yet", "is refused: "
		if r.never {
			name = "not in pgx"
		}
		if r.level == ignored {
			text = "is ignored with a warning: "
		}
		if r.values != nil {
			text = strings.Join(r.values, ", ") + " " + text
		}
		fact(name, text+r.text)
	}
}

func oldNames(o Option) string {
	var names []string
	for _, old := range table[o].old {
		name := old.name
		if name == table[o].name && !old.plain {
			continue
		}
		if old.indexed && !old.plain {
			head, rest, _ := strings.Cut(name, "-")
			name = head + "N-" + rest
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// paragraph writes text wrapped and indented. Lines of the text that are indented
// stay as they are.
func paragraph(b *strings.Builder, indent int, text string) {
	for _, part := range strings.Split(text, "\n") {
		if strings.HasPrefix(part, " ") || part == "" {
			b.WriteString(part + "\n")
			continue
		}
		for _, l := range wrap(part, helpWidth-indent) {
			b.WriteString(strings.Repeat(" ", indent) + l + "\n")
		}
	}
}

// wrap breaks text into lines of a width, at least one line.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
