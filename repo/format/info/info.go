// Package info reads, holds and writes archive.info and backup.info, the two files that
// say whose stanza this is: which clusters it has belonged to, and, in backup.info, which
// backups there are.
//
// Both are small, are written twice (the second time with format.CopySuffix) and hold the
// passphrase of what they describe where the repository is encrypted.
package info

import (
	"io"
	"slices"
	"strconv"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/ini"
)

const (
	sectionCipher  = "cipher"
	sectionDB      = "db"
	sectionHistory = "db:history"
	sectionCurrent = "backup:current"
)

// Stanza is what both files have in common.
type Stanza struct {
	Program    string // what wrote the file last: backrest-version
	CipherPass string // encrypts what the file describes; empty in a clear repository

	history []format.Cluster
	current int // the id of the current one

	kept ini.Kept
	kind kind
}

// kind is how the two files differ in their common parts.
type kind int

const (
	archiveFile kind = iota
	backupFile
)

// Archive is archive.info.
type Archive struct{ Stanza }

// NewArchive makes the file of a new stanza.
func NewArchive(first format.Cluster, cipherPass string) *Archive {
	a := &Archive{Stanza{CipherPass: cipherPass, kind: archiveFile}}
	a.Upgrade(first)
	return a
}

// ParseArchive reads archive.info. It keeps nothing of text. What is no such file is a
// Format or JSONFormat error, one that changed since it was written Checksum.
func ParseArchive(text []byte) (*Archive, error) {
	a := &Archive{Stanza{kind: archiveFile}}
	err := a.parse(text, func(*ini.Scanner) (bool, error) { return false, nil })
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Write writes the file as the work of the program version. What an older state had that
// is not known here is put back.
func (a *Archive) Write(w io.Writer, version string) error {
	z := ini.NewWriter(w, version, &a.kept)
	a.write(z)
	return z.Close()
}

// History gives all clusters the stanza has belonged to, oldest first. The catalog and
// control versions are known in backup.info only.
func (s *Stanza) History() []format.Cluster { return slices.Clone(s.history) }

// Current gives the cluster the stanza belongs to.
func (s *Stanza) Current() format.Cluster {
	i := slices.IndexFunc(s.history, func(c format.Cluster) bool { return c.ID == s.current })
	return s.history[i] // parse and Upgrade see to it that it is there
}

// ID gives the newest id the stanza has for a cluster, and whether it has one.
func (s *Stanza) ID(systemID uint64, version string) (int, bool) {
	for _, c := range slices.Backward(s.history) {
		if c.SystemID == systemID && c.Version == version {
			return c.ID, true
		}
	}
	return 0, false
}

// Upgrade adds a cluster to the history, makes it the current one and gives the id it got:
// the next one, whatever c.ID is.
func (s *Stanza) Upgrade(c format.Cluster) int {
	c.ID = 1
	for _, old := range s.history {
		c.ID = max(c.ID, old.ID+1)
	}
	if s.kind == archiveFile {
		c.CatalogVersion, c.ControlVersion = 0, 0
	}
	s.history = append(s.history, c)
	s.current = c.ID
	return c.ID
}

// parse reads a file. other is given the rows that are not common to both files, and says
// whether it knew them.
func (s *Stanza) parse(text []byte, other func(*ini.Scanner) (bool, error)) error {
	scan := ini.NewScanner(text)
	for scan.Next() {
		known, err := s.row(scan)
		if !known && err == nil {
			known, err = other(scan)
		}
		if err != nil {
			return scan.Wrong(err)
		}
		if !known {
			s.kept.Row(scan)
		}
	}
	if err := scan.Err(); err != nil {
		return err
	}
	s.Program = scan.Version()
	switch {
	case len(s.history) == 0:
		return errs.New(errs.Format, "history is missing")
	case s.current == 0:
		return errs.New(errs.Format, "current id is missing")
	case !slices.ContainsFunc(s.history, func(c format.Cluster) bool { return c.ID == s.current }):
		return errs.New(errs.Format, "unable to find current id in history")
	}
	return nil
}

// row reads a row that both files have.
func (s *Stanza) row(scan *ini.Scanner) (known bool, err error) {
	key := string(scan.Key())
	switch scan.Section() {
	case sectionCipher:
		if key == "cipher-pass" {
			s.CipherPass, err = ini.String(scan.Value())
			return true, err
		}
	case sectionDB:
		switch key {
		case "db-id":
			s.current, err = id(scan.Value())
			return true, err
		case "db-system-id", "db-version":
			return true, nil // the history says the same, and is what counts
		case "db-catalog-version", "db-control-version":
			return s.kind == backupFile, nil
		}
	case sectionHistory:
		return true, s.cluster(scan)
	}
	return false, nil
}

// id reads the id of a cluster in the history.
func id(raw []byte) (int, error) {
	n, err := ini.Uint32(raw)
	if err == nil && n == 0 {
		err = errs.New(errs.Format, "0 is not the id of a cluster")
	}
	return int(n), err
}

// systemIDKey gives the key of the system id in a row of the history. archive.info calls
// it as the history id is called elsewhere, which cannot be changed any more.
func (s *Stanza) systemIDKey() string {
	if s.kind == archiveFile {
		return "db-id"
	}
	return "db-system-id"
}

func (s *Stanza) cluster(scan *ini.Scanner) error {
	var c format.Cluster
	n, err := strconv.ParseUint(string(scan.Key()), 10, 31)
	if err != nil || n == 0 {
		return errs.New(errs.Format, "'%s' is not the id of a cluster", scan.Key())
	}
	c.ID = int(n)
	if slices.ContainsFunc(s.history, func(old format.Cluster) bool { return old.ID == c.ID }) {
		return errs.New(errs.Format, "cluster %d is there twice", c.ID)
	}
	var found []string
	o := ini.NewObject(scan.Value())
	for o.Next() {
		switch key := string(o.Key()); {
		case key == s.systemIDKey():
			c.SystemID, err = ini.Uint64(o.Value())
		case key == "db-version":
			if c.Version, err = ini.String(o.Value()); err == nil && !format.ValidVersion(c.Version) {
				err = errs.New(errs.Format, "'%s' is not a version of PostgreSQL", c.Version)
			}
		case key == "db-catalog-version" && s.kind == backupFile:
			c.CatalogVersion, err = ini.Uint32(o.Value())
		case key == "db-control-version" && s.kind == backupFile:
			c.ControlVersion, err = ini.Uint32(o.Value())
		default:
			s.kept.Field(scan, &o)
			continue
		}
		if err != nil {
			return err
		}
		found = append(found, string(o.Key()))
	}
	if o.Err() != nil {
		return o.Err()
	}
	required := []string{s.systemIDKey(), "db-version"}
	if s.kind == backupFile {
		required = append(required, "db-catalog-version", "db-control-version")
	}
	s.history = append(s.history, c)
	return missing(required, found)
}

// missing is an error when one of required is not among found.
func missing(required, found []string) error {
	for _, key := range required {
		if !slices.Contains(found, key) {
			return errs.New(errs.JSONFormat, "required key '%s' not found", key)
		}
	}
	return nil
}

// write writes the rows that both files have. It is to come after the sections that sort
// before them.
func (s *Stanza) write(z *ini.Writer) {
	if s.CipherPass != "" {
		z.String(sectionCipher, "cipher-pass", s.CipherPass)
	}
	c := s.Current()
	if s.kind == backupFile {
		z.Uint(sectionDB, "db-catalog-version", uint64(c.CatalogVersion))
		z.Uint(sectionDB, "db-control-version", uint64(c.ControlVersion))
	}
	z.Uint(sectionDB, "db-id", uint64(c.ID))
	z.Uint(sectionDB, "db-system-id", c.SystemID)
	z.String(sectionDB, "db-version", c.Version)
	for _, c := range s.history {
		o := z.Object(sectionHistory, strconv.Itoa(c.ID))
		if s.kind == backupFile {
			o.Uint("db-catalog-version", uint64(c.CatalogVersion))
			o.Uint("db-control-version", uint64(c.ControlVersion))
		}
		o.Uint(s.systemIDKey(), c.SystemID)
		o.String("db-version", c.Version)
		o.End()
	}
}
