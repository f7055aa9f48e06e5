package config

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/pgx-backup/pgx/internal/errs"
)

// sectionGlobalName is the section whose options hold for every stanza.
const sectionGlobalName = "global"

// fileLimit bounds a configuration file. Real ones have a few kilobytes.
const fileLimit = 4 << 20

// Where configuration files are looked for when nobody says where.
const (
	ownConfig      = "/etc/pgx/pgx.toml"
	peerConfigPath = "/etc/pgbackrest"
	peerConfigName = "pgbackrest.conf"
	ownConfigName  = "pgx.toml"
	includeName    = "conf.d"
	oldPeerConfig  = "/etc/pgbackrest.conf"
)

// file is a configuration file that was read.
type file struct {
	name string
	data []byte
}

func (f *file) isTOML() bool { return strings.HasSuffix(f.name, ".toml") }

// entry is one key of a section with all its values.
type entry struct {
	key     string
	values  []string
	native  string // type of a TOML value that is no string, such as "boolean"
	written string // the section as the file names it
	file    *file  // where the key stands first
}

// document is what the configuration files say together. Its sections have the
// names of pgbackrest.conf, also where they came from TOML: global, global:backup,
// demo, demo:backup.
type document struct {
	names    []string
	sections map[string][]*entry
	tables   []string // TOML tables that mean nothing
}

func (d *document) add(section, key, val, native string, f *file) {
	d.entry(section, section, key, native, f).values = append(d.entry(section, section, key, native, f).values, val)
}

// entry gives the entry of a key, which it makes when there is none.
func (d *document) entry(section, written, key, native string, f *file) *entry {
	if d.sections == nil {
		d.sections = map[string][]*entry{}
	}
	entries, known := d.sections[section]
	if !known {
		d.names = append(d.names, section)
	}
	for _, e := range entries {
		if e.key == key {
			return e
		}
	}
	e := &entry{key: key, native: native, written: written, file: f}
	d.sections[section] = append(entries, e)
	return e
}

// stanzas gives the names of the stanzas that have a section, sorted.
func (d *document) stanzas() []string {
	var names []string
	seen := map[string]bool{}
	for _, s := range d.names {
		name, _, _ := strings.Cut(s, ":")
		if name != sectionGlobalName && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// files says which configuration files to read, as the options config,
// config-path and config-include-path and the defaults say. A file that must exist
// is named by an option.
type files struct {
	main        []string // the first that exists
	required    bool
	include     string // directory of further *.conf files, "" for none
	includeMust bool
}

func (l *loader) whichFiles() files {
	option := func(o Option) (string, *given) {
		for _, n := range l.given[o] {
			if n.given.found && !n.given.reset {
				if len(n.given.values) > 0 {
					return n.given.values[0], n.given
				}
				return "", n.given
			}
		}
		return "", nil
	}
	config, configGiven := option(OptConfig)
	path, pathGiven := option(OptConfigPath)
	include, includeGiven := option(OptConfigIncludePath)

	var f files
	switch {
	case configGiven != nil && configGiven.negate:
	case configGiven != nil:
		f.main, f.required = []string{l.cfg.fromHere(config)}, true
	case pathGiven != nil:
		path := l.cfg.fromHere(path)
		f.main = []string{filepath.Join(path, ownConfigName), filepath.Join(path, peerConfigName)}
	default:
		f.main = []string{
			filepath.Join(l.in.Root, ownConfig),
			filepath.Join(l.in.Root, peerConfigPath, peerConfigName),
			filepath.Join(l.in.Root, oldPeerConfig),
		}
	}
	switch {
	case includeGiven != nil:
		f.include, f.includeMust = l.cfg.fromHere(include), true
	case pathGiven != nil:
		f.include = filepath.Join(l.cfg.fromHere(path), includeName)
	case configGiven == nil:
		f.include = filepath.Join(l.in.Root, peerConfigPath, includeName)
	}
	return f
}

// fromHere makes a path that was given absolute.
func (c *Config) fromHere(path string) string {
	if filepath.IsAbs(path) || c.in.Dir == "" {
		return path
	}
	return filepath.Join(c.in.Dir, path)
}

// readFiles takes in the configuration files, in the state in which they were read first.
func (l *loader) readFiles() error {
	if l.cfg.read == nil {
		if err := l.findFiles(); err != nil {
			return err
		}
	}
	for _, f := range l.cfg.read {
		if err := l.readDocument(f); err != nil {
			return err
		}
	}
	return nil
}

// findFiles reads the configuration files.
func (l *loader) findFiles() error {
	l.cfg.read = []*file{}
	which := l.whichFiles()
	for i, name := range which.main {
		f, err := readFile(name, !which.required)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		l.cfg.read = append(l.cfg.read, f)
		// The default conf.d belongs to pgbackrest.conf, not to pgx.toml.
		if i == 0 && len(which.main) > 1 && !which.includeMust {
			return nil
		}
		break
	}
	if which.include == "" {
		return nil
	}
	names, err := includes(which.include, which.includeMust)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := readFile(name, true)
		if err != nil {
			return err
		}
		if f != nil {
			l.cfg.read = append(l.cfg.read, f)
		}
	}
	return nil
}

func (l *loader) readDocument(f *file) error {
	read := l.doc.readINI
	if f.isTOML() {
		read = l.doc.readTOML
	}
	err := read(f)
	var own *errs.Error
	if errors.As(err, &own) && !l.dropIn {
		own.Message += " (file '" + f.name + "')"
	}
	l.sources = append(l.sources, f)
	return err
}

// readFile reads one file; nil when it does not exist and may be missing.
func readFile(name string, mayMiss bool) (*file, error) {
	r, err := os.Open(name)
	switch {
	case mayMiss && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)):
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, errs.New(errs.FileMissing, "unable to open missing file '%s' for read", name)
	case err != nil:
		return nil, errs.New(errs.FileOpen, "unable to open file '%s' for read: %s", name, systemError(err))
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, fileLimit+1))
	if err != nil {
		return nil, errs.New(errs.FileRead, "unable to read '%s': %s", name, systemError(err))
	}
	if len(data) > fileLimit {
		return nil, errs.New(errs.Config, "configuration file '%s' is larger than %d bytes", name, fileLimit)
	}
	return &file{name: name, data: data}, nil
}

// includes lists the *.conf files of a directory, sorted.
func includes(dir string, must bool) ([]string, error) {
	list, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !must:
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, errs.New(errs.PathMissing, "unable to list file info for missing path '%s'", dir)
	case err != nil:
		return nil, errs.New(errs.PathOpen, "unable to list file info for path '%s': %s", dir, systemError(err))
	}
	var names []string
	for _, e := range list {
		if name := e.Name(); strings.HasSuffix(name, ".conf") && name != ".conf" {
			names = append(names, filepath.Join(dir, name))
		}
	}
	return names, nil
}

// systemError writes an error of the operating system as "[13] Permission denied".
func systemError(err error) string {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return err.Error()
	}
	text := no.Error()
	return "[" + itoa(int(no)) + "] " + strings.ToUpper(text[:1]) + text[1:]
}

// locate fills in the line of a source, which costs another look through the file
// and is done only when somebody will read it.
func (l *loader) locate(s Source) Source {
	if s.Kind != FromFile || s.Line != 0 {
		return s
	}
	for _, f := range l.sources {
		if f.name != s.Name {
			continue
		}
		if f.isTOML() {
			s.Line = lineOfTOML(f.data, s.Section, s.Key)
		} else {
			s.Line = lineOfINI(f.data, s.Section, s.Key)
		}
	}
	return s
}

// fromDocument takes options from the sections that count, the most specific first.
// What was given before stays.
func (l *loader) fromDocument() error {
	names := l.stanzaSections()
	if l.target != noCommand {
		names = append(names, sectionGlobalName+":"+l.target.String())
	}
	names = append(names, sectionGlobalName)
	for _, name := range names {
		if err := l.fromSection(name); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) stanzaSections() []string {
	stanza := l.stanza()
	switch {
	case stanza == "":
		return nil
	case l.target == noCommand:
		return []string{stanza}
	}
	return []string{stanza + ":" + l.target.String(), stanza}
}

// stanza gives the stanza that was chosen, "" for none.
func (l *loader) stanza() string {
	for _, n := range l.given[OptStanza] {
		if n.given.found && len(n.given.values) > 0 {
			return n.given.values[0]
		}
	}
	return ""
}

func (l *loader) fromSection(section string) error {
	global := section == sectionGlobalName || strings.HasPrefix(section, sectionGlobalName+":")
	ofCommand := strings.Contains(section, ":")
	type slot struct {
		option Option
		index  int
	}
	seen := map[slot]string{}
	for _, e := range l.doc.sections[section] {
		f, err := lookup(e.key, false, false)
		switch {
		case err != nil:
			return err
		case !f.ok:
			hint := ""
			if near := nearOption(e.key); near != "" && !l.dropIn {
				hint = "\nHINT: did you mean '" + near + "'?"
			}
			l.warn("configuration file contains invalid option '%s'%s", withoutSecret(e.key), hint)
			continue
		case f.negate:
			l.warn("configuration file contains negate option '%s'", e.key)
			continue
		case f.reset:
			l.warn("configuration file contains reset option '%s'", e.key)
			continue
		}
		row := &table[f.option]
		if row.section == sectionNone {
			l.warn("configuration file contains command-line only option '%s'", e.key)
			continue
		}
		s := slot{f.option, f.index}
		if other, twice := seen[s]; twice {
			return errs.New(errs.OptionInvalid, "configuration file contains duplicate options ('%s', '%s') in section '[%s]'",
				e.key, other, e.written)
		}
		seen[s] = e.key
		if !l.valid(f.option) {
			if ofCommand {
				l.warn("configuration file contains option '%s' invalid for section '%s'", e.key, e.written)
			}
			continue
		}
		if row.section == sectionStanza && global {
			l.warn("configuration file contains stanza-only option '%s' in global section '%s'", e.key, e.written)
			continue
		}
		g := at(l.given, f.option, f.index)
		if g.found {
			continue
		}
		*g = given{found: true, values: e.values, native: e.native,
			source: Source{Kind: FromFile, Name: e.file.name, Section: e.written, Key: e.key}}
		if err := l.checkEntry(g, row, f, e); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) checkEntry(g *given, row *option, f found, e *entry) error {
	if len(e.values) > 1 {
		if !row.multi() {
			return l.wrong(errs.OptionInvalid, g, "", "option '%s' cannot be set multiple times", f.option.at(f.index))
		}
		return nil
	}
	if len(e.values) == 0 || e.values[0] == "" {
		return l.wrong(errs.OptionInvalidValue, g, "", "section '%s', key '%s' must have a value", e.written, e.key)
	}
	if row.typ == typeBoolean {
		if e.values[0] != "y" && e.values[0] != "n" {
			err := l.wrong(errs.OptionInvalidValue, g, l.booleanHelp(e, g), "boolean option '%s' must be 'y' or 'n'", e.key)
			return err
		}
		g.negate = e.values[0] == "n"
	}
	return nil
}

// booleanHelp says what was found instead of y or n.
func (l *loader) booleanHelp(e *entry, g *given) string {
	if e.file.isTOML() {
		return "'" + g.values[0] + "' was found, true or false is expected"
	}
	return "'" + g.values[0] + "' was found"
}

// warnOfSections tells of sections that nothing reads, which is mostly a command
// misspelt.
func (l *loader) warnOfSections() {
	for _, name := range l.doc.names {
		_, command, is := strings.Cut(name, ":")
		if !is {
			continue
		}
		known := false
		for i := range commands {
			known = known || commands[i].name == command
		}
		if known {
			continue
		}
		hint := ""
		if near := nearCommand(command); near != "" {
			hint = "\nHINT: did you mean '" + near + "'?"
		}
		l.warn("configuration file contains section '[%s]' of a command that does not exist%s", l.doc.sections[name][0].written, hint)
	}
	for _, t := range l.doc.tables {
		l.warn("configuration file contains table '[%s]' that is neither [global] nor [stanza.NAME]", t)
	}
}
