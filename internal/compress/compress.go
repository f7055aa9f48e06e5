// Package compress holds the codecs a repository can use, found by the
// extension of a stored file. Encoders and decoders are expensive to make and
// cheap to reuse, so they are pooled: a Writer or Reader that is closed goes back
// to its pool, one that is dropped goes to the garbage collector. None of them
// starts a goroutine.
//
// A codec has a normal form, which stands for itself in a file, and a raw form,
// used for super blocks and inside bundles, where something else already guards the
// bytes. They differ for gz (zlib instead of gzip) alone: pgBackRest's normal form of lz4 has a
// content checksum, which is read here and not written. The forms are specified in section 5 of the repository format.
package compress

import (
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Type is a way to compress, written as in the option compress-type and in info
// and manifest files.
type Type string

// The types a repository of format 5 can hold.
const (
	None  Type = "none"
	Gzip  Type = "gz"
	Bzip2 Type = "bz2"
	LZ4   Type = "lz4"
	Zstd  Type = "zst"
)

// levels gives for each type its default level and its range.
var levels = map[Type]struct{ def, low, high int }{
	None:  {0, 0, 0},
	Gzip:  {6, -1, 9},
	Bzip2: {9, 1, 9},
	LZ4:   {1, -5, 12},
	Zstd:  {3, -7, 22},
}

// ParseType reads the name of a type. Another name is a Format error.
func ParseType(name string) (Type, error) {
	t := Type(name)
	if _, ok := levels[t]; !ok {
		return "", errs.New(errs.Format, "compress type '%s' is not known", name)
	}
	return t, nil
}

// Ext gives what a stored file's name ends with: ".gz", and "" for None.
func (t Type) Ext() string {
	if t == None {
		return ""
	}
	return "." + string(t)
}

// TypeOfName splits the name of a stored file into the name it had and the type
// its extension tells. A name without a known extension is not compressed.
func TypeOfName(name string) (base string, t Type) {
	for _, t := range [...]Type{Gzip, Bzip2, LZ4, Zstd} {
		if base, ok := strings.CutSuffix(name, t.Ext()); ok {
			return base, t
		}
	}
	return name, None
}

// DefaultLevel is the level used when none is configured.
func (t Type) DefaultLevel() int { return levels[t].def }

// LevelRange gives the lowest and the highest level, both allowed. They are those of
// the C libraries; our encoders have fewer steps and use the nearest one.
func (t Type) LevelRange() (low, high int) { return levels[t].low, levels[t].high }
