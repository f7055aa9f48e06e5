// Package manifest reads, holds and writes backup.manifest: everything a backup is made
// of, where its bytes are stored, and what it takes to put them back.
//
// A manifest may list a million files, so files are kept in records of fixed size beside
// one arena of names (see Files) and nothing of the text they came from is kept. Everything
// else is ordinary Go values. What is read has been checked: no name in a parsed manifest
// leads out of the data directory and tablespaces it names (see Manifest.Check).
//
// A new manifest begins as a zero Manifest; entries are added in any order and sorted
// when they are first looked up, checked or written.
//
// A Manifest is not safe for use by several goroutines while one of them changes it.
// After Read or Check, until the next change, they may all read it.
package manifest

import (
	"path"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/ini"
)

// Manifest is one backup. Texts are empty and times 0 where the file has no such key.
type Manifest struct {
	Program    string // what wrote it: backrest-version
	CipherPass string // encrypts the files of the backup; all backups of a set share it

	Label format.Label
	Type  format.BackupType
	Prior format.Label // the backup this one is based on; empty for a full

	// References lists the backups that may hold bytes of this one: that of the prior
	// and then its own label. A block map names a backup by its position here, so the
	// order stays and nothing is ever removed.
	References []format.Label

	ArchiveStart, ArchiveStop string // WAL segments; empty for an offline backup
	LSNStart, LSNStop         string // "0/1500028"; empty for an offline backup
	CopyStart, Start, Stop    int64  // seconds since 1970; Stop is 0 while the backup runs

	BlockIncr bool // files may be stored block by block
	Bundle    bool // small files are stored in bundles, empty ones not at all
	BundleRaw bool // whole files in bundles have the raw framing

	Cluster     format.Cluster
	Options     Options
	Annotations map[string]string // nil when there is no [metadata]

	Targets   List[Target]
	Databases List[Database]
	Links     List[Link]
	Paths     List[Path]
	Files     Files

	// What a row that does not say otherwise has. See SetDefaults.
	FileDefault, PathDefault Attributes
	LinkDefault              Owner

	kept ini.Kept
}

// Owner is a user and a group by name. Empty means that the id had no name.
type Owner struct{ User, Group string }

// Attributes are an owner and the permission bits, at most 07777.
type Attributes struct {
	Owner
	Mode uint32
}

// Options are the settings a backup was made with. Those that are pointers came with
// later releases and are nil in older manifests.
type Options struct {
	ArchiveCheck         bool
	ArchiveCopy          bool
	BackupStandby        *bool
	BufferSize           *uint32 // bytes
	ChecksumPage         *bool
	CompressLevel        *int // stored as an unsigned number of 32 bits: -1 is 4294967295
	CompressLevelNetwork *int
	CompressType         string // "none", "bz2", "gz", "lz4", "zst"
	Delta                *bool
	Hardlink             bool
	Online               bool
	ProcessMax           *uint32
}

// CompressExt gives the extension of the files of the backup that are not stored block
// by block: "" or a dot and the type.
func (o Options) CompressExt() string {
	if o.CompressType == compressNone {
		return ""
	}
	return "." + o.CompressType
}

const (
	compressNone = "none"
	compressGzip = "gz"
)

func validCompress(s string) bool {
	switch s {
	case compressNone, "bz2", compressGzip, "lz4", "zst":
		return true
	}
	return false
}

// Target is a directory, or a single file, that a backup reads and a restore writes:
// PGDATA, a tablespace, or what a symbolic link in PGDATA leads to.
type Target struct {
	// Name is "pg_data", "pg_tblspc/<oid>", or the name of the link below pg_data.
	Name string

	// Path is the directory: absolute for pg_data, for links as it was found, which may
	// be relative to the directory the link is in. File is set when the link leads to a
	// file, and is its name in Path.
	Path, File string

	TablespaceID   uint32 // 0 for what is no tablespace
	TablespaceName string
}

// Database is a database of the cluster, by which a restore can select. A name with a line
// feed cannot be written: leave such a database out.
type Database struct {
	Name         string
	ID           uint32
	LastSystemID uint32 // formerly datlastsysoid; the oid of template0
}

// Link is a symbolic link: "pg_data/…", for tablespaces "pg_data/pg_tblspc/<oid>".
type Link struct {
	Name        string
	Destination string
	Owner
}

// Path is a directory. A directory behind a link is listed under the name of the link,
// a tablespace as "pg_tblspc/<oid>".
type Path struct {
	Name string
	Attributes
}

func (t Target) entryName() string   { return t.Name }
func (d Database) entryName() string { return d.Name }
func (l Link) entryName() string     { return l.Name }
func (p Path) entryName() string     { return p.Name }

// List holds the entries of one kind in byte order of their names.
type List[T interface{ entryName() string }] struct {
	entries []T
	dirty   bool
}

// Add adds an entry. That no other has its name is seen by Check.
func (l *List[T]) Add(entry T) {
	n := len(l.entries)
	l.dirty = l.dirty || n > 0 && l.entries[n-1].entryName() >= entry.entryName()
	l.entries = append(l.entries, entry)
}

// All gives the entries, sorted. They may be changed in place, all but their names.
func (l *List[T]) All() []T {
	if l.dirty {
		slices.SortStableFunc(l.entries, func(a, b T) int { return strings.Compare(a.entryName(), b.entryName()) })
		l.dirty = false
	}
	return l.entries
}

// Find gives the entry of that name, nil when there is none. It is valid until the
// list changes.
func (l *List[T]) Find(name string) *T {
	if i, found := l.search(name); found {
		return &l.entries[i]
	}
	return nil
}

// Remove removes the entry of that name, if there is one.
func (l *List[T]) Remove(name string) {
	if i, found := l.search(name); found {
		l.entries = slices.Delete(l.entries, i, i+1)
	}
}

func (l *List[T]) search(name string) (int, bool) {
	return slices.BinarySearchFunc(l.All(), name, func(e T, name string) int { return strings.Compare(e.entryName(), name) })
}

// SetLabel gives a new manifest its label, type and place in the chain: behind prior, which
// is nil for a full backup.
func (m *Manifest) SetLabel(label format.Label, prior *Manifest) {
	m.Label, m.Type = label, label.Type()
	m.Prior, m.References = "", nil
	if prior != nil {
		m.Prior, m.References = prior.Label, slices.Clone(prior.References)
	}
	m.References = append(m.References, label)
}

// SetDefaults chooses the defaults as pgBackRest does: owner and mode of PGDATA, for files
// without the bits that make no sense for them. It is an error when PGDATA is not
// among the paths.
func (m *Manifest) SetDefaults() error {
	base := m.Paths.Find(format.PGData)
	if base == nil {
		return errs.New(errs.Format, "manifest has no path '%s'", format.PGData)
	}
	m.PathDefault, m.FileDefault, m.LinkDefault = base.Attributes, base.Attributes, base.Owner
	m.FileDefault.Mode &= 0o640
	return nil
}

// PGPath gives the name that operators know a manifest name by: relative to PGDATA,
// where tablespaces are below pg_tblspc. For "pg_data" it is empty.
func PGPath(name string) string {
	if name == format.PGData {
		return ""
	}
	return strings.TrimPrefix(name, format.PGData+"/")
}

// TargetDir gives the absolute directory of a target. A relative one is taken from
// the directory its link is in.
func (m *Manifest) TargetDir(t Target) string {
	if path.IsAbs(t.Path) {
		return path.Clean(t.Path)
	}
	base := m.Targets.Find(format.PGData)
	if base == nil {
		return path.Clean(t.Path)
	}
	return path.Join(base.Path, path.Dir(PGPath(t.Name)), t.Path)
}
