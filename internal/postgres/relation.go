package postgres

import "strings"

// The tablespaces that are in the data directory, by their oids.
const (
	DefaultTablespace = 1663 // pg_default: base
	GlobalTablespace  = 1664 // pg_global: relations of all databases
)

// Relation is a relation as WAL names it. Database is 0 for one of all databases.
type Relation struct {
	Tablespace, Database, Node uint32
}

// RelationOf gives the relation of which name is a file, and which one: a segment of a fork.
// ok is false for everything else that is in a data directory, and for temporary relations.
func RelationOf(name string) (r Relation, fork Fork, segment uint32, ok bool) {
	if r.Node, fork, segment, ok = RelationFile(name); !ok {
		return Relation{}, MainFork, 0, false
	}
	target, rest, _ := strings.Cut(dir(name), "/")
	switch target {
	case dataTarget:
		if rest == "global" {
			r.Tablespace = GlobalTablespace
			return r, fork, segment, true
		}
		oid, inBase := strings.CutPrefix(rest, "base/")
		r.Tablespace = DefaultTablespace
		r.Database, ok = parseNumber(oid)
		ok = ok && inBase
	case tablespaceTarget:
		space, rest, _ := strings.Cut(rest, "/")
		version, oid, _ := strings.Cut(rest, "/")
		r.Tablespace, ok = parseNumber(space)
		if ok = ok && strings.HasPrefix(version, "PG_"); ok {
			r.Database, ok = parseNumber(oid)
		}
	default:
		ok = false
	}
	if !ok {
		return Relation{}, MainFork, 0, false
	}
	return r, fork, segment, true
}
