package pgdata

import (
	"path/filepath"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// linkSet remembers where the symbolic links of a data directory lead. Two that lead to
// the same place, or one below the other, would be stored twice and restored over one
// another, and one that leads back into PGDATA would never end; all of these are
// LinkDestination errors, in pgBackRest's words.
type linkSet struct {
	pgdata string
	seen   []seenLink
}

type seenLink struct {
	name string // relative to PGDATA
	dir  string // the destination, or the directory of it when it is a file
	file string // base name of a destination that is a file, else empty
}

// add checks the link name, which lies in the directory at and leads to destination,
// against those seen before.
func (l *linkSet) add(name, at, destination string, isFile bool) error {
	n := seenLink{name: strings.TrimPrefix(name, "pg_data/"), dir: absolute(destination, at)}
	if isFile {
		n.dir, n.file = filepath.Split(n.dir)
		n.dir = filepath.Clean(n.dir)
	}
	if within(n.dir, l.pgdata) {
		return errs.New(errs.LinkDestination, "link '%s' destination '%s' is in PGDATA", n.name, n.dir)
	}
	for _, o := range l.seen {
		if err := n.conflict(o); err != nil {
			return err
		}
	}
	l.seen = append(l.seen, n)
	return nil
}

func (n seenLink) conflict(o seenLink) error {
	switch {
	case n.dir == o.dir && n.file != "" && o.file != "":
		if n.file != o.file {
			return nil
		}
		return errs.New(errs.LinkDestination, "link '%s' (%s/%s) destination is the same file as link '%s' (%s/%s)",
			n.name, n.dir, n.file, o.name, o.dir, o.file)
	case n.dir == o.dir:
		return errs.New(errs.LinkDestination, "link '%s' (%s) destination is the same directory as link '%s' (%s)",
			n.name, n.dir, o.name, o.dir)
	case n.file != "" || o.file != "": // linked files may lie beside and below linked directories
		return nil
	case within(n.dir, o.dir):
		return errs.New(errs.LinkDestination, "link '%s' (%s) destination is a subdirectory of link '%s' (%s)",
			n.name, n.dir, o.name, o.dir)
	case within(o.dir, n.dir):
		return errs.New(errs.LinkDestination, "link '%s' (%s) destination is a subdirectory of link '%s' (%s)",
			o.name, o.dir, n.name, n.dir)
	}
	return nil
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
