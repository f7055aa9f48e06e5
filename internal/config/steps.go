package config

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Step is a pair of an option such as repo-block-size-map: To counts from From on, until the
// next step. Sizes are bytes, ages days.
type Step struct{ From, To int64 }

// maxUint32 is as far as pgBackRest takes a number of a step.
const maxUint32 = 1<<32 - 1

// steps says what the pairs of a hash have to be.
type steps struct {
	from, to optionType // typeSize, which is never 0, or typeInteger
	min, max int64      // of To, inclusive
	multiple int64      // To has to be one, if not 0
}

// Steps gives the pairs of such an option, the largest From first; none when it has no
// value.
func (c *Config) Steps(o Option, index ...int) []Step {
	if table[o].steps == nil {
		panic(fmt.Sprintf("config: option '%s' has no steps", table[o].name))
	}
	return slices.Clone(c.pick(o, index).steps)
}

// readSteps reads the pairs of a hash as numbers. pgBackRest does that in the middle of the
// backup, and takes a few that it cannot work with.
func (l *loader) readSteps(v *value, s *steps, name string, g *given) error {
	for _, p := range v.hash {
		from, ok := parseNumber(s.from, p.key)
		if !ok || from < 0 || from > maxUint32 || s.from == typeSize && from == 0 {
			return l.wrong(errs.OptionInvalidValue, g, shape(s.from), "'%s' is not valid for '%s' option", p.key, name)
		}
		to, ok := parseNumber(s.to, p.value)
		if !ok || to < s.min || to > s.max || s.multiple > 0 && to%s.multiple != 0 {
			return l.wrong(errs.OptionInvalidValue, g, s.shape(), "'%s' is not valid for '%s' option", p.value, name)
		}
		v.steps = append(v.steps, Step{from, to})
	}
	slices.SortStableFunc(v.steps, func(a, b Step) int { return cmp.Compare(b.From, a.From) })
	return nil
}

// shape says in words what To looks like.
func (s *steps) shape() string {
	if s.multiple > 0 {
		return fmt.Sprintf("a multiple of %dKiB up to %dGiB is expected", s.multiple>>10, s.max>>30)
	}
	return fmt.Sprintf("a whole number from %d to %d is expected", s.min, s.max)
}
