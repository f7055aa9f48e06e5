// Package postgres knows what PostgreSQL 12 to 18 is on disk: its versions, pg_control,
// LSNs and timelines, WAL names and headers, timeline history, backup_label, pages and
// their checksums, and which files of a data directory are worth backing up.
//
// It is pure: bytes and names come in, values go out, nothing is read or written. All
// of PostgreSQL's files are in the byte order of the machine; pgx runs only on little
// endian ones, and a file of another machine is refused by its version numbers.
//
// Facts are from PostgreSQL's headers; where pgBackRest decides (which version a file
// is of, what is excluded from a backup, when a page is valid) we decide as it does, so
// that both can work on one repository.
package postgres

import (
	"fmt"
	"strconv"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Version is a major version of PostgreSQL, such as 15.
type Version int

// The versions pgx knows in all details.
const (
	Oldest Version = 12
	Newest Version = 18
)

// String gives the version as it stands in PG_VERSION, in archive ids and info files: "15".
func (v Version) String() string { return strconv.Itoa(int(v)) }

// Supported tells whether pgx can back up and restore clusters of this version.
func (v Version) Supported() bool { return v >= Oldest && v <= Newest }

// ParseVersion reads what String gives. Any version is accepted that has a single number,
// because info files may hold the history of older clusters; ask Supported. A version of
// the time before, such as "9.6", is a VersionNotSupported error, anything else a Format error.
func ParseVersion(s string) (Version, error) {
	// The length is bounded so that "0015" or a number beyond int is no version.
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n >= 10 && len(s) == 2 {
		return Version(n), nil
	}
	if len(s) == 3 && (s[0] == '8' || s[0] == '9') && s[1] == '.' && isDigits(s[2:]) {
		return 0, errs.New(errs.VersionNotSupported, "PostgreSQL %s is not supported, only %d to %d", s, Oldest, Newest)
	}
	return 0, errs.New(errs.Format, "'%s' is not a PostgreSQL version", s)
}

// TablespaceDir gives the directory that a cluster makes for itself in each tablespace:
// "PG_15_202209061".
func TablespaceDir(v Version, catalogVersion uint32) string {
	return fmt.Sprintf("PG_%d_%d", v, catalogVersion)
}

// release is what tells a major version by its files. All minor releases of one have the
// same catalog version. Control versions are shared (1300 is that of 13 to 16), WAL
// magics are not.
type release struct {
	version  Version
	control  uint32
	catalog  uint32
	walMagic uint16
	crc      int // offset of the CRC in pg_control, which covers all bytes before it
}

// releases lists the supported versions. 18 has one more field (the signedness of char)
// before the CRC; every field that pgx reads is at the same place in all of them.
var releases = [...]release{
	{12, 1201, 201909212, 0xD101, 288},
	{13, 1300, 202007201, 0xD106, 288},
	{14, 1300, 202107181, 0xD10D, 288},
	{15, 1300, 202209061, 0xD110, 288},
	{16, 1300, 202307071, 0xD113, 288},
	{17, 1700, 202406281, 0xD116, 288},
	{18, 1800, 202506291, 0xD118, 292},
}

// VersionOf tells the version of a cluster from the control and catalog versions in its
// pg_control. Versions that are not supported, and those never released (a beta, a
// fork), are a VersionNotSupported error that says which they are.
func VersionOf(control, catalog uint32) (Version, error) {
	r, err := releaseOf(control, catalog)
	return r.version, err
}

func releaseOf(control, catalog uint32) (release, error) {
	sameControl := false
	for _, r := range releases {
		if r.control == control {
			sameControl = true
			if r.catalog == catalog {
				return r, nil
			}
		}
	}
	var found string
	switch {
	case sameControl:
		found = "they are of no released version"
	case control >= 1000 && control < 10000:
		// Since 10 the control version is the major version it came with, times 100.
		found = "PostgreSQL " + Version(control/100).String() + " is not supported"
	case control == 960:
		found = "PostgreSQL 9.6 is not supported"
	case control > 0 && control < 960:
		found = "PostgreSQL before 9.6 is not supported"
	default:
		found = "they are not PostgreSQL's"
	}
	return release{}, errs.WithHint(
		errs.New(errs.VersionNotSupported, "unexpected control version = %d and catalog version = %d: %s", control, catalog, found),
		"pgx supports the released versions of PostgreSQL %d to %d, is pgx up to date on all hosts?", Oldest, Newest)
}

func releaseOfMagic(magic uint16) (release, error) {
	for _, r := range releases {
		if r.walMagic == magic {
			return r, nil
		}
	}
	var found string
	switch {
	case magic == 0xD093:
		found = "PostgreSQL 9.6 is not supported"
	case magic == 0xD097:
		found = "PostgreSQL 10 is not supported"
	case magic == 0xD098:
		found = "PostgreSQL 11 is not supported"
	case magic > releases[len(releases)-1].walMagic && magic>>8 == 0xD1:
		found = fmt.Sprintf("it is of a PostgreSQL newer than %d", Newest)
	case magic>>8 == 0xD1 && magic > releases[0].walMagic:
		found = "it is of no released version"
	case magic>>8 == 0xD0 || magic>>8 == 0xD1:
		found = fmt.Sprintf("it is of a PostgreSQL older than %d", Oldest)
	default:
		found = "it is not PostgreSQL's"
	}
	return release{}, errs.WithHint(
		errs.New(errs.VersionNotSupported, "unexpected WAL magic 0x%04X: %s", magic, found),
		"pgx supports the released versions of PostgreSQL %d to %d, is pgx up to date on all hosts?", Oldest, Newest)
}
