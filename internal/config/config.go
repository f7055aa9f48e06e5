// Package config turns the command line, the environment and the configuration files
// into the options of one command: one table of options and commands, four sources
// with one precedence, and errors that say where a wrong value came from.
//
// Names, values, defaults, precedence and messages are those of pgBackRest 2.60.0.
// Beyond it pgx reads pgx.toml and PGX_* variables, finds the stanza by itself, puts
// source and allowed values into an error and offers the name that was meant; called
// as pgbackrest it does none of what a script could notice: see [Input.Program].
//
// The package reads files and nothing else of the process: arguments, environment
// and working directory come in with [Input].
package config

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Input is everything a configuration is made from besides the files themselves.
type Input struct {
	// Program is the path this program was run as. Where its last part is
	// pgbackrest, the program stands in for that one: what pgx has beyond it
	// (commands, hints, stanza by itself) is left out.
	Program string
	Args    []string // the command line without the program
	Env     []string // NAME=value, as os.Environ gives it
	Dir     string   // the working directory: for relative --config and for archive-push without --stanza
	Root    string   // before the default locations of files, "" for the machine's own
	AsRoot  bool     // the user is root: an error for commands that must not run so
	ExecID  string   // value of exec-id where it was not given
	Version string   // of pgx, for help
}

// Config is the resolved configuration of one command.
type Config struct {
	Command Command  // CmdHelp also for --help and for no arguments at all
	Async   bool     // archive-push:async or archive-get:async: the worker in the background
	Params  []string // what stands behind the command
	// Warnings for the operator, in the order they came up; hints follow on lines of
	// their own that begin with HINT.
	Warnings []string

	in      Input
	dropIn  bool
	topic   Command // of help
	about   Option  // option of help, optionTotal for none
	target  Command // whose options these are; noCommand for all
	values  [optionTotal][]value
	groups  [groupTotal]indexes
	read    []*file
	stanzas []string
	asJSON  bool // config show
	locate  func(Source) Source
}

// indexes are the numbers in use of a group of options.
type indexes struct {
	numbers []int
	chosen  int // number that --repo or --pg chose, 0 for none
}

// loader holds what is only needed while a configuration is made.
type loader struct {
	in      Input
	dropIn  bool
	target  Command // whose options are read; noCommand: of all commands
	lenient bool    // leave out what is missing instead of failing
	cfg     *Config
	given   *[optionTotal][]numbered
	doc     document
	sources []*file
}

// Load makes the configuration of the command that Args ask for. With an error the
// Config is not nil: it holds the command, when that much was understood, and the
// warnings so far, so that both can be reported.
func Load(in Input) (*Config, error) { return load(in, nil) }

// load is Load with files that were read before, if not nil.
func load(in Input, read []*file) (*Config, error) {
	l := &loader{in: in, dropIn: filepath.Base(in.Program) == "pgbackrest", cfg: &Config{Command: CmdHelp, in: in, read: read}}
	l.cfg.dropIn = l.dropIn
	l.cfg.locate = l.locate
	return l.cfg, l.load()
}

func (l *loader) load() error {
	a, err := parseArguments(l.in.Args, l.dropIn)
	l.given = a.options
	if a.command != noCommand {
		l.cfg.Command = a.command
	}
	l.target = l.cfg.Command
	l.cfg.Params, l.cfg.Async = a.params, a.async
	if err != nil {
		return err
	}
	switch {
	case a.help:
		return l.help(a)
	case a.command == CmdConfigShow:
		if err := l.prepareShow(); err != nil {
			return err
		}
	}
	if !commands[a.command].noConfig {
		if err := l.readSources(); err != nil {
			return err
		}
	}
	if err := l.resolve(); err != nil {
		return err
	}
	if a.command == CmdConfigShow {
		return nil
	}
	if err := l.rules(); err != nil {
		return err
	}
	if commands[a.command].later {
		return errs.New(errs.FeatureNotSupported, "command '%s' is not supported yet", a.command)
	}
	return nil
}

// readSources takes options from the environment and the files. The stanza must be
// known before the sections of the files are.
func (l *loader) readSources() error {
	if err := l.environment(); err != nil {
		return err
	}
	if err := l.readFiles(); err != nil {
		return err
	}
	if !l.dropIn {
		l.warnOfSections() // first: a stanza may be missed because of one
	}
	l.cfg.stanzas = l.doc.stanzas()
	if err := l.chooseStanza(); err != nil {
		return err
	}
	return l.fromDocument()
}

func (l *loader) warn(format string, args ...any) {
	l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf(format, args...))
}

// valid says whether the command takes the option.
func (l *loader) valid(o Option) bool {
	row := &table[o]
	if l.cfg.Command == CmdConfigShow {
		// What is shown is another command's; with none named it is everything a
		// file may hold.
		if l.target == noCommand {
			return row.commands != 0 && (row.section != sectionNone || row.commands.has(CmdConfigShow))
		}
		return row.validFor(l.target, l.dropIn) || row.commands.has(CmdConfigShow) && o != OptOutput
	}
	return row.validFor(l.cfg.Command, l.dropIn)
}

// subject is the command whose defaults and limits hold.
func (l *loader) subject() Command { return l.target }

// Format prints the options as [Config.Begin] does whatever the verb, so that no
// secret can slip out.
func (c *Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.Begin()) }

// Stanzas gives the names of the configured stanzas, sorted.
func (c *Config) Stanzas() []string { return c.stanzas }

// Files gives the configuration files that were read, in order.
func (c *Config) Files() []string {
	var names []string
	for _, f := range c.read {
		names = append(names, f.name)
	}
	return names
}

// DropIn says whether the program was called as pgbackrest.
func (c *Config) DropIn() bool { return c.dropIn }
