package manifest

import (
	"bytes"
	"encoding/hex"
	"io"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/ini"
)

// The sections of a manifest, as they are written.
const (
	sectionBackup      = "backup"
	sectionCluster     = "backup:db"
	sectionOption      = "backup:option"
	sectionTarget      = "backup:target"
	sectionCipher      = "cipher"
	sectionDatabase    = "db"
	sectionMetadata    = "metadata"
	sectionFile        = "target:file"
	sectionFileDefault = "target:file:default"
	sectionLink        = "target:link"
	sectionLinkDefault = "target:link:default"
	sectionPath        = "target:path"
	sectionPathDefault = "target:path:default"
)

// Read reads a manifest, finished or not, of whose text it has no more than a part in memory at once.
//
// What is no manifest of format 5, or has a name or number that a restore could come to
// harm by, is a Format error that names it; a value of the wrong type is JSONFormat, and a
// file that changed since it was written Checksum. An error of src comes as it is.
func Read(src io.Reader) (*Manifest, error) {
	s := ini.NewStream(src)
	p := parser{m: &Manifest{}, s: s}
	for s.Next() {
		if err := p.row(); err != nil {
			return nil, s.Wrong(err)
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.m, nil
}

type parser struct {
	m *Manifest
	s *ini.Scanner

	// Rows come before the defaults that fill them up, so what they say of owner and mode is
	// collected here: for files in a table, that there are few to fill up in the end.
	files table[partial]
	paths map[string]partial
	links map[string]partial

	fileDefault, pathDefault, linkDefault partial

	reference []byte // the last one seen, and its number
	number    uint32
	listed    bool // there was a list of references
}

// partial is what a row says of owner and mode, and which of these it does say.
type partial struct {
	Attributes
	user, group, mode bool
}

// over gives what is said with the gaps filled from the defaults.
func (a partial) over(d partial) partial {
	if !a.user {
		a.User, a.user = d.User, d.user
	}
	if !a.group {
		a.Group, a.group = d.Group, d.group
	}
	if !a.mode {
		a.Mode, a.mode = d.Mode, d.mode
	}
	return a
}

// field reads a key that is user, group or mode, and says whether it was one of them.
func (a *partial) field(key, raw []byte) (bool, error) {
	switch string(key) {
	case "user":
		a.user = true
		return true, read(&a.User, raw, owner)
	case "group":
		a.group = true
		return true, read(&a.Group, raw, owner)
	case "mode":
		a.mode = true
		return true, read(&a.Mode, raw, mode)
	}
	return false, nil
}

// read sets a field from a raw value.
func read[T any](into *T, raw []byte, parse func([]byte) (T, error)) error {
	value, err := parse(raw)
	if err == nil {
		*into = value
	}
	return err
}

// readPointer sets a field that older manifests do not have.
func readPointer[T any](into **T, raw []byte, parse func([]byte) (T, error)) error {
	value, err := parse(raw)
	if err == nil {
		*into = &value
	}
	return err
}

// owner reads a name, or false for an id that had none.
func owner(raw []byte) (string, error) {
	if known, err := ini.Bool(raw); err == nil {
		if known {
			return "", errs.New(errs.Format, "owner bool must be false")
		}
		return "", nil
	}
	return ini.String(raw)
}

func mode(raw []byte) (uint32, error) {
	s, err := ini.String(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > maxMode {
		return 0, errs.New(errs.Format, "'%s' is not a mode", s)
	}
	return uint32(n), nil
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

func (p *parser) row() error {
	switch p.s.Section() {
	case sectionFile:
		return p.file()
	case sectionPath:
		return p.path()
	case sectionLink:
		return p.link()
	case sectionBackup:
		return p.backup()
	case sectionCluster:
		return p.cluster()
	case sectionOption:
		return p.option()
	case sectionTarget:
		return p.target()
	case sectionDatabase:
		return p.database()
	case sectionFileDefault:
		return p.defaults(&p.fileDefault)
	case sectionPathDefault:
		return p.defaults(&p.pathDefault)
	case sectionLinkDefault:
		return p.defaults(&p.linkDefault)
	case sectionCipher:
		if string(p.s.Key()) == "cipher-pass" {
			return read(&p.m.CipherPass, p.s.Value(), ini.String)
		}
	case sectionMetadata:
		if string(p.s.Key()) == "annotation" {
			return read(&p.m.Annotations, p.s.Value(), ini.Strings)
		}
	}
	p.m.kept.Row(p.s)
	return nil
}

func (p *parser) defaults(into *partial) error {
	known, err := into.field(p.s.Key(), p.s.Value())
	if !known {
		p.m.kept.Row(p.s)
	}
	return err
}

func (p *parser) backup() error {
	m, raw := p.m, p.s.Value()
	switch string(p.s.Key()) {
	case "backup-archive-start":
		return read(&m.ArchiveStart, raw, text)
	case "backup-archive-stop":
		return read(&m.ArchiveStop, raw, text)
	case "backup-block-incr":
		return read(&m.BlockIncr, raw, ini.Bool)
	case "backup-bundle":
		return read(&m.Bundle, raw, ini.Bool)
	case "backup-bundle-raw":
		return read(&m.BundleRaw, raw, ini.Bool)
	case "backup-label":
		return read(&m.Label, raw, label)
	case "backup-lsn-start":
		return read(&m.LSNStart, raw, text)
	case "backup-lsn-stop":
		return read(&m.LSNStop, raw, text)
	case "backup-prior":
		return read(&m.Prior, raw, label)
	case "backup-reference":
		p.listed = true
		return read(&m.References, raw, references)
	case "backup-timestamp-copy-start":
		return read(&m.CopyStart, raw, ini.Size)
	case "backup-timestamp-start":
		return read(&m.Start, raw, ini.Size)
	case "backup-timestamp-stop":
		return read(&m.Stop, raw, ini.Size)
	case "backup-type":
		return read(&m.Type, raw, backupType)
	}
	m.kept.Row(p.s)
	return nil
}

func backupType(raw []byte) (format.BackupType, error) {
	s, err := ini.String(raw)
	if err != nil {
		return "", err
	}
	return format.ParseBackupType(s)
}

func references(raw []byte) ([]format.Label, error) {
	s, err := ini.String(raw)
	if err != nil {
		return nil, err
	}
	var list []format.Label
	for part := range strings.SplitSeq(s, ",") {
		l, err := format.ParseLabel(part)
		if err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

func (p *parser) cluster() error {
	c, raw := &p.m.Cluster, p.s.Value()
	switch string(p.s.Key()) {
	case "db-catalog-version":
		return read(&c.CatalogVersion, raw, ini.Uint32)
	case "db-control-version":
		return read(&c.ControlVersion, raw, ini.Uint32)
	case "db-id":
		id, err := ini.Uint32(raw)
		c.ID = int(id)
		return err
	case "db-system-id":
		return read(&c.SystemID, raw, ini.Uint64)
	case "db-version":
		return read(&c.Version, raw, ini.String)
	}
	p.m.kept.Row(p.s)
	return nil
}

func (p *parser) option() error {
	o, raw := &p.m.Options, p.s.Value()
	switch string(p.s.Key()) {
	case "option-archive-check":
		return read(&o.ArchiveCheck, raw, ini.Bool)
	case "option-archive-copy":
		return read(&o.ArchiveCopy, raw, ini.Bool)
	case "option-backup-standby":
		return readPointer(&o.BackupStandby, raw, ini.Bool)
	case "option-buffer-size":
		return readPointer(&o.BufferSize, raw, ini.Uint32)
	case "option-checksum-page":
		return readPointer(&o.ChecksumPage, raw, ini.Bool)
	case "option-compress":
		// The key of old: it means gz. The type, which follows where there is one, is
		// what counts.
		on, err := ini.Bool(raw)
		if err == nil && o.CompressType == "" && on {
			o.CompressType = compressGzip
		}
		return err
	case "option-compress-level":
		return readPointer(&o.CompressLevel, raw, level)
	case "option-compress-level-network":
		return readPointer(&o.CompressLevelNetwork, raw, level)
	case "option-compress-type":
		return read(&o.CompressType, raw, ini.String)
	case "option-delta":
		return readPointer(&o.Delta, raw, ini.Bool)
	case "option-hardlink":
		return read(&o.Hardlink, raw, ini.Bool)
	case "option-online":
		return read(&o.Online, raw, ini.Bool)
	case "option-process-max":
		return readPointer(&o.ProcessMax, raw, ini.Uint32)
	}
	p.m.kept.Row(p.s)
	return nil
}

// level reads a compression level, whose negative values are stored as numbers of 32 bits
// without a sign.
func level(raw []byte) (int, error) {
	n, err := ini.Uint32(raw)
	return int(int32(n)), err
}

func (p *parser) target() error {
	t := Target{Name: string(p.s.Key())}
	var kind, id string
	o := ini.NewObject(p.s.Value())
	for o.Next() {
		var err error
		switch string(o.Key()) {
		case "file":
			if err = read(&t.File, o.Value(), ini.String); err == nil && t.File == "" {
				err = errs.New(errs.Format, "target has an empty file name")
			}
		case "path":
			err = read(&t.Path, o.Value(), ini.String)
		case "tablespace-id":
			err = read(&id, o.Value(), ini.String)
		case "tablespace-name":
			err = read(&t.TablespaceName, o.Value(), ini.String)
		case "type":
			err = read(&kind, o.Value(), ini.String)
		default:
			p.m.kept.Field(p.s, &o)
		}
		if err != nil {
			return err
		}
	}
	if id != "" {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil || n == 0 {
			return errs.New(errs.Format, "'%s' is not the id of a tablespace", id)
		}
		t.TablespaceID = uint32(n)
	}
	if kind != t.kind() {
		return errs.New(errs.Format, "target is of type '%s' but must be '%s'", kind, t.kind())
	}
	p.m.Targets.Add(t)
	return o.Err()
}

// kind gives the type of a target: only PGDATA itself is no link.
func (t Target) kind() string {
	if t.Name == format.PGData {
		return "path"
	}
	return "link"
}

func (p *parser) database() error {
	d := Database{Name: string(p.s.Key())}
	found := 0
	o := ini.NewObject(p.s.Value())
	for o.Next() {
		var err error
		switch string(o.Key()) {
		case "db-id":
			found++
			err = read(&d.ID, o.Value(), ini.Uint32)
		case "db-last-system-id":
			found++
			err = read(&d.LastSystemID, o.Value(), ini.Uint32)
		default:
			p.m.kept.Field(p.s, &o)
		}
		if err != nil {
			return err
		}
	}
	if o.Err() == nil && found < 2 {
		return errs.New(errs.JSONFormat, "required key 'db-id' or 'db-last-system-id' not found")
	}
	p.m.Databases.Add(d)
	return o.Err()
}

func (p *parser) link() error {
	l := Link{Name: string(p.s.Key())}
	var a partial
	o := ini.NewObject(p.s.Value())
	for o.Next() {
		known, err := false, error(nil)
		switch string(o.Key()) {
		case "destination":
			known, err = true, read(&l.Destination, o.Value(), ini.String)
		case "mode":
		default:
			known, err = a.field(o.Key(), o.Value())
		}
		if err != nil {
			return err
		}
		if !known {
			p.m.kept.Field(p.s, &o)
		}
	}
	if p.links == nil {
		p.links = map[string]partial{}
	}
	p.links[l.Name] = a
	p.m.Links.Add(l)
	return o.Err()
}

func (p *parser) path() error {
	name := string(p.s.Key())
	var a partial
	o := ini.NewObject(p.s.Value())
	for o.Next() {
		known, err := a.field(o.Key(), o.Value())
		if err != nil {
			return err
		}
		if !known {
			p.m.kept.Field(p.s, &o)
		}
	}
	if p.paths == nil {
		p.paths = map[string]partial{}
	}
	p.paths[name] = a
	p.m.Paths.Add(Path{Name: name})
	return o.Err()
}

// file reads the row of a file. A manifest is nearly all such rows.
func (p *parser) file() error {
	var (
		r                             record
		a                             partial
		hasSize, hasTime, hasRepoSize bool
		hasOriginal                   bool
		err                           error
	)
	o := ini.NewObject(p.s.Value())
	for o.Next() {
		raw := o.Value()
		switch string(o.Key()) {
		case "bi":
			if r.blockUnits, err = positive(raw); r.blockChecksum == 0 {
				r.blockChecksum = BlockChecksumSize
			}
		case "bic":
			err = p.blockChecksum(&r, &o)
		case "bim":
			err = p.dependent(r.blockUnits > 0, &r.mapSize, &o)
		case "bni":
			r.bundle, err = positive(raw)
		case "bno":
			err = p.dependent(r.bundle > 0, &r.bundleOffset, &o)
		case "checksum":
			err = sum(&r.checksum, raw)
		case "checksum-page":
			var valid bool
			if valid, err = ini.Bool(raw); valid {
				r.state = state(PagesValid)
			} else {
				r.state = state(PagesInvalid)
			}
		case "checksum-page-error":
			err = p.pageErrors(&r, &o)
		case "rck":
			err = sum(&r.repoChecksum, raw)
		case "reference":
			r.reference, err = p.referenceNumber(raw)
		case "repo-size":
			hasRepoSize = true
			r.repoSize, err = ini.Size(raw)
		case "size":
			hasSize = true
			r.size, err = ini.Size(raw)
		case "szo":
			hasOriginal = true
			r.originalSize, err = ini.Size(raw)
		case "timestamp":
			hasTime = true
			r.timestamp, err = ini.Int64(raw)
		default:
			var known bool
			if known, err = a.field(o.Key(), raw); !known {
				p.m.kept.Field(p.s, &o)
			}
		}
		if err != nil {
			return err
		}
	}
	switch {
	case o.Err() != nil:
		return o.Err()
	case !hasSize:
		return errs.New(errs.Format, "missing size for file '%s'", p.s.Key())
	case !hasTime:
		return errs.New(errs.Format, "missing timestamp for file '%s'", p.s.Key())
	}
	if !hasRepoSize {
		r.repoSize = r.size
	}
	if !hasOriginal {
		r.originalSize = r.size
	}
	if r.size == 0 {
		r.checksum = SHA1{}
	}
	r.attributes = p.files.put(a)
	r.name = p.m.Files.names.text(p.s.Key())
	p.m.Files.add(r)
	return r.check()
}

// positive reads a number that is not 0.
func positive(raw []byte) (uint32, error) {
	n, err := ini.Uint32(raw)
	if err == nil && n == 0 {
		err = errs.New(errs.Format, "0 where a number above it is needed")
	}
	return n, err
}

// dependent reads a number that means something only beside another key. Alone it is
// an unknown key, as it is to pgBackRest.
func (p *parser) dependent(known bool, into *int64, o *ini.Object) error {
	if !known {
		p.m.kept.Field(p.s, o)
		return nil
	}
	return read(into, o.Value(), ini.Size)
}

func (p *parser) blockChecksum(r *record, o *ini.Object) error {
	size := int64(BlockChecksumSize)
	err := p.dependent(r.blockUnits > 0, &size, o)
	if err == nil && (size < 1 || size > maxBlockChecksum) {
		return errs.New(errs.Format, "%d is not the size of a block checksum", size)
	}
	if r.blockUnits > 0 {
		r.blockChecksum = uint8(size)
	}
	return err
}

// sum reads a checksum. One of zeros only is none that was computed.
func sum(into *SHA1, raw []byte) error {
	digits := ini.Plain(raw)
	if len(digits) == 2*len(into) {
		if _, err := hex.Decode(into[:], digits); err == nil && *into != (SHA1{}) {
			return nil
		}
	}
	return errs.New(errs.Format, "invalid checksum %s", raw)
}

// referenceNumber gives the number of a reference. Files side by side tend to have
// the same.
func (p *parser) referenceNumber(raw []byte) (uint32, error) {
	if p.number > 0 && bytes.Equal(p.reference, raw) {
		return p.number, nil
	}
	l, err := label(raw)
	if err != nil {
		return 0, err
	}
	p.reference, p.number = append(p.reference[:0], raw...), p.m.Files.references.put(l)
	return p.number, nil
}

func (p *parser) pageErrors(r *record, o *ini.Object) error {
	if r.state&pagesMask == 0 {
		p.m.kept.Field(p.s, o)
		return nil
	}
	var ranges []PageRange
	err := ini.Elements(o.Value(), func(element []byte) error {
		if element[0] != '[' {
			page, err := ini.Uint32(element)
			ranges = append(ranges, PageRange{page, page})
			return err
		}
		var ends []uint32
		err := ini.Elements(element, func(end []byte) error {
			page, err := ini.Uint32(end)
			ends = append(ends, page)
			return err
		})
		if err == nil && (len(ends) != 2 || ends[0] > ends[1]) {
			return errs.New(errs.Format, "invalid range of pages %s", element)
		}
		if err == nil {
			ranges = append(ranges, PageRange{ends[0], ends[1]})
		}
		return err
	})
	if err == nil && len(ranges) > 0 {
		r.pageErrors = p.m.Files.putPageErrors(0, ranges)
	}
	return err
}

// finish fills in what rows left to the defaults and checks the whole.
func (p *parser) finish() error {
	m := p.m
	m.Program = p.s.Version()
	m.FileDefault, m.PathDefault, m.LinkDefault = p.fileDefault.Attributes, p.pathDefault.Attributes, p.linkDefault.Owner
	if m.Options.CompressType == "" {
		m.Options.CompressType = compressNone
	}

	// The table of the files is filled up row for row, so the numbers in the records hold.
	f := &m.Files
	f.attributes.index = map[Attributes]uint32{}
	for i, a := range p.files.values {
		a = a.over(p.fileDefault)
		if !a.mode {
			return errs.New(errs.Format, "a file has no mode, and there is no default")
		}
		f.attributes.values = append(f.attributes.values, a.Attributes)
		f.attributes.index[a.Attributes] = uint32(i + 1)
	}
	for i := range m.Paths.All() {
		path := &m.Paths.entries[i]
		a := p.paths[path.Name].over(p.pathDefault)
		if !a.mode {
			return errs.New(errs.Format, "path '%s' has no mode, and there is no default", path.Name)
		}
		path.Attributes = a.Attributes
	}
	for i := range m.Links.All() {
		link := &m.Links.entries[i]
		link.Owner = p.links[link.Name].over(p.linkDefault).Owner
	}

	if !p.listed {
		// Before 2.42 the list was what the files refer to, in their order.
		for _, l := range f.references.values {
			if l != m.Label {
				m.References = append(m.References, l)
			}
		}
		m.References = append(m.References, m.Label)
	}
	return m.Check()
}
