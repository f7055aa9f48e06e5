package config

import (
	"fmt"
	"sort"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// maxIndex is the largest number of a pgN- or repoN- option.
const maxIndex = 256

// maxNameLength is the longest name an option may be given under.
const maxNameLength = 64

type optionType uint8

const (
	typeBoolean optionType = iota
	typeInteger
	typeSize
	typeTime
	typeString
	typePath
	typeList
	typeHash
	typeStringID
)

var typeNames = [...]string{"boolean", "integer", "size", "time", "string", "path", "list", "hash", "one of"}

// section says where an option may stand.
type section uint8

const (
	sectionNone   section = iota // command line and environment only
	sectionGlobal                // any section of a file
	sectionStanza                // the sections of a stanza
)

// group makes an option a numbered one: pg1-path, repo2-type.
type group uint8

const (
	groupNone group = iota
	groupPg
	groupRepo
	groupTotal = iota
)

var groupNames = [...]string{"", "pg", "repo"}

// option is one row of the table. Values are written as a person would write them;
// booleans are y and n.
type option struct {
	name    string
	typ     optionType
	area    area
	section section
	group   group

	commands    commandSet // that know the option
	own         commandSet // of these, where only pgx knows it
	unseen      commandSet // of these, whose help shows it only under pgx's own name
	requiredFor commandSet // exceptions to required
	optionalFor commandSet
	internalFor commandSet // commands whose help does not show it

	required bool // an error when it has neither value nor default
	internal bool // not shown in help
	beta     bool // needs --beta
	secret   bool // never on the command line, never printed
	boolLike bool // takes y and n as --name and --no-name
	negate   bool // has a --no-name

	def            string         // default, "" for none
	defaultProgram bool           // the default is the path this program was run as
	defFor         []commandValue // default of single commands
	defWhen        []choice       // default by the value of the option that needs names

	steps *steps // a hash whose pairs are numbers

	allow     []string // the only values
	allowFor  []commandList
	min, max  string   // inclusive; "" when unlimited
	rangeWhen []limits // limits by the value of the option that needs names

	needs    *need // without it the option has no effect
	needsFor []commandNeed

	old []oldName // spellings of the past

	summary string  // a sentence
	more    string  // what a person should know besides
	later   []later // values whose function does not exist yet
}

type commandValue struct {
	commands commandSet
	value    string
}

type commandList struct {
	commands commandSet
	values   []string
}

type choice struct{ when, value string }

type limits struct{ when, min, max string }

// need ties an option to another: it counts only when that one has a value, and,
// when values are named, one of these. otherwise is the value then; "" is none.
type need struct {
	option    Option
	values    []string
	otherwise string
	peer      bool // only when called as pgbackrest
}

type commandNeed struct {
	commands commandSet
	need     need
}

// oldName is a spelling that is still accepted. indexed names carry a number
// (db1-path), plain ones none (db-path, which means number 1).
type oldName struct {
	name           string
	indexed, plain bool
}

type level uint8

const (
	refused level = iota // ignoring it could cost data or safety: an error
	ignored              // it can be left out: a warning
)

// later marks values that are known and have no function yet, or never will have one.
type later struct {
	level    level
	never    bool       // pgx has something else for it
	remote   bool       // it matters only where another host has a part in the command
	values   []string   // nil: every value that is given
	commands commandSet // 0: all
	text     string     // what happens instead, or what to do
}

type area uint8

const (
	areaCommand area = iota
	areaBackup
	areaRestore
	areaArchive
	areaGeneral
	areaCluster
	areaRepo
	areaRepoHost
	areaObjectStore
	areaS3
	areaAzure
	areaGCS
	areaSFTP
	areaListener
	areaTLSServer
	areaTotal = iota
)

var areaNames = [...]string{
	"Command line only", "Backup", "Restore", "Archive", "General", "Cluster", "Repository", "Repository host",
	"Object storage", "S3", "Azure", "GCS", "SFTP", "Listener", "TLS server",
}

// String gives the name without a number, such as "repo-path".
func (o Option) String() string { return table[o].name }

// at gives the name under which a person writes the option, such as "repo2-path".
func (o Option) at(index int) string {
	row := &table[o]
	if row.group == groupNone {
		return row.name
	}
	prefix := groupNames[row.group]
	return fmt.Sprintf("%s%d%s", prefix, index, row.name[len(prefix):])
}

// multi says that the option may be given several times.
func (row *option) multi() bool { return row.typ == typeList || row.typ == typeHash }

func (row *option) validFor(c Command, dropIn bool) bool {
	return row.commands.has(c) && !(dropIn && row.own.has(c))
}

// shown says whether the help of a command lists the option.
func (row *option) shown(c Command, dropIn bool) bool {
	return row.validFor(c, dropIn) && !row.internal && !row.internalFor.has(c) && !(dropIn && row.unseen.has(c))
}

// ours says that no command of pgbackrest knows the option.
func (row *option) ours() bool {
	return row.commands != 0 && row.commands&^(row.own|row.unseen|setOwn|cConfigShow) == 0
}

func (row *option) isRequired(c Command) bool {
	if row.requiredFor.has(c) {
		return true
	}
	return row.required && !row.optionalFor.has(c)
}

func (row *option) allowed(c Command) []string {
	for _, f := range row.allowFor {
		if f.commands.has(c) {
			return f.values
		}
	}
	return row.allow
}

func (row *option) need(c Command) *need {
	for i := range row.needsFor {
		if row.needsFor[i].commands.has(c) {
			return &row.needsFor[i].need
		}
	}
	return row.needs
}

// defaultFor gives the default for a command, where matched is the value of the
// option that needs names. program is the path this program was run as.
func (row *option) defaultFor(c Command, matched, program string) (string, bool) {
	for _, f := range row.defFor {
		if f.commands.has(c) {
			return f.value, true
		}
	}
	for _, w := range row.defWhen {
		if w.when == matched {
			return w.value, true
		}
	}
	if row.defaultProgram {
		return program, true
	}
	return row.def, row.def != ""
}

// limitsFor gives the allowed range; when is set where it depends on another option.
func (row *option) limitsFor(matched string) (limits, bool) {
	for _, r := range row.rangeWhen {
		if r.when == matched {
			return r, true
		}
	}
	return limits{min: row.min, max: row.max}, row.min != ""
}

// found is what a name stands for.
type found struct {
	option        Option
	index         int // 1 where the option has no number
	negate, reset bool
	ok            bool
}

// exactly finds an option by its own name.
func exactly(name string) (Option, bool) {
	i := sort.Search(optionTotal, func(i int) bool { return table[i].name >= name })
	return Option(i), i < optionTotal && table[i].name == name
}

// lookup finds an option by the name it was given under: with a number, with no- or
// reset- before it, under an old spelling, and, where abbreviated is set, by the
// beginning of its name. A name that is none gives found.ok false and no error.
func lookup(given string, abbreviated, indexOptional bool) (found, error) {
	if len(given) > maxNameLength {
		return found{}, errs.New(errs.OptionInvalid, "option '%s' exceeds maximum size of %d", withoutSecret(given), maxNameLength)
	}
	f := found{index: 1}
	name := given
	if rest, is := strings.CutPrefix(name, "no-"); is {
		f.negate, name = true, rest
	} else if rest, is := strings.CutPrefix(name, "reset-"); is {
		f.reset, name = true, rest
	}

	// The number stands before the first dash.
	indexed := false
	head, rest, dash := strings.Cut(name, "-")
	if dash {
		word := strings.TrimRight(head, "0123456789")
		switch {
		case head == "":
			return found{}, errs.New(errs.OptionInvalid, "option '%s' cannot begin with a dash", withoutSecret(given))
		case word == "":
			return found{}, errs.New(errs.OptionInvalid, "option '%s' cannot begin with a number", withoutSecret(given))
		case word != head:
			indexed = true
			f.index = 0
			for _, digit := range head[len(word):] {
				if f.index = f.index*10 + int(digit-'0'); f.index > maxIndex {
					break
				}
			}
			if f.index < 1 || f.index > maxIndex {
				return found{}, errs.New(errs.OptionInvalid, "option '%s' key must be between 1 and %d", withoutSecret(given), maxIndex)
			}
			head = word
			name = word + "-" + rest
		}
	}

	old := oldName{}
	if f.option, f.ok = exactly(name); !f.ok && abbreviated {
		f.option, f.ok = beginning(name)
	}
	if f.ok {
		// A name of today can also be one of the past: repo-path means repo1-path.
		for _, o := range table[f.option].old {
			if o.name == name && o.plain && !indexed {
				old = o
			}
		}
	} else if f.option, old, f.ok = byOldName(name, abbreviated); !f.ok {
		return found{}, nil
	}
	row := &table[f.option]

	example := func(word, rest string) string { return word + "1-" + rest }
	switch prefix := groupNames[row.group]; {
	case f.negate && !row.negate:
		return found{}, errs.New(errs.OptionInvalid, "option '%s' cannot be negated", withoutSecret(given))
	case f.reset && row.section == sectionNone:
		return found{}, errs.New(errs.OptionInvalid, "option '%s' cannot be reset", withoutSecret(given))
	case old.name != "" && indexed && !old.indexed:
		return found{}, errs.New(errs.OptionInvalid, "deprecated option '%s' cannot have an index", withoutSecret(given))
	case old.name != "" && !indexed && !old.plain && !indexOptional:
		err := errs.New(errs.OptionInvalid, "deprecated option '%s' requires an index", withoutSecret(given))
		return found{}, errs.WithHint(
			errs.WithHint(err, "add the required index, e.g. %s.", example(head, rest)),
			"consider using the non-deprecated name, e.g. %s.", f.option.at(1))
	case old.name == "" && indexed && row.group == groupNone:
		return found{}, errs.New(errs.OptionInvalid, "option '%s' cannot have an index", withoutSecret(given))
	case old.name == "" && !indexed && row.group != groupNone && !indexOptional:
		return found{}, errs.WithHint(errs.New(errs.OptionInvalid, "option '%s' requires an index", withoutSecret(given)),
			"add the required index, e.g. %s.", example(prefix, row.name[len(prefix)+1:]))
	}
	return f, nil
}

// beginning finds the one option whose name begins so. Those of pgx's own are never
// meant, so that a beginning that pgbackrest takes stays good.
func beginning(name string) (only Option, ok bool) {
	i := sort.Search(optionTotal, func(i int) bool { return table[i].name >= name })
	for ; i < optionTotal && strings.HasPrefix(table[i].name, name); i++ {
		switch {
		case table[i].ours():
		case ok:
			return 0, false
		default:
			only, ok = Option(i), true
		}
	}
	return only, ok
}

func byOldName(name string, abbreviated bool) (Option, oldName, bool) {
	var begins []found
	var beginsAs oldName
	for i := range table {
		for _, o := range table[i].old {
			if o.name == name {
				return Option(i), o, true
			}
			if abbreviated && strings.HasPrefix(o.name, name) {
				begins, beginsAs = append(begins, found{option: Option(i)}), o
			}
		}
	}
	if len(begins) == 1 {
		return begins[0].option, beginsAs, true
	}
	return 0, oldName{}, false
}

// resolveOrder gives the options so that each comes after those it needs; errors are
// then found in the order in which pgBackRest finds them.
func resolveOrder() []Option {
	order := make([]Option, 1, optionTotal)
	order[0] = OptStanza
	var done [optionTotal]bool
	done[OptStanza] = true
	ready := func(row *option) bool {
		if row.needs != nil && !done[row.needs.option] {
			return false
		}
		for i := range row.needsFor {
			if !done[row.needsFor[i].need.option] {
				return false
			}
		}
		return true
	}
	for len(order) < optionTotal {
		before := len(order)
		for i := range table {
			if !done[i] && ready(&table[i]) {
				done[i] = true
				order = append(order, Option(i))
			}
		}
		if len(order) == before {
			panic("config: options of the table need one another in a circle")
		}
	}
	return order
}
