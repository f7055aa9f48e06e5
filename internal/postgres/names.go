package postgres

import (
	"strconv"
	"strings"
)

// Names here are those of a manifest: "pg_data/base/5/1259" in the data directory,
// "pg_tblspc/16400/PG_15_202209061/5/16401" in a tablespace. They are the same for a file
// behind a link.

const (
	dataTarget       = "pg_data"
	tablespaceTarget = "pg_tblspc"
	controlName      = "pg_data/global/pg_control"
	walDir           = "pg_data/pg_wal"
)

// Fork is the part of a relation a file holds.
type Fork string

// The forks of a relation, by the suffix in their file names.
const (
	MainFork Fork = ""
	FSMFork  Fork = "fsm"  // free space map
	VMFork   Fork = "vm"   // visibility map
	InitFork Fork = "init" // what an unlogged relation is reset to
)

// RelationFile reads the name of a relation's file, with or without directory:
// "16384_fsm.1" is segment 1 of the fsm fork of relation file 16384. ok is false for any other
// name, temporary relations included.
func RelationFile(name string) (node uint32, fork Fork, segment uint32, ok bool) {
	name = base(name)
	if stem, digits, dotted := strings.Cut(name, "."); dotted {
		if segment, ok = parseNumber(digits); !ok {
			return 0, MainFork, 0, false
		}
		name = stem
	}
	if stem, suffix, forked := strings.Cut(name, "_"); forked {
		fork = Fork(suffix)
		if fork != FSMFork && fork != VMFork && fork != InitFork {
			return 0, MainFork, 0, false
		}
		name = stem
	}
	if node, ok = parseNumber(name); !ok {
		return 0, MainFork, 0, false
	}
	return node, fork, segment, true
}

// IsTemporaryRelation tells whether name, with or without directory, is that of a file of
// a session's temporary table: "t3_16384", "t3_16384_fsm", "t3_16384.1".
func IsTemporaryRelation(name string) bool {
	digits, relation, ok := strings.Cut(base(name), "_")
	if !ok || !strings.HasPrefix(digits, "t") || !isDigits(digits[1:]) {
		return false
	}
	_, fork, _, ok := RelationFile(relation)
	return ok && fork != InitFork
}

// UnloggedInit gives the name of the init fork that a file of a relation has beside it
// if the relation is unlogged. When that exists the file is not backed up: PostgreSQL makes
// it anew from the init fork. ok is false for files this does not concern, init forks
// among them.
func UnloggedInit(name string) (init string, ok bool) {
	_, fork, _, ok := RelationFile(name)
	if !ok || fork == InitFork || !isDatabaseDir(dir(name)) {
		return "", false
	}
	node := base(name)
	if i := strings.IndexAny(node, "_."); i >= 0 {
		node = node[:i]
	}
	return dir(name) + "/" + node + "_" + string(InitFork), true
}

// HasPages tells whether a file consists of pages, with checksums if the cluster has
// them: every file of a database directory or of global but the three that are no relations.
func HasPages(name string) bool {
	switch base(name) {
	case "PG_VERSION", "pg_filenode.map":
		return false
	}
	return name != controlName && isDatabaseDir(dir(name))
}

// FirstBlock gives the number in the whole relation of the first page of a file, from
// the segment at the end of its name: "16384.2" begins two segments of segmentPages pages
// (Control.SegmentPages) in.
func FirstBlock(name string, segmentPages uint32) uint32 {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return 0
	}
	segment, _ := parseNumber(name[i+1:])
	return segment * segmentPages
}

// GrowthReplayed tells whether what is added to a file during the backup is in the WAL,
// so that it is read only up to the size it had when the backup was planned. Other files
// are read to their end.
func GrowthReplayed(name string) bool {
	if name == controlName {
		return false
	}
	for _, prefix := range []string{"pg_data/base/", "pg_data/global/", "pg_data/pg_xact/", "pg_data/pg_multixact/", "pg_tblspc/"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// ExcludedDir tells whether a directory is left out of a backup with all it holds.
func ExcludedDir(name string) bool { return isTemporary(name) }

// ExcludedContents tells whether a directory is in a backup, but empty: PostgreSQL makes
// the files anew, or they mean nothing after a restore. pg_wal itself is not among them,
// because only files are left out of it.
func ExcludedContents(name string, online bool) bool {
	switch name {
	case "pg_data/pg_dynshmem", "pg_data/pg_notify", "pg_data/pg_replslot", "pg_data/pg_serial",
		"pg_data/pg_snapshots", "pg_data/pg_stat_tmp", "pg_data/pg_subtrans":
		return true
	case walDir + "/archive_status":
		return online
	}
	return false
}

// ExcludedFile tells whether a file is left out of a backup of a cluster of version v.
// Files of unlogged relations are told by UnloggedInit.
func ExcludedFile(name string, v Version, online bool) bool {
	if isTemporary(name) {
		return true
	}
	file := base(name)
	switch parent := dir(name); {
	case parent == dataTarget:
		return excludedAtTop(file, v)
	case parent == walDir:
		// WAL comes from the archive, or is copied when the backup is over.
		return online
	case isDatabaseDir(parent):
		// The relation cache, made anew at start, and what a crash left of writing it.
		suffix, cache := strings.CutPrefix(file, "pg_internal.init")
		if cache && (suffix == "" || suffix[0] == '.' && isDigits(suffix[1:])) {
			return true
		}
		return IsTemporaryRelation(file)
	}
	return false
}

func excludedAtTop(file string, v Version) bool {
	switch file {
	case "backup_label", "backup_label.old", "postmaster.pid", "postmaster.opts", "postgresql.auto.conf.tmp",
		"recovery.signal", "standby.signal":
		return true
	case "backup_manifest", "backup_manifest.tmp":
		return v >= 13 // before, PostgreSQL did not make them
	}
	return false
}

// isTemporary tells whether a file or directory is of a query's temporary files, which
// PostgreSQL removes when it starts.
func isTemporary(name string) bool { return strings.HasPrefix(base(name), "pgsql_tmp") }

// isDatabaseDir tells whether relations are kept directly in a directory.
func isDatabaseDir(name string) bool {
	target, rest, _ := strings.Cut(name, "/")
	switch target {
	case dataTarget:
		oid, ok := strings.CutPrefix(rest, "base/")
		return ok && isDigits(oid) || rest == "global"
	case tablespaceTarget:
		tablespace, rest, _ := strings.Cut(rest, "/")
		version, oid, _ := strings.Cut(rest, "/")
		return isDigits(tablespace) && strings.HasPrefix(version, "PG_") && isDigits(oid)
	}
	return false
}

// base gives the last element of a name, dir what is before it.
func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func dir(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }

// parseNumber reads an oid or a segment number, decimal digits only.
func parseNumber(s string) (uint32, bool) {
	if !isDigits(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, false
	}
	return uint32(n), true
}
