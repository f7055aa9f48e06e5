package restore

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// firstUserOID is the first oid PostgreSQL gives to what users make.
const firstUserOID = 16384

// selection knows the databases whose files are restored as holes of the right size.
// The cluster starts with them, and they must then be dropped.
type selection struct {
	zeroed     map[string]bool // by oid
	versionDir string
}

// zero says whether the content of a file is left out. PG_VERSION is restored always:
// without it a database cannot be dropped.
func (s selection) zero(name string) bool {
	if len(s.zeroed) == 0 || strings.HasSuffix(name, "/PG_VERSION") {
		return false
	}
	db, inDatabase := s.database(name)
	return inDatabase && s.zeroed[db]
}

// database gives the oid of the database that a file belongs to.
func (s selection) database(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, format.PGData+"/base/")
	if !ok {
		if rest, ok = strings.CutPrefix(name, format.PGTblspc+"/"); !ok {
			return "", false
		}
		_, rest, _ = strings.Cut(rest, "/")
		if rest, ok = strings.CutPrefix(rest, s.versionDir+"/"); !ok {
			return "", false
		}
	}
	oid, _, below := strings.Cut(rest, "/")
	return oid, below && oid != "" && strings.Trim(oid, "0123456789") == ""
}

func systemDatabase(name string) bool {
	return name == "template0" || name == "template1" || name == "postgres"
}

// selectDatabases works out which databases are left out.
func (r *run) selectDatabases(m *manifest.Manifest) (selection, error) {
	var s selection
	if len(r.cfg.DBInclude) == 0 && len(r.cfg.DBExclude) == 0 {
		return s, nil
	}
	var err error
	if s.versionDir, err = tablespaceDir(m); err != nil {
		return s, err
	}
	system, known, names := r.databases(m, s)
	if len(known) == 0 {
		return s, errs.WithHint(errs.New(errs.Format, "no databases found for selective restore"), "is this a valid cluster?")
	}
	r.detail("databases found for selective restore (%s)", strings.Join(slices.Sorted(maps.Keys(known)), ", "))

	find := func(purpose, db string) (string, error) {
		if known[db] {
			return db, nil
		}
		if id, ok := names[db]; ok && known[id] {
			return id, nil
		}
		return "", errs.New(errs.DbMissing, "database to %s '%s' does not exist", purpose, db)
	}
	excluded := map[string]bool{}
	for _, db := range r.cfg.DBExclude {
		id, err := find("exclude", db)
		if err != nil {
			return s, err
		}
		excluded[id] = true
	}
	s.zeroed = excluded
	if len(r.cfg.DBInclude) > 0 {
		s.zeroed = map[string]bool{}
		for id := range known {
			s.zeroed[id] = !system[id] || excluded[id]
		}
	}
	for _, db := range r.cfg.DBInclude {
		id, err := find("include", db)
		if err != nil {
			return s, err
		}
		if system[id] {
			return s, errs.New(errs.DbInvalid, "system databases (template0, postgres, etc.) are included by default")
		}
		if excluded[id] {
			return s, errs.New(errs.DbInvalid, "database to include '%s' is in the exclude list", id)
		}
		s.zeroed[id] = false
	}
	maps.DeleteFunc(s.zeroed, func(_ string, zero bool) bool { return !zero })

	if len(s.zeroed) == 0 {
		r.log.Info("nothing to filter - all user databases have been selected")
		return s, nil
	}
	r.detail("databases excluded (zeroed) from selective restore (%s)",
		strings.Join(slices.Sorted(maps.Keys(s.zeroed)), ", "))
	return s, nil
}

// databases gives the oids of system databases and of all, and the oids by name.
func (r *run) databases(m *manifest.Manifest, s selection) (system, known map[string]bool, names map[string]string) {
	system, known, names = map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, db := range m.Databases.All() {
		id := strconv.FormatUint(uint64(db.ID), 10)
		names[db.Name] = id
		if systemDatabase(db.Name) || db.ID < firstUserOID {
			system[id], known[id] = true, true
		}
	}
	for f := range m.Files.All() {
		id, ok := s.database(f.Name)
		if !ok || !strings.HasSuffix(f.Name, "/"+id+"/PG_VERSION") {
			continue
		}
		known[id] = true
		// Made after the list of databases was taken, so only its files tell.
		if n, err := strconv.ParseUint(id, 10, 32); err == nil && n < firstUserOID {
			system[id] = true
		}
	}
	return system, known, names
}
