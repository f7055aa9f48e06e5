package config

import (
	"bytes"
	"strings"

	"gopkg.in/ini.v1"

	"github.com/pgx-backup/pgx/internal/errs"
)

// guard stands around every name and value that is handed to ini.v1, so that none
// of its own rules applies to them: it would otherwise take away quotes and
// backticks and blanks, see comments behind ';', and count keys named '-'.
const guard = "\x00"

type iniKind uint8

const (
	iniBlank iniKind = iota
	iniComment
	iniSection
	iniKey
)

// iniLine is one line of an INI file.
type iniLine struct {
	kind iniKind
	name string // of the section or key
	text string // value, or the comment with its '#'
}

// scanINI goes through the lines of an INI file by the rules of pgbackrest.conf:
// blanks around a line, a key and a value are dropped, '#' begins a comment only at
// the beginning of a line, everything else is kept as it is. It stops when yield
// gives an error.
func scanINI(data []byte, yield func(line int, l iniLine) error) error {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	const blanks = " \t\r\n"
	section := false
	for number := 1; len(data) > 0; number++ {
		var raw []byte
		raw, data, _ = bytes.Cut(data, []byte("\n"))
		text := string(bytes.Trim(raw, blanks))
		var l iniLine
		switch {
		case text == "":
		case text[0] == '#':
			l = iniLine{kind: iniComment, text: text}
		case text[0] == '[':
			if text[len(text)-1] != ']' {
				return errs.New(errs.Format, "ini section should end with ] at line %d: %s", number, text)
			}
			l = iniLine{kind: iniSection, name: text[1 : len(text)-1]}
			if l.name == "" {
				return errs.New(errs.Format, "invalid empty section at line %d: %s", number, text)
			}
			section = true
		default:
			key, val, is := strings.Cut(text, "=")
			key = strings.Trim(key, blanks)
			switch {
			case !section:
				return errs.New(errs.Format, "key/value found outside of section at line %d: %s", number, withoutSecret(text))
			case !is:
				return errs.New(errs.Format, "missing '=' in key/value at line %d: %s", number, withoutSecret(text))
			case key == "":
				return errs.New(errs.Format, "key is zero-length at line %d: %s", number, text)
			}
			l = iniLine{kind: iniKey, name: key, text: strings.Trim(val, blanks)}
		}
		if err := yield(number, l); err != nil {
			return err
		}
	}
	return nil
}

// readINI reads an INI file into d.
func (d *document) readINI(file *file) error {
	var guarded bytes.Buffer
	err := scanINI(file.data, func(_ int, l iniLine) error {
		switch l.kind {
		case iniSection:
			guarded.WriteString("[" + guard + l.name + guard + "]\n")
		case iniKey:
			guarded.WriteString(guard + l.name + guard + "=" + guard + l.text + guard + "\n")
		}
		return nil
	})
	if err != nil {
		return err
	}
	parsed, err := ini.LoadSources(ini.LoadOptions{
		AllowShadows:               true, // a key that stands several times is a list
		AllowDuplicateShadowValues: true,
		IgnoreInlineComment:        true,
		IgnoreContinuation:         true,
		PreserveSurroundedQuote:    true,
		KeyValueDelimiters:         "=",
	}, guarded.Bytes())
	if err != nil {
		return errs.New(errs.Format, "%w", err)
	}
	for _, s := range parsed.Sections() {
		section, is := unguard(s.Name())
		if !is {
			continue // the section ini.v1 makes for keys outside of any
		}
		for _, k := range s.Keys() {
			name, _ := unguard(k.Name())
			for _, v := range k.ValueWithShadows() {
				val, _ := unguard(v)
				d.add(section, name, val, "", file)
			}
		}
	}
	return nil
}

func unguard(text string) (string, bool) {
	rest, is := strings.CutPrefix(text, guard)
	return strings.TrimSuffix(rest, guard), is
}

// lineOfINI finds where a key stands, 0 when it does not.
func lineOfINI(data []byte, section, key string) int {
	current, at := "", 0
	// The file was read before, so that no error is left to report.
	_ = scanINI(data, func(number int, l iniLine) error {
		switch {
		case l.kind == iniSection:
			current = l.name
		case l.kind == iniKey && at == 0 && current == section && l.name == key:
			at = number
		}
		return nil
	})
	return at
}
