package info

import (
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/ini"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Backup is backup.info.
type Backup struct {
	Stanza
	entries []BackupEntry
}

// BackupEntry is a backup as backup.info lists it. Sizes are bytes, times seconds since
// 1970. A delta is what the backup itself holds, without what it refers to in others.
type BackupEntry struct {
	Label  format.Label
	Format int    // of the repository when it was made
	Made   string // the program that made it

	Annotations map[string]string // nil for none

	ArchiveStart, ArchiveStop string // WAL segments; empty for an offline backup
	LSNStart, LSNStop         string // "0/1500028"; empty offline, and before 2.38

	// PageErrors says whether a file has invalid pages, nil where that was not recorded.
	PageErrors *bool

	Size, SizeDelta         int64
	RepoSize, RepoSizeDelta int64

	// The sizes of block maps; nil for a backup without block incremental.
	MapSize, MapSizeDelta *int64

	Type      format.BackupType
	Prior     format.Label   // empty for a full backup
	Reference []format.Label // nil for a full backup; ascending, without itself

	Start, Stop int64
	ClusterID   int // in the history

	ArchiveCheck, ArchiveCopy, BackupStandby, ChecksumPage bool
	Compress, Hardlink, Online                             bool
}

// NewBackup makes the file of a new stanza, without backups.
func NewBackup(first format.Cluster, cipherPass string) *Backup {
	b := &Backup{Stanza: Stanza{CipherPass: cipherPass, kind: backupFile}}
	b.Upgrade(first)
	return b
}

// ParseBackup reads backup.info. It keeps nothing of text. What is no such file is a Format
// or JSONFormat error, one that changed since it was written Checksum. All labels have
// been checked.
func ParseBackup(text []byte) (*Backup, error) {
	b := &Backup{Stanza: Stanza{kind: backupFile}}
	err := b.parse(text, func(scan *ini.Scanner) (bool, error) {
		if scan.Section() != sectionCurrent {
			return false, nil
		}
		return true, b.entry(scan)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(b.entries, byLabel)
	for i := 1; i < len(b.entries); i++ {
		if b.entries[i].Label == b.entries[i-1].Label {
			return nil, errs.New(errs.Format, "backup '%s' is listed twice", b.entries[i].Label)
		}
	}
	return b, nil
}

func byLabel(a, b BackupEntry) int { return strings.Compare(string(a.Label), string(b.Label)) }

// Entries gives the backups, oldest first. They are copies, but share what is in them.
func (b *Backup) Entries() []BackupEntry { return slices.Clone(b.entries) }

// Entry gives the backup of that label, to look at or to change but not its label; nil
// when it is not listed. It is valid until the list changes.
func (b *Backup) Entry(label format.Label) *BackupEntry {
	if i, found := b.search(label); found {
		return &b.entries[i]
	}
	return nil
}

func (b *Backup) search(label format.Label) (int, bool) {
	return slices.BinarySearchFunc(b.entries, BackupEntry{Label: label}, byLabel)
}

// Add lists a backup, in the place of one that has its label.
func (b *Backup) Add(e BackupEntry) {
	i, found := b.search(e.Label)
	if found {
		b.entries[i] = e
		return
	}
	b.entries = slices.Insert(b.entries, i, e)
}

// Remove takes backups off the list. Their dependents stay: see Dependents.
func (b *Backup) Remove(labels ...format.Label) {
	if len(labels) == 1 {
		if i, found := b.search(labels[0]); found {
			b.entries = slices.Delete(b.entries, i, i+1)
		}
		return
	}
	gone := make(map[format.Label]bool, len(labels))
	for _, l := range labels {
		gone[l] = true
	}
	b.entries = slices.DeleteFunc(b.entries, func(e BackupEntry) bool { return gone[e.Label] })
}

// HasSet says whether any backup of the set of one is listed.
func (b *Backup) HasSet(label format.Label) bool {
	i, _ := b.search(label.Full()) // it and all of its set come together
	return i < len(b.entries) && b.entries[i].Label.Full() == label.Full()
}

// Dependents gives the backups that cannot be restored without that of label, oldest first:
// those that have it, or another of them, as their prior. It is not among them.
func (b *Backup) Dependents(label format.Label) []format.Label {
	lost := map[format.Label]bool{label: true}
	var list []format.Label
	for _, e := range b.entries { // a prior comes before what is based on it
		if lost[e.Prior] && !lost[e.Label] {
			lost[e.Label] = true
			list = append(list, e.Label)
		}
	}
	return list
}

// BetaBlocks gives a backup that m needs which has files in blocks in a format that was given up, as pgBackRest stored them before
// 2.46, and the program that made it; empty if there is none. Nothing but the program tells that format from today's. It does not matter
// whether m itself was made with block incremental: it may refer to what an older backup has in blocks.
func (b *Backup) BetaBlocks(m *manifest.Manifest) (label format.Label, program string) {
	holders := map[format.Label]bool{}
	for f := range m.Files.All() {
		switch {
		case f.BlockMapSize == 0:
		case f.Reference == "":
			holders[m.Label] = true
		default:
			holders[f.Reference] = true
		}
	}
	if len(holders) == 0 {
		return "", ""
	}
	for _, label := range m.References {
		e := b.Entry(label)
		program := ""
		switch {
		case label == m.Label:
			program = m.Program
		case e != nil && (e.MapSize != nil || holders[label]): // the blocks of a file may be in more backups than its map
			program = e.Made
		}
		if strings.HasPrefix(program, "2.44") || strings.HasPrefix(program, "2.45") {
			return label, program
		}
	}
	return "", ""
}

// NewEntry makes the entry of a finished backup from its manifest.
func NewEntry(m *manifest.Manifest) BackupEntry {
	s, o := m.Sums(), m.Options
	e := BackupEntry{
		Label: m.Label, Format: format.Format, Made: m.Program,
		Annotations:  maps.Clone(m.Annotations),
		ArchiveStart: m.ArchiveStart, ArchiveStop: m.ArchiveStop, LSNStart: m.LSNStart, LSNStop: m.LSNStop,
		PageErrors: &s.PageErrors,
		Size:       s.Size, SizeDelta: s.SizeDelta, RepoSize: s.RepoSize, RepoSizeDelta: s.RepoSizeDelta,
		Type: m.Type, Prior: m.Prior, Start: m.Start, Stop: m.Stop, ClusterID: m.Cluster.ID,
		ArchiveCheck: o.ArchiveCheck, ArchiveCopy: o.ArchiveCopy, Compress: o.CompressExt() != "",
		BackupStandby: o.BackupStandby != nil && *o.BackupStandby,
		ChecksumPage:  o.ChecksumPage != nil && *o.ChecksumPage,
		Hardlink:      o.Hardlink, Online: o.Online,
	}
	if m.BlockIncr {
		e.MapSize, e.MapSizeDelta = &s.MapSize, &s.MapSizeDelta
	}
	if m.Type != format.Full {
		e.Reference = slices.DeleteFunc(slices.Clone(m.References), func(l format.Label) bool { return l == m.Label })
		slices.Sort(e.Reference)
	}
	return e
}

// entry reads the row of a backup.
func (b *Backup) entry(scan *ini.Scanner) error {
	l, err := format.ParseLabel(string(scan.Key()))
	if err != nil {
		return err
	}
	e := BackupEntry{Label: l}
	found := make([]string, 0, 32)
	o := ini.NewObject(scan.Value())
	for o.Next() {
		known, err := e.field(string(o.Key()), o.Value())
		if err != nil {
			return errs.Wrap(err, "'%s'", o.Key())
		}
		if !known {
			b.kept.Field(scan, &o)
		}
		found = append(found, string(o.Key()))
	}
	if o.Err() != nil {
		return o.Err()
	}
	if err := missing(requiredFields, found); err != nil {
		return err
	}
	if e.Type != l.Type() {
		return errs.New(errs.Format, "backup '%s' has the type '%s'", l, e.Type)
	}
	if (e.MapSize == nil) != (e.MapSizeDelta == nil) {
		return errs.New(errs.JSONFormat, "one of 'backup-info-repo-size-map' and its delta not found")
	}
	b.entries = append(b.entries, e)
	return nil
}

var requiredFields = []string{
	"backrest-format", "backrest-version", "backup-info-repo-size", "backup-info-repo-size-delta",
	"backup-info-size", "backup-info-size-delta", "backup-timestamp-start", "backup-timestamp-stop", "backup-type", "db-id",
	"option-archive-check", "option-archive-copy", "option-backup-standby", "option-checksum-page", "option-compress",
	"option-hardlink", "option-online",
}

// field reads one field and says whether it is known.
func (e *BackupEntry) field(key string, raw []byte) (known bool, err error) {
	switch key {
	case "backrest-format":
		var n uint32
		n, err = ini.Uint32(raw)
		e.Format = int(n)
	case "backrest-version":
		e.Made, err = ini.String(raw)
	case "backup-annotation":
		e.Annotations, err = ini.Strings(raw)
	case "backup-archive-start":
		e.ArchiveStart, err = text(raw)
	case "backup-archive-stop":
		e.ArchiveStop, err = text(raw)
	case "backup-error":
		e.PageErrors = new(bool)
		*e.PageErrors, err = ini.Bool(raw)
	case "backup-info-repo-size":
		e.RepoSize, err = ini.Size(raw)
	case "backup-info-repo-size-delta":
		e.RepoSizeDelta, err = ini.Size(raw)
	case "backup-info-repo-size-map":
		e.MapSize = new(int64)
		*e.MapSize, err = ini.Size(raw)
	case "backup-info-repo-size-map-delta":
		e.MapSizeDelta = new(int64)
		*e.MapSizeDelta, err = ini.Size(raw)
	case "backup-info-size":
		e.Size, err = ini.Size(raw)
	case "backup-info-size-delta":
		e.SizeDelta, err = ini.Size(raw)
	case "backup-lsn-start":
		e.LSNStart, err = text(raw)
	case "backup-lsn-stop":
		e.LSNStop, err = text(raw)
	case "backup-prior":
		e.Prior, err = label(raw)
	case "backup-reference":
		e.Reference = []format.Label{}
		err = ini.Elements(raw, func(element []byte) error {
			l, err := label(element)
			e.Reference = append(e.Reference, l)
			return err
		})
	case "backup-timestamp-start":
		e.Start, err = ini.Size(raw)
	case "backup-timestamp-stop":
		e.Stop, err = ini.Size(raw)
	case "backup-type":
		var s string
		if s, err = ini.String(raw); err == nil {
			e.Type, err = format.ParseBackupType(s)
		}
	case "db-id":
		e.ClusterID, err = id(raw)
	case "option-archive-check":
		e.ArchiveCheck, err = ini.Bool(raw)
	case "option-archive-copy":
		e.ArchiveCopy, err = ini.Bool(raw)
	case "option-backup-standby":
		e.BackupStandby, err = ini.Bool(raw)
	case "option-checksum-page":
		e.ChecksumPage, err = ini.Bool(raw)
	case "option-compress":
		e.Compress, err = ini.Bool(raw)
	case "option-hardlink":
		e.Hardlink, err = ini.Bool(raw)
	case "option-online":
		e.Online, err = ini.Bool(raw)
	default:
		return false, nil
	}
	return true, err
}

// text reads a string, or null as the empty one.
func text(raw []byte) (string, error) {
	if ini.IsNull(raw) {
		return "", nil
	}
	return ini.String(raw)
}

func label(raw []byte) (format.Label, error) {
	s, err := ini.String(raw)
	if err != nil {
		return "", err
	}
	return format.ParseLabel(s)
}

// Write writes the file as the work of the program version. What an older state had that
// is not known here is put back.
func (b *Backup) Write(w io.Writer, version string) error {
	z := ini.NewWriter(w, version, &b.kept)
	for i := range b.entries {
		b.entries[i].write(z)
	}
	b.write(z)
	return z.Close()
}

var null = []byte("null")

func (e *BackupEntry) write(z *ini.Writer) {
	o := z.Object(sectionCurrent, string(e.Label))
	o.Uint("backrest-format", uint64(e.Format))
	o.String("backrest-version", e.Made)
	if e.Annotations != nil {
		o.Strings("backup-annotation", e.Annotations)
	}
	stringOrNull(&o, "backup-archive-start", e.ArchiveStart)
	stringOrNull(&o, "backup-archive-stop", e.ArchiveStop)
	if e.PageErrors != nil {
		o.Bool("backup-error", *e.PageErrors)
	}
	o.Int("backup-info-repo-size", e.RepoSize)
	o.Int("backup-info-repo-size-delta", e.RepoSizeDelta)
	if e.MapSize != nil && e.MapSizeDelta != nil {
		o.Int("backup-info-repo-size-map", *e.MapSize)
		o.Int("backup-info-repo-size-map-delta", *e.MapSizeDelta)
	}
	o.Int("backup-info-size", e.Size)
	o.Int("backup-info-size-delta", e.SizeDelta)
	optional(&o, "backup-lsn-start", e.LSNStart)
	optional(&o, "backup-lsn-stop", e.LSNStop)
	optional(&o, "backup-prior", string(e.Prior))
	if e.Reference != nil {
		list := []byte{'['}
		for i, l := range e.Reference {
			if i > 0 {
				list = append(list, ',')
			}
			list = ini.AppendString(list, string(l))
		}
		o.Raw("backup-reference", append(list, ']'))
	}
	o.Int("backup-timestamp-start", e.Start)
	o.Int("backup-timestamp-stop", e.Stop)
	o.String("backup-type", string(e.Type))
	o.Uint("db-id", uint64(e.ClusterID))
	o.Bool("option-archive-check", e.ArchiveCheck)
	o.Bool("option-archive-copy", e.ArchiveCopy)
	o.Bool("option-backup-standby", e.BackupStandby)
	o.Bool("option-checksum-page", e.ChecksumPage)
	o.Bool("option-compress", e.Compress)
	o.Bool("option-hardlink", e.Hardlink)
	o.Bool("option-online", e.Online)
	o.End()
}

// stringOrNull writes null for what an offline backup does not have.
func stringOrNull(o *ini.Fields, key, value string) {
	if value == "" {
		o.Raw(key, null)
	} else {
		o.String(key, value)
	}
}

func optional(o *ini.Fields, key, value string) {
	if value != "" {
		o.String(key, value)
	}
}
