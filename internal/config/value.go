package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

const redacted = logging.Redacted

// SourceKind says where a value came from.
type SourceKind uint8

// The kinds of source. FromConfiguration is what was worked out from the rest of the
// configuration, as the stanza is when only one is configured.
const (
	FromDefault SourceKind = iota
	FromCommandLine
	FromEnvironment
	FromFile
	FromConfiguration
)

// Source is where the value of an option came from.
type Source struct {
	Kind    SourceKind
	Name    string // of the variable or the file
	Section string // of the file, as it is written there
	Key     string // as it is written there
	Line    int    // of the file, 0 when it is not known
}

// String describes the source, such as "file '/etc/pgx/pgx.toml', section [global],
// line 3".
func (s Source) String() string {
	switch s.Kind {
	case FromCommandLine:
		return "command line"
	case FromEnvironment:
		return "variable " + s.Name
	case FromFile:
		text := "file '" + s.Name + "', section [" + s.Section + "]"
		if s.Line > 0 {
			text += ", line " + strconv.Itoa(s.Line)
		}
		return text
	case FromConfiguration:
		return s.Name
	}
	return "default"
}

// given is what was found for one option, before it is known to be valid.
type given struct {
	found, negate, reset bool
	values               []string
	source               Source
	native               string // type of a TOML value that is no string
}

// value is an option as it was resolved. Where set is false the option has none.
type value struct {
	set, negate, reset bool
	source             Source
	text               string // as it was given; y or n for a boolean; "" for a secret
	path               string // text of a path without its last slash
	number             int64  // integer, size in bytes, time in milliseconds
	list               []string
	hash               []pair
	steps              []Step
	secret             logging.Secret
	missing            *need // why the option does not count
}

type pair struct{ key, value string }

// parseInteger reads a whole number.
func parseInteger(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// parseSize reads a size in bytes: digits and one of b, k, kb, kib up to p, pb, pib
// in either case; units are powers of 1024.
func parseSize(text string) (int64, bool) {
	digits := strings.TrimRight(text, "bBiIkKmMgGtTpP")
	unit := strings.ToLower(text[len(digits):])
	if digits == "" || digits[0] < '0' || digits[0] > '9' {
		return 0, false
	}
	factor := int64(1)
	if unit != "" && unit != "b" {
		power := strings.IndexByte("kmgtp", unit[0])
		if power < 0 || (unit[1:] != "" && unit[1:] != "b" && unit[1:] != "ib") {
			return 0, false
		}
		factor <<= 10 * (power + 1)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, false
	}
	return n * factor, true
}

// parseTime reads a time in milliseconds: a whole number and one of ms, s, m, h, d,
// w in either case; without a unit it is seconds.
func parseTime(text string) (int64, bool) {
	lower := strings.ToLower(text)
	digits, factor := lower, int64(1000)
	if rest, is := strings.CutSuffix(lower, "ms"); is {
		digits, factor = rest, 1
	} else if n := len(lower); n > 0 {
		units := map[byte]int64{'s': 1000, 'm': 60_000, 'h': 3_600_000, 'd': 86_400_000, 'w': 604_800_000}
		if f, is := units[lower[n-1]]; is {
			digits, factor = lower[:n-1], f
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, false
	}
	return n * factor, true
}

// parseNumber reads text as the type of an option asks for.
func parseNumber(typ optionType, text string) (int64, bool) {
	switch typ {
	case typeSize:
		return parseSize(text)
	case typeTime:
		return parseTime(text)
	}
	return parseInteger(text)
}

// duration is a time of so many milliseconds; what does not fit is the longest there
// is, 292 years.
func duration(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// shape says in words what a value of a type looks like.
func shape(typ optionType) string {
	switch typ {
	case typeBoolean:
		return "allowed values are 'y', 'n'"
	case typeInteger:
		return "a whole number is expected"
	case typeSize:
		return "a size such as 512KiB, 16MiB or 1GiB is expected"
	case typeTime:
		return "a time such as 500ms, 30s, 10m, 1h or 7d is expected"
	case typePath:
		return "an absolute path is expected"
	case typeHash:
		return "key=value is expected"
	}
	return ""
}

// read checks the given values of an option and fills v with them. matched is the
// value of the option that this one needs, where its range depends on it.
func (l *loader) read(v *value, o Option, index int, g *given, matched string, needed Option) error {
	row := &table[o]
	v.set, v.source = true, g.source
	name := o.at(index)
	if g.native == "boolean" && row.typ != typeBoolean && !row.boolLike {
		return l.wrong(errs.OptionInvalidValue, g, shape(row.typ), "true and false are not valid for '%s' option", name)
	}

	switch row.typ {
	case typeBoolean:
		v.text = "y"
		if g.negate {
			v.text = "n"
		}
		return nil
	case typeList:
		v.list = g.values
		for _, text := range g.values {
			if allow := row.allowed(l.subject()); allow != nil && !slices.Contains(allow, text) {
				return l.notAllowed(g, text, name, allow)
			}
		}
		return nil
	case typeHash:
		if err := l.readHash(v, name, g); err != nil || row.steps == nil {
			return err
		}
		return l.readSteps(v, row.steps, name, g)
	}

	text := g.values[0]
	shown := text
	if row.secret {
		v.secret, shown = logging.NewSecret(text), redacted
	} else {
		v.text = text
	}
	switch row.typ {
	case typeInteger, typeSize, typeTime:
		n, ok := parseNumber(row.typ, text)
		if !ok {
			return l.wrong(errs.OptionInvalidValue, g, shape(row.typ), "'%s' is not valid for '%s' option", shown, name)
		}
		v.number = n
		if r, is := row.limitsFor(matched); is {
			lo, _ := parseNumber(row.typ, r.min)
			hi, _ := parseNumber(row.typ, r.max)
			if n < lo || n > hi {
				when := ""
				if r.when != "" {
					when = fmt.Sprintf(" when '%s' option = '%s'", needed.at(index), r.when)
				}
				return l.wrongHint(errs.OptionInvalidValue, g, "allowed range is "+r.min+" to "+r.max+" inclusive",
					"'%s' is out of range for '%s' option%s", shown, name, when)
			}
		}
	case typeString, typePath:
		if text == "" {
			return l.wrong(errs.OptionInvalidValue, g, "", "'%s' must be >= 1 character for '%s' option", text, name)
		}
		if row.typ == typePath {
			if !strings.HasPrefix(text, "/") {
				return l.wrong(errs.OptionInvalidValue, g, "", "'%s' must begin with / for '%s' option", shown, name)
			}
			if strings.Contains(text, "//") {
				return l.wrong(errs.OptionInvalidValue, g, "", "'%s' cannot contain // for '%s' option", shown, name)
			}
			v.path = text
			if len(text) > 1 {
				v.path = strings.TrimSuffix(text, "/")
			}
		}
	}

	allow := row.allowed(l.subject())
	if allow == nil {
		return nil
	}
	for _, a := range allow {
		if a == text {
			return nil
		}
		if row.typ == typeSize {
			if n, _ := parseSize(a); n == v.number {
				return nil
			}
		}
	}
	return l.notAllowed(g, shown, name, allow)
}

func (l *loader) notAllowed(g *given, text, name string, allow []string) error {
	return l.wrongHint(errs.OptionInvalidValue, g, "allowed values are '"+strings.Join(allow, "', '")+"'",
		"'%s' is not allowed for '%s' option", text, name)
}

func (l *loader) readHash(v *value, name string, g *given) error {
	for _, text := range g.values {
		key, val, is := strings.Cut(text, "=")
		if !is {
			return l.wrong(errs.OptionInvalid, g, shape(typeHash), "key/value '%s' not valid for '%s' option", text, name)
		}
		known := false
		for i := range v.hash {
			if v.hash[i].key == key {
				l.warn("key '%s' value '%s' is overwritten with '%s' for '%s' option", key, v.hash[i].value, val, name)
				v.hash[i].value, known = val, true
			}
		}
		if !known {
			v.hash = append(v.hash, pair{key, val})
		}
	}
	return nil
}

// wrong makes the error of a value that cannot be: what pgBackRest would say, then
// where the value came from and what is allowed, all on one line. Called as
// pgbackrest it says no more than that program.
func (l *loader) wrong(code errs.Code, g *given, allowed, format string, args ...any) error {
	err := errs.New(code, format, args...)
	if l.dropIn {
		return err
	}
	err.Message += " (" + l.locate(g.source).String()
	if allowed != "" {
		err.Message += "; " + allowed
	}
	err.Message += ")"
	return err
}

// wrongHint is wrong where pgBackRest gives what is allowed as a hint.
func (l *loader) wrongHint(code errs.Code, g *given, allowed, format string, args ...any) error {
	err := l.wrong(code, g, allowed, format, args...)
	if l.dropIn {
		return errs.WithHint(err, "%s", allowed)
	}
	return err
}
