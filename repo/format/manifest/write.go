package manifest

import (
	"encoding/hex"
	"io"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/repo/format/ini"
)

// Write writes the manifest, finished or not, as the work of m.Program. It first makes sure,
// by Check, that it can be read again; on such an error nothing is written.
func (m *Manifest) Write(w io.Writer) error {
	if err := m.Check(); err != nil {
		return err
	}
	z := ini.NewWriter(w, m.Program, &m.kept)
	m.writeBackup(z)
	m.writeCluster(z)
	m.writeOptions(z)
	for _, t := range m.Targets.All() {
		o := z.Object(sectionTarget, t.Name)
		optional(t.File, func() { o.String("file", t.File) })
		o.String("path", t.Path)
		if t.TablespaceID != 0 {
			o.String("tablespace-id", strconv.FormatUint(uint64(t.TablespaceID), 10))
		}
		optional(t.TablespaceName, func() { o.String("tablespace-name", t.TablespaceName) })
		o.String("type", t.kind())
		o.End()
	}
	optional(m.CipherPass, func() { z.String(sectionCipher, "cipher-pass", m.CipherPass) })
	for _, d := range m.Databases.All() {
		o := z.Object(sectionDatabase, d.Name)
		o.Uint("db-id", uint64(d.ID))
		o.Uint("db-last-system-id", uint64(d.LastSystemID))
		o.End()
	}
	if m.Annotations != nil {
		z.Strings(sectionMetadata, "annotation", m.Annotations)
	}
	for i := range m.Files.records.n {
		m.writeFile(z, m.Files.records.at(i))
	}
	writeDefault(z, sectionFileDefault, m.FileDefault.Owner, &m.FileDefault.Mode)
	if len(m.Links.All()) > 0 {
		for _, l := range m.Links.All() {
			o := z.Object(sectionLink, l.Name)
			o.String("destination", l.Destination)
			writeOwner(&o, "group", l.Group, m.LinkDefault.Group)
			writeOwner(&o, "user", l.User, m.LinkDefault.User)
			o.End()
		}
		writeDefault(z, sectionLinkDefault, m.LinkDefault, nil)
	}
	for _, p := range m.Paths.All() {
		o := z.Object(sectionPath, p.Name)
		writeOwner(&o, "group", p.Group, m.PathDefault.Group)
		writeMode(&o, p.Mode, m.PathDefault.Mode)
		writeOwner(&o, "user", p.User, m.PathDefault.User)
		o.End()
	}
	writeDefault(z, sectionPathDefault, m.PathDefault.Owner, &m.PathDefault.Mode)
	return z.Close()
}

// optional writes what is there only when it is not empty.
func optional(value string, write func()) {
	if value != "" {
		write()
	}
}

// optionalValue writes a value that older manifests do not have.
func optionalValue[T any](value *T, write func(T)) {
	if value != nil {
		write(*value)
	}
}

func (m *Manifest) writeBackup(z *ini.Writer) {
	str := func(key, value string) { z.String(sectionBackup, key, value) }
	flag := func(key string, on bool) {
		if on {
			z.Bool(sectionBackup, key, true)
		}
	}
	optional(m.ArchiveStart, func() { str("backup-archive-start", m.ArchiveStart) })
	optional(m.ArchiveStop, func() { str("backup-archive-stop", m.ArchiveStop) })
	flag("backup-block-incr", m.BlockIncr)
	flag("backup-bundle", m.Bundle)
	flag("backup-bundle-raw", m.BundleRaw)
	str("backup-label", string(m.Label))
	optional(m.LSNStart, func() { str("backup-lsn-start", m.LSNStart) })
	optional(m.LSNStop, func() { str("backup-lsn-stop", m.LSNStop) })
	optional(string(m.Prior), func() { str("backup-prior", string(m.Prior)) })
	labels := make([]string, len(m.References))
	for i, l := range m.References {
		labels[i] = string(l)
	}
	str("backup-reference", strings.Join(labels, ","))
	z.Int(sectionBackup, "backup-timestamp-copy-start", m.CopyStart)
	z.Int(sectionBackup, "backup-timestamp-start", m.Start)
	z.Int(sectionBackup, "backup-timestamp-stop", m.Stop)
	str("backup-type", string(m.Type))
}

func (m *Manifest) writeCluster(z *ini.Writer) {
	c := m.Cluster
	z.Uint(sectionCluster, "db-catalog-version", uint64(c.CatalogVersion))
	if c.ControlVersion != 0 {
		z.Uint(sectionCluster, "db-control-version", uint64(c.ControlVersion))
	}
	z.Uint(sectionCluster, "db-id", uint64(c.ID))
	z.Uint(sectionCluster, "db-system-id", c.SystemID)
	z.String(sectionCluster, "db-version", c.Version)
}

func (m *Manifest) writeOptions(z *ini.Writer) {
	o := m.Options
	flag := func(key string) func(bool) { return func(on bool) { z.Bool(sectionOption, key, on) } }
	number := func(key string) func(uint32) { return func(n uint32) { z.Uint(sectionOption, key, uint64(n)) } }
	level := func(key string) func(int) { return func(n int) { z.Uint(sectionOption, key, uint64(uint32(n))) } }

	flag("option-archive-check")(o.ArchiveCheck)
	flag("option-archive-copy")(o.ArchiveCopy)
	optionalValue(o.BackupStandby, flag("option-backup-standby"))
	optionalValue(o.BufferSize, number("option-buffer-size"))
	optionalValue(o.ChecksumPage, flag("option-checksum-page"))
	flag("option-compress")(o.CompressType != compressNone)
	optionalValue(o.CompressLevel, level("option-compress-level"))
	optionalValue(o.CompressLevelNetwork, level("option-compress-level-network"))
	z.String(sectionOption, "option-compress-type", o.CompressType)
	optionalValue(o.Delta, flag("option-delta"))
	flag("option-hardlink")(o.Hardlink)
	flag("option-online")(o.Online)
	optionalValue(o.ProcessMax, number("option-process-max"))
}

// writeDefault writes a section of defaults. Links have no mode.
func writeDefault(z *ini.Writer, section string, o Owner, mode *uint32) {
	ownerDefault(z, section, "group", o.Group)
	optionalValue(mode, func(n uint32) { z.String(section, "mode", modeText(n)) })
	ownerDefault(z, section, "user", o.User)
}

func ownerDefault(z *ini.Writer, section, key, name string) {
	if name == "" {
		z.Bool(section, key, false)
	} else {
		z.String(section, key, name)
	}
}

func writeOwner(o *ini.Fields, key, name, byDefault string) {
	switch name {
	case byDefault:
	case "":
		o.Bool(key, false)
	default:
		o.String(key, name)
	}
}

func writeMode(o *ini.Fields, mode, byDefault uint32) {
	if mode != byDefault {
		o.String("mode", modeText(mode))
	}
}

// modeText gives a mode as at least four octal digits.
func modeText(mode uint32) string {
	text := strconv.FormatUint(uint64(mode), 8)
	return "0000"[:max(0, 4-len(text))] + text
}

func (m *Manifest) writeFile(z *ini.Writer, r *record) {
	a := &m.Files.attributes.values[r.attributes-1]
	var digits [2 * len(SHA1{})]byte
	o := z.Object(sectionFile, r.name)
	if r.blockUnits != 0 {
		o.Uint("bi", uint64(r.blockUnits))
		if r.blockChecksum != BlockChecksumSize {
			o.Uint("bic", uint64(r.blockChecksum))
		}
		if r.mapSize != 0 {
			o.Uint("bim", uint64(r.mapSize))
		}
	}
	if r.bundle != 0 {
		o.Uint("bni", uint64(r.bundle))
		if r.bundleOffset != 0 {
			o.Uint("bno", uint64(r.bundleOffset))
		}
	}
	if r.checksum != (SHA1{}) {
		hex.Encode(digits[:], r.checksum[:])
		o.Plain("checksum", digits[:])
	}
	if pages := Pages(r.state & pagesMask); pages != PagesUnchecked {
		o.Bool("checksum-page", pages == PagesValid)
		if r.pageErrors != 0 {
			o.Raw("checksum-page-error", pageErrorsText(m.Files.pageErrors[r.pageErrors-1]))
		}
	}
	writeOwner(&o, "group", a.Group, m.FileDefault.Group)
	writeMode(&o, a.Mode, m.FileDefault.Mode)
	if r.repoChecksum != (SHA1{}) {
		hex.Encode(digits[:], r.repoChecksum[:])
		o.Plain("rck", digits[:])
	}
	if r.reference != 0 {
		o.String("reference", string(m.Files.references.values[r.reference-1]))
	}
	if r.repoSize != r.size {
		o.Uint("repo-size", uint64(r.repoSize))
	}
	o.Uint("size", uint64(r.size))
	if r.originalSize != r.size {
		o.Uint("szo", uint64(r.originalSize))
	}
	o.Int("timestamp", r.timestamp)
	writeOwner(&o, "user", a.User, m.FileDefault.User)
	o.End()
}

func pageErrorsText(ranges []PageRange) []byte {
	text := []byte{'['}
	for i, r := range ranges {
		if i > 0 {
			text = append(text, ',')
		}
		if r.First == r.Last {
			text = ini.AppendUint(text, uint64(r.First))
			continue
		}
		text = ini.AppendUint(append(text, '['), uint64(r.First))
		text = ini.AppendUint(append(text, ','), uint64(r.Last))
		text = append(text, ']')
	}
	return append(text, ']')
}
