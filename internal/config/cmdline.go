package config

import (
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// arguments is what a command line says.
type arguments struct {
	command  Command
	async    bool // the part of an archive command that stays in the background
	params   []string
	help     bool // the help command, --help beside another, or nothing at all
	helpWord bool // the help command: parameters are its own
	version  bool // --version
	options  *[optionTotal][]numbered
}

// numbered is what was given for one number of an option.
type numbered struct {
	index int
	given *given
}

// at gives what was found for an option, making room for it.
func at(options *[optionTotal][]numbered, o Option, index int) *given {
	for _, n := range options[o] {
		if n.index == index {
			return n.given
		}
	}
	g := &given{}
	options[o] = append(options[o], numbered{index, g})
	return g
}

// parseArguments reads the command line without the program's name. Options stand
// before or after the command; the first other word is the command and the rest are
// its parameters.
func parseArguments(args []string, dropIn bool) (arguments, error) {
	a := arguments{command: noCommand, options: new([optionTotal][]numbered)}
	helpWord := false
	prefix := "" // first word of a command of two
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if strings.HasPrefix(arg, "-") {
			used, err := a.option(args, i, dropIn)
			if err != nil {
				return a, err
			}
			i += used
			continue
		}
		switch {
		case a.command != noCommand:
			a.params = append(a.params, arg)
			continue
		case prefix != "":
			arg, prefix = prefix+" "+arg, ""
		case firstWords[arg] != "" && !dropIn:
			prefix = arg
			continue
		}
		name, role, hasRole := strings.Cut(arg, ":")
		c, err := commandNamed(name, dropIn)
		if err != nil {
			return a, err
		}
		if c == CmdHelp && !helpWord {
			helpWord = true
			continue
		}
		// Roles are those of pgBackRest's child processes. We have the one that archives in the
		// background.
		a.async = hasRole && role == "async" && !helpWord && (c == CmdArchivePush || c == CmdArchiveGet)
		if hasRole && !a.async {
			return a, roleError(arg, role, helpWord)
		}
		a.command = c
	}

	a.helpWord = helpWord
	if prefix != "" && !helpWord {
		return a, errs.New(errs.CommandRequired, "command '%s' needs %s", prefix, firstWords[prefix])
	}
	if len(a.options[OptHelp]) > 0 && !a.options[OptHelp][0].given.negate {
		if dropIn && a.command != noCommand {
			return a, errs.New(errs.OptionInvalid, "option 'help' not valid for command '%s'", a.command)
		}
		helpWord = true
	}
	a.options[OptHelp] = nil
	a.help = helpWord
	if len(a.options[OptVersion]) > 0 {
		if a.command != noCommand || helpWord {
			return a, errs.New(errs.OptionInvalid, "option 'version' not valid for command '%s'", orHelp(a.command))
		}
		a.options[OptVersion] = nil
		a.version = true
	}
	switch {
	case a.version:
		a.command = CmdVersion
	case a.command == noCommand && !helpWord:
		for i := range a.options {
			if len(a.options[i]) > 0 {
				return a, errs.New(errs.CommandRequired, "no command found")
			}
		}
		a.help = true
	}
	if len(a.params) > 0 && !a.help && !commands[a.command].params {
		return a, errs.New(errs.ParamInvalid, "command does not allow parameters")
	}
	return a, nil
}

// firstWords are those of commands of two words, with what can follow.
var firstWords = map[string]string{"config": "'show' or 'convert'", "key": "'generate'"}

func orHelp(c Command) Command {
	if c == noCommand {
		return CmdHelp
	}
	return c
}

func roleError(arg, role string, help bool) error {
	switch role {
	case "async", "local", "remote":
		switch {
		case help:
			return errs.New(errs.CommandInvalid, "help is not available for the '%s' role", role)
		case role == "async":
			return errs.New(errs.CommandInvalid, "invalid command/role combination '%s'", arg)
		}
		// A pgbackrest shows this as what ended the process it started.
		return errs.WithHint(errs.WithHint(
			errs.New(errs.Protocol, "'%s' is how pgbackrest starts its own helper, but this is pgx, which does not speak its protocol", arg),
			"both ends of a connection must be pgx: pgbackrest on the other host started this program."),
			"install pgx there as well, or let its pg-host-cmd, repo-host-cmd or cmd name a pgbackrest.")
	}
	return errs.New(errs.CommandInvalid, "invalid command role '%s'", role)
}

// option reads the option at args[i] and says how many words beyond it were used.
func (a *arguments) option(args []string, i int, dropIn bool) (used int, err error) {
	arg, is := strings.CutPrefix(args[i], "--")
	if !is {
		return 0, errs.New(errs.OptionInvalid, "option '%s' must begin with --", withoutSecret(args[i]))
	}
	name, val, hasValue := strings.Cut(arg, "=")
	f, err := lookup(name, true, false)
	if err != nil {
		return 0, err
	}
	if !f.ok || (dropIn && table[f.option].commands != 0 && table[f.option].commands == table[f.option].own) {
		err := errs.New(errs.OptionInvalid, "invalid option '--%s'", withoutSecret(arg))
		if near := nearOption(name); near != "" && !dropIn {
			return 0, errs.WithHint(err, "did you mean '--%s'?", near)
		}
		return 0, err
	}
	row := &table[f.option]
	full := f.option.at(f.index)

	switch {
	case (f.negate || f.reset) && hasValue:
		return 0, errs.New(errs.OptionInvalid, "option '%s' does not allow an argument", name)
	case f.negate || f.reset:
	case row.typ == typeBoolean && hasValue:
		if val != "y" && val != "n" {
			return 0, errs.New(errs.OptionInvalidValue, "boolean option '--%s' argument must be 'y' or 'n'", name)
		}
		f.negate, hasValue = val == "n", false
	case row.typ == typeBoolean || hasValue:
	case row.boolLike:
		val, hasValue = "y", true
	case i+1 == len(args):
		return 0, errs.New(errs.OptionInvalid, "option '--%s' requires an argument", name)
	default:
		val, hasValue, used = args[i+1], true, 1
	}
	if f.negate && row.boolLike {
		f.negate, val, hasValue = false, "n", true
	}
	if row.secret {
		err := errs.WithHint(errs.New(errs.OptionInvalid, "option '%s' is not allowed on the command-line", full),
			"this option could expose secrets in the process list.")
		return 0, errs.WithHint(err, "specify the option in a configuration file or an environment variable instead.")
	}

	g := at(a.options, f.option, f.index)
	if !g.found {
		*g = given{found: true, negate: f.negate, reset: f.reset, source: Source{Kind: FromCommandLine}}
	} else {
		problem := ""
		switch {
		case g.negate && f.negate:
			problem = "is negated multiple times"
		case g.reset && f.reset:
			problem = "is reset multiple times"
		case (g.reset && f.negate) || (g.negate && f.reset):
			problem = "cannot be negated and reset"
		case g.negate != f.negate:
			problem = "cannot be set and negated"
		case g.reset != f.reset:
			problem = "cannot be set and reset"
		case !hasValue || !row.multi():
			problem = "cannot be set multiple times"
		}
		if problem != "" {
			return 0, errs.New(errs.OptionInvalid, "option '%s' %s", full, problem)
		}
	}
	if hasValue {
		g.values = append(g.values, val)
	}
	return used, nil
}
