package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Convert reads the configuration file name, relative to dir, and gives it in the other
// form: TOML for an INI file, INI for a file whose name ends in .toml. Keys, values,
// their order and comments stay. What stands in the file several times comes
// together at its first place, and a comment behind a value or inside of one comes
// before it.
func Convert(dir, name string) (string, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	f, err := readFile(name, false)
	if err != nil {
		return "", err
	}
	convert := toTOML
	if f.isTOML() {
		convert = toINI
	}
	out, err := convert(f)
	if err == nil {
		err = checkConverted(f, out)
	}
	if err != nil {
		return "", errs.Wrap(err, "unable to convert '%s'", name)
	}
	return out, nil
}

// checkConverted reads what was written and compares it with the original, so that a
// file which has no equal in the other form is refused rather than bent.
func checkConverted(f *file, out string) error {
	var before, after document
	read, readBack := before.readINI, after.readTOML
	if f.isTOML() {
		read, readBack = before.readTOML, after.readINI
	}
	if err := read(f); err != nil {
		return err
	}
	if err := readBack(&file{name: f.name, data: []byte(out)}); err != nil {
		return errs.New(errs.Format, "it cannot be said in the other form: %w", err)
	}
	if err := same(&before, &after); err != nil {
		return errs.New(errs.Format, "it cannot be said in the other form: %w", err)
	}
	return nil
}

// same gives an error unless two documents hold the same values, in each section in the same order.
func same(a, b *document) error {
	// In TOML the tables of one stanza come together.
	if !slices.Equal(slices.Sorted(slices.Values(a.names)), slices.Sorted(slices.Values(b.names))) {
		return fmt.Errorf("sections %q become %q", a.names, b.names)
	}
	for _, s := range a.names {
		x, y := a.sections[s], b.sections[s]
		if len(x) != len(y) {
			return fmt.Errorf("[%s] has %d keys and then %d", s, len(x), len(y))
		}
		for i := range x {
			if x[i].key != y[i].key || !slices.Equal(x[i].values, y[i].values) {
				return fmt.Errorf("key '%s' of [%s] differs", x[i].key, s)
			}
		}
	}
	return nil
}

// outline is a document with its comments: what a conversion writes.
type outline struct {
	comments map[string][]string // by section, and by section and key
	last     []string            // behind the last key
}

// take gives the comments of a key, which are then used up.
func (o *outline) take(section, key string) []string {
	k := outlineKey(section, key)
	lines := o.comments[k]
	delete(o.comments, k)
	return lines
}

// rest gives the comments that nothing took, such as those of an empty table.
func (o *outline) rest() []string {
	keys := make([]string, 0, len(o.comments))
	for k := range o.comments {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var lines []string
	for _, k := range keys {
		lines = append(lines, o.comments[k]...)
	}
	return append(lines, o.last...)
}

func outlineKey(section, key string) string { return section + "\x00" + key }

func toTOML(f *file) (string, error) {
	if !utf8.Valid(f.data) {
		return "", errs.New(errs.Format, "it holds bytes that are not UTF-8, which TOML does not allow")
	}
	var d document
	if err := d.readINI(f); err != nil {
		return "", err
	}
	o := outline{comments: map[string][]string{}}
	var sections []string // also those without a key
	seen := map[string]bool{}
	section := ""
	var pending []string
	// The file was read a moment ago: no error is left to find.
	_ = scanINI(f.data, func(_ int, l iniLine) error {
		switch l.kind {
		case iniComment:
			pending = append(pending, l.text)
		case iniSection:
			section = l.name
			if !seen[section] {
				seen[section] = true
				sections = append(sections, section)
			}
			o.comments[outlineKey(section, "")] = append(o.comments[outlineKey(section, "")], pending...)
			pending = nil
		case iniKey:
			o.comments[outlineKey(section, l.name)] = append(o.comments[outlineKey(section, l.name)], pending...)
			pending = nil
		}
		return nil
	})
	o.last = pending

	var b strings.Builder
	for i, s := range sections {
		path, err := tablePath(s)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		writeLines(&b, o.take(s, ""))
		b.WriteString("[" + pathText(path) + "]\n")
		for _, e := range d.sections[s] {
			writeLines(&b, o.take(s, e.key))
			text, err := tomlValue(e)
			if err != nil {
				return "", err
			}
			b.WriteString(tomlKey(e.key) + " = " + text + "\n")
		}
	}
	writeLines(&b, o.rest())
	return b.String(), nil
}

func writeLines(b *strings.Builder, lines []string) {
	for _, l := range lines {
		b.WriteString(strings.Map(tomlComment, l) + "\n")
	}
}

// tomlComment leaves out the control characters that TOML does not allow in comments.
func tomlComment(r rune) rune {
	if r != '\t' && (r < ' ' || r == 0x7f) {
		return -1
	}
	return r
}

// tablePath gives the TOML table of a section.
func tablePath(section string) ([]string, error) {
	name, command, ofCommand := strings.Cut(section, ":")
	path := []string{sectionGlobalName}
	switch {
	case name == "":
		return nil, errs.New(errs.Format, "section [%s] has no meaning", section)
	case name != sectionGlobalName:
		path = []string{tomlStanza, name}
	}
	if ofCommand {
		// Such a table would be taken for a hash.
		if isHash(command) || command == "" {
			return nil, errs.New(errs.Format, "section [%s] has no meaning", section)
		}
		path = append(path, command)
	}
	return path, nil
}

// tomlValue writes the values of a key as the type of its option asks for.
func tomlValue(e *entry) (string, error) {
	f, err := lookup(e.key, false, true)
	typ := typeString
	if err == nil && f.ok {
		typ = table[f.option].typ
	}
	switch {
	case typ == typeHash:
		return tomlTable(e.values), nil
	case typ == typeList || len(e.values) != 1:
		return tomlArray(e.values), nil
	}
	text := e.values[0]
	switch n, is := parseInteger(text); {
	case typ == typeBoolean && text == "y", err == nil && f.ok && table[f.option].boolLike && text == "y":
		return "true", nil
	case typ == typeBoolean && text == "n", err == nil && f.ok && table[f.option].boolLike && text == "n":
		return "false", nil
	case (typ == typeInteger || typ == typeSize || typ == typeTime) && is && strconv.FormatInt(n, 10) == text:
		return text, nil
	}
	return tomlString(text), nil
}

func tomlArray(values []string) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = tomlString(v)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// tomlTable writes a hash as a table, or as an array where it has a key twice or a
// value without one.
func tomlTable(values []string) string {
	parts := make([]string, len(values))
	seen := map[string]bool{}
	for i, v := range values {
		key, val, is := strings.Cut(v, "=")
		if !is || seen[key] {
			return tomlArray(values)
		}
		seen[key] = true
		parts[i] = tomlKey(key) + " = " + tomlString(val)
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func toINI(f *file) (string, error) {
	var d document
	if err := d.readTOML(f); err != nil {
		return "", err
	}
	if len(d.tables) > 0 {
		return "", errs.New(errs.Format, "table [%s] is neither [global] nor [stanza.NAME]", d.tables[0])
	}
	o := outlineOfTOML(f)
	var b strings.Builder
	for i, s := range d.names {
		if i > 0 {
			b.WriteByte('\n')
		}
		if err := plainINI("section", s); err != nil {
			return "", err
		}
		writeLines(&b, o.take(s, ""))
		b.WriteString("[" + s + "]\n")
		for _, e := range d.sections[s] {
			if err := plainINI("key", e.key); err != nil || strings.HasPrefix(e.key, "#") || strings.HasPrefix(e.key, "[") ||
				strings.Contains(e.key, "=") || e.key == "" {
				return "", errs.New(errs.Format, "key %q cannot stand in an INI file", e.key)
			}
			writeLines(&b, o.take(s, e.key))
			if len(e.values) == 0 {
				return "", errs.New(errs.Format, "key '%s' has an empty array, which an INI file cannot hold", e.key)
			}
			for _, v := range e.values {
				if err := plainINI("value of '"+e.key+"'", v); err != nil {
					return "", err
				}
				b.WriteString(e.key + "=" + v + "\n")
			}
		}
	}
	writeLines(&b, o.rest())
	return b.String(), nil
}

// plainINI refuses what an INI file cannot hold.
func plainINI(what, text string) error {
	if strings.Trim(text, " \t\r\n") != text || strings.ContainsAny(text, "\n\x00") {
		return fmt.Errorf("%s has blanks at its beginning or end, or several lines, which an INI file cannot hold", what)
	}
	return nil
}

// outlineOfTOML finds the comments of a TOML file.
func outlineOfTOML(f *file) outline {
	o := outline{comments: map[string][]string{}}
	var pending []string
	for _, item := range scanTOML(string(f.data)) {
		if item.kind == iniComment {
			pending = append(pending, item.comment)
			continue
		}
		if item.kind == iniBlank {
			continue
		}
		pending = append(pending, item.comments...)
		section, key := sectionOf(item.path)
		o.comments[outlineKey(section, key)] = append(o.comments[outlineKey(section, key)], pending...)
		pending = nil
	}
	o.last = pending
	return o
}

// sectionOf turns the path of a table or key into a section and, for a key, its name.
func sectionOf(path []string) (section, key string) {
	switch {
	case len(path) > 1 && path[0] == tomlStanza:
		section, path = path[1], path[2:]
	case len(path) > 0:
		section, path = path[0], path[1:]
	}
	if len(path) > 0 && isCommandTable(path[0]) {
		section, path = section+":"+path[0], path[1:]
	}
	if len(path) > 0 {
		key = path[0] // a deeper path is within a hash
	}
	return section, key
}

// isCommandTable says whether a name within a table is that of a command, not of an
// option.
func isCommandTable(name string) bool {
	for i := range commands {
		if commands[i].name == name {
			return true
		}
	}
	return false
}
