package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/internal/logging"
)

// value gives one number of an option; nil when the command does not know the option
// or the number is not in use. An option without numbers has number 1 alone.
func (c *Config) value(o Option, index int) *value {
	values := c.values[o]
	if values == nil {
		return nil
	}
	at := 0
	if g := table[o].group; g != groupNone {
		at = slices.Index(c.groups[g].numbers, index)
	}
	if at < 0 || at >= len(values) {
		return nil
	}
	return &values[at]
}

func (c *Config) flag(o Option) bool {
	v := c.value(o, 1)
	return v != nil && v.text == "y"
}

// get gives the value a getter asks for. To ask for an option by the getter of another
// type is a mistake in the program.
func (c *Config) get(o Option, index []int, types ...optionType) *value {
	row := &table[o]
	if !slices.Contains(types, row.typ) {
		panic(fmt.Sprintf("config: option '%s' is asked for as another type than '%s'", row.name, typeNames[row.typ]))
	}
	return c.pick(o, index)
}

func (c *Config) pick(o Option, index []int) *value {
	n := 1
	switch g := table[o].group; {
	case len(index) > 1:
		panic(fmt.Sprintf("config: option '%s' is asked for with %d numbers", table[o].name, len(index)))
	case len(index) == 1:
		n = index[0]
	case g == groupRepo:
		n = c.Repo()
	case g == groupPg:
		n = c.Pg()
	}
	if v := c.value(o, n); v != nil {
		return v
	}
	return &value{}
}

// IsSet says whether the option has a value, of its own or by default. The number may
// be left out as in the other getters.
func (c *Config) IsSet(o Option, index ...int) bool { return c.pick(o, index).set }

// IsGiven says whether somebody gave the option a value, so that it is no default.
func (c *Config) IsGiven(o Option, index ...int) bool {
	v := c.pick(o, index)
	return v.set && v.source.Kind != FromDefault
}

// Source says where the value came from. The line of a file is filled in.
func (c *Config) Source(o Option, index ...int) Source { return c.locate(c.pick(o, index).source) }

// Bool gives a boolean; false when the option has no value.
//
// This and the other getters take the number of a pgN- or repoN- option; left out
// it is that of [Config.Pg] or [Config.Repo]. An option the command does not know has
// no value.
func (c *Config) Bool(o Option, index ...int) bool { return c.get(o, index, typeBoolean).text == "y" }

// String gives a string, a path without a slash at its end, or one of a set of words;
// "" when the option has no value. A secret is had with [Config.Secret] only.
func (c *Config) String(o Option, index ...int) string {
	if table[o].secret {
		panic(fmt.Sprintf("config: secret option '%s' is asked for as a string", table[o].name))
	}
	v := c.get(o, index, typeString, typePath, typeStringID)
	if table[o].typ == typePath {
		return v.path
	}
	return v.text
}

// Secret gives a secret, empty when the option has no value.
func (c *Config) Secret(o Option, index ...int) logging.Secret {
	if !table[o].secret {
		panic(fmt.Sprintf("config: option '%s' is no secret", table[o].name))
	}
	return c.pick(o, index).secret
}

// Int gives a whole number; 0 when the option has no value.
func (c *Config) Int(o Option, index ...int) int { return int(c.get(o, index, typeInteger).number) }

// Size gives a size in bytes; 0 when the option has no value.
func (c *Config) Size(o Option, index ...int) int64 { return c.get(o, index, typeSize).number }

// Duration gives a time; 0 when the option has no value.
func (c *Config) Duration(o Option, index ...int) time.Duration {
	return duration(c.get(o, index, typeTime).number)
}

// List gives the values of a list in the order they were given.
func (c *Config) List(o Option, index ...int) []string {
	return slices.Clone(c.get(o, index, typeList).list)
}

// Hash gives the pairs of a hash.
func (c *Config) Hash(o Option, index ...int) map[string]string {
	pairs := c.get(o, index, typeHash).hash
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		m[p.key] = p.value
	}
	return m
}

// HashKeys gives the keys of a hash in the order they were given.
func (c *Config) HashKeys(o Option, index ...int) []string {
	pairs := c.get(o, index, typeHash).hash
	keys := make([]string, len(pairs))
	for i, p := range pairs {
		keys[i] = p.key
	}
	return keys
}

// Repos gives the numbers of the repositories the command works with, in order: all
// that are configured (repo1 when none is), or the one that --repo chose.
func (c *Config) Repos() []int {
	g := c.groups[groupRepo]
	if g.chosen != 0 {
		return []int{g.chosen}
	}
	return slices.Clone(g.numbers)
}

// Repo gives the repository that --repo chose, else the first.
func (c *Config) Repo() int { return c.groups[groupRepo].first() }

// Pgs gives the numbers of the clusters, in order.
func (c *Config) Pgs() []int { return slices.Clone(c.groups[groupPg].numbers) }

// Pg gives the cluster that --pg chose, else the first.
func (c *Config) Pg() int { return c.groups[groupPg].first() }

func (i indexes) first() int {
	switch {
	case i.chosen != 0:
		return i.chosen
	case len(i.numbers) == 0:
		return 1
	}
	return i.numbers[0]
}

// LogFileFailed turns the log file off because it could not be opened; Begin then
// shows it as pgBackRest does.
func (c *Config) LogFileFailed() {
	if v := c.value(OptLogLevelFile, 1); v != nil {
		*v = value{set: true, text: "off", source: Source{Kind: FromCommandLine}}
	}
}
