// Package format holds the names of pgBackRest's repository format 5: what a backup
// label and an archive id look like, and where each thing lives in a repository.
//
// It is names only: what is in the files is told by its sub-packages. All paths are
// relative to the repository path and separated by slashes, as package storage
// wants them.
package format

import (
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Format is the repository format read and written here, the value of
// backrest-format in every info file and manifest.
const Format = 5

// CopySuffix is what the second copy of an info file or manifest has behind the name
// of the first.
const CopySuffix = ".copy"

// BlockExt is the extension of a file stored block by block and outside of a bundle,
// whatever the compression.
const BlockExt = ".pgbi"

// PGData and PGTblspc are the first elements of all names in a manifest: what is in the
// data directory, and what is in tablespaces. The others lie beside them.
const (
	PGData     = "pg_data"
	PGTblspc   = "pg_tblspc"
	bundleDir  = "bundle"
	historyDir = "backup.history"
)

// ArchiveID names the part of an archive that belongs to one version and identity of
// a cluster, "15-1": what PostgreSQL calls its version and the id of the row in the
// history of archive.info.
type ArchiveID struct {
	Version string // "15", "9.6"
	ID      int    // at least 1
}

// String gives the directory name, "15-1".
func (a ArchiveID) String() string { return a.Version + "-" + strconv.Itoa(a.ID) }

// ParseArchiveID reads what ArchiveID.String writes. Anything else is a Format error.
func ParseArchiveID(s string) (ArchiveID, error) {
	version, id, found := strings.Cut(s, "-")
	n, err := strconv.Atoi(id)
	if !found || err != nil || n < 1 || strconv.Itoa(n) != id || !ValidVersion(version) {
		return ArchiveID{}, errs.New(errs.Format, "'%s' is not an archive id", s)
	}
	return ArchiveID{Version: version, ID: n}, nil
}

// Cluster identifies a database cluster as info files and manifests record it: one row
// of a stanza's history. The versions of catalog and control file are 0 where they are not
// recorded, as in archive.info.
type Cluster struct {
	ID             int    // of the row in the history, at least 1; 0 in a manifest that is not finished
	SystemID       uint64 // as pg_control has it
	Version        string // "15", "9.6"
	CatalogVersion uint32 // 202209061
	ControlVersion uint32 // 1300
}

// ValidVersion says whether s is a PostgreSQL version as info files spell it: "15",
// or "9.6" before 10. It does not say that this version is known.
func ValidVersion(s string) bool {
	major, minor, dotted := strings.Cut(s, ".")
	return digits(major, 3) && (!dotted || digits(minor, 3))
}

// digits says whether s is one to most decimal digits.
func digits(s string, most int) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= most
}
