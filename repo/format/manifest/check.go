package manifest

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
)

// Check makes sure that the manifest can be written and restored without harm. Read and
// Write call it. It is a Format error, which names the entry, when
//
//   - a name is not below pg_data or a tablespace, has an empty, "." or ".." element, a NUL
//     or a line feed, or is there twice;
//   - the directory of an entry is not among the paths, so that a restore would have to
//     make one it knows nothing of, or a file or link is in its way;
//   - a file has the name of a path or a link, a path that of a link, unless the link is
//     one to a file or a directory that is listed under its name;
//   - a link has no target or a target no link, or PGDATA is not among targets and paths;
//   - a label, version, compression type or mode is none, or a file refers to a backup that
//     is not in the list of references.
//
// That links do not lead into one another is for CheckLinks to see.
func (m *Manifest) Check() error {
	for _, check := range []func() error{m.checkHeader, m.checkTargets, m.checkPaths, m.checkLinks, m.checkFiles} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) checkHeader() error {
	if _, err := format.ParseLabel(string(m.Label)); err != nil {
		return errs.New(errs.Format, "manifest has no valid label: %w", err)
	}
	if m.Type != m.Label.Type() {
		return errs.New(errs.Format, "manifest '%s' has the type '%s'", m.Label, m.Type)
	}
	switch _, err := format.ParseLabel(string(m.Prior)); {
	case m.Type == format.Full && m.Prior != "":
		return errs.New(errs.Format, "full backup '%s' has the prior backup '%s'", m.Label, m.Prior)
	case m.Type != format.Full && err != nil:
		return errs.New(errs.Format, "manifest '%s' has no valid prior: %w", m.Label, err)
	}
	listed := map[format.Label]bool{}
	for _, l := range m.References {
		if _, err := format.ParseLabel(string(l)); err != nil {
			return errs.New(errs.Format, "manifest '%s' has an invalid reference: %w", m.Label, err)
		}
		if listed[l] {
			return errs.New(errs.Format, "manifest '%s' has the reference '%s' twice", m.Label, l)
		}
		listed[l] = true
	}
	if n := len(m.References); n == 0 || m.References[n-1] != m.Label {
		return errs.New(errs.Format, "the references of manifest '%s' do not end with it", m.Label)
	}
	for _, l := range m.Files.references.values {
		if !listed[l] {
			return errs.New(errs.Format, "files refer to the backup '%s', which is not among the references of manifest '%s'", l, m.Label)
		}
	}
	if !format.ValidVersion(m.Cluster.Version) {
		return errs.New(errs.Format, "'%s' is not a version of PostgreSQL", m.Cluster.Version)
	}
	if !validCompress(m.Options.CompressType) {
		return errs.New(errs.Format, "invalid compression type '%s'", m.Options.CompressType)
	}
	for _, d := range []Attributes{m.FileDefault, m.PathDefault} {
		if d.Mode > maxMode {
			return errs.New(errs.Format, "invalid default mode %o", d.Mode)
		}
	}
	return nil
}

// splitName takes a name apart into the directory it is in and what it is called
// there, and says whether it is a name at all.
func splitName(name string) (dir, base string, valid bool) {
	slash, from := -1, 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			if name[i] == 0 || name[i] == '\n' {
				return "", "", false
			}
			continue
		}
		switch name[from:i] {
		case "", ".", "..":
			return "", "", false
		}
		if i < len(name) {
			slash, from = i, i+1
		}
	}
	if slash < 0 {
		return "", name, true
	}
	return name[:slash], name[from:], true
}

// tablespace gives the first two elements of a name below pg_tblspc, "pg_tblspc/16384",
// when the second is an oid, and what follows them. valid is false for other names.
func tablespace(name string) (target, rest string, valid bool) {
	after, found := strings.CutPrefix(name, format.PGTblspc+"/")
	if !found {
		return "", "", false
	}
	oid, rest, _ := strings.Cut(after, "/")
	n, err := strconv.ParseUint(oid, 10, 32)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != oid {
		return "", "", false
	}
	return name[:len(format.PGTblspc)+1+len(oid)], rest, true
}

func below(name, dir string) bool {
	return len(name) > len(dir) && name[len(dir)] == '/' && name[:len(dir)] == dir
}

func invalidName(kind, name string) error {
	return errs.New(errs.Format, "%s '%s' is not a valid name", kind, name)
}

func twice(kind, name string) error {
	return errs.New(errs.Format, "%s '%s' is there twice", kind, name)
}

func (m *Manifest) checkTargets() error {
	before := ""
	for i, t := range m.Targets.All() {
		if i > 0 && t.Name == before {
			return twice("target", t.Name)
		}
		before = t.Name
		_, _, valid := splitName(t.Name)
		space, rest, isSpace := tablespace(t.Name)
		isSpace = isSpace && rest == ""
		if !valid || t.Name != format.PGData && !isSpace && !below(t.Name, format.PGData) {
			return invalidName("target", t.Name)
		}
		if isSpace != (t.TablespaceID != 0) || isSpace && space != format.PGTblspc+"/"+strconv.FormatUint(uint64(t.TablespaceID), 10) {
			return errs.New(errs.Format, "target '%s' has the tablespace id %d", t.Name, t.TablespaceID)
		}
		if !plainText(t.Path) || t.Name == format.PGData && !path.IsAbs(t.Path) {
			return errs.New(errs.Format, "target '%s' has the invalid path '%s'", t.Name, t.Path)
		}
		if t.File != "" {
			if dir, _, ok := splitName(t.File); !ok || dir != "" || t.Name == format.PGData || isSpace {
				return errs.New(errs.Format, "target '%s' has the invalid file '%s'", t.Name, t.File)
			}
		}
		if t.Name != format.PGData && m.Links.Find(linkName(t)) == nil {
			return errs.New(errs.Format, "target '%s' has no link", t.Name)
		}
		if t.File == "" && m.Paths.Find(t.Name) == nil {
			return errs.New(errs.Format, "target '%s' has no path", t.Name)
		}
	}
	if m.Targets.Find(format.PGData) == nil {
		return errs.New(errs.Format, "manifest has no target '%s'", format.PGData)
	}
	before = ""
	for i, d := range m.Databases.All() {
		if i > 0 && d.Name == before {
			return twice("database", d.Name)
		}
		before = d.Name
	}
	return nil
}

// plainText says whether s is text that a file system can take.
func plainText(s string) bool { return s != "" && !strings.ContainsAny(s, "\x00\n") }

// linkName gives the name of the link that leads to a target.
func linkName(t Target) string {
	if t.TablespaceID != 0 {
		return format.PGData + "/" + t.Name
	}
	return t.Name
}

func (m *Manifest) checkPaths() error {
	before := ""
	for i, p := range m.Paths.All() {
		if i > 0 && p.Name == before {
			return twice("path", p.Name)
		}
		before = p.Name
		if p.Mode > maxMode {
			return errs.New(errs.Format, "mode %o cannot be that of path '%s'", p.Mode, p.Name)
		}
		if p.Name == format.PGData || p.Name == format.PGTblspc {
			continue
		}
		if err := m.checkPlace("path", p.Name, 0); err != nil {
			return err
		}
	}
	return nil
}

// checkPlace checks that a name is one of an entry below pg_data or a tablespace, in
// the latter at least deep directories down, and that its directory is among the paths.
func (m *Manifest) checkPlace(kind, name string, deep int) error {
	dir, _, valid := splitName(name)
	if valid && !below(name, format.PGData) {
		var target, rest string
		if target, rest, valid = tablespace(name); valid {
			valid = strings.Count(rest, "/") >= deep
			if valid && m.Targets.Find(target) == nil {
				return errs.New(errs.Format, "%s '%s' belongs to no target", kind, name)
			}
		}
	}
	if !valid {
		return invalidName(kind, name)
	}
	if m.Paths.Find(dir) == nil {
		return errs.New(errs.Format, "%s '%s' is in the directory '%s', which is not among the paths", kind, name, dir)
	}
	return nil
}

func (m *Manifest) checkLinks() error {
	before := ""
	for i, l := range m.Links.All() {
		if i > 0 && l.Name == before {
			return twice("link", l.Name)
		}
		before = l.Name
		if !below(l.Name, format.PGData) {
			return invalidName("link", l.Name)
		}
		if err := m.checkPlace("link", l.Name, 0); err != nil {
			return err
		}
		if !plainText(l.Destination) {
			return errs.New(errs.Format, "link '%s' has the invalid destination '%s'", l.Name, l.Destination)
		}
		t := m.linkTarget(l)
		if t == nil {
			return errs.New(errs.Format, "link '%s' has no target", l.Name)
		}
		if m.Paths.Find(l.Name) != nil && (t.TablespaceID != 0 || t.File != "") {
			return errs.New(errs.Format, "link '%s' has the name of a path", l.Name)
		}
		if _, found := m.Files.search(l.Name); found && t.File == "" {
			return errs.New(errs.Format, "file '%s' has the name of a link", l.Name)
		}
	}
	return nil
}

// linkTarget gives the target a link leads to, nil when there is none.
func (m *Manifest) linkTarget(l Link) *Target {
	if t := m.Targets.Find(PGPath(l.Name)); t != nil && t.TablespaceID != 0 {
		return t
	}
	return m.Targets.Find(l.Name)
}

func (m *Manifest) checkFiles() error {
	f := &m.Files
	f.sort()
	f.compact()
	dir := ""
	before := ""
	for i := range f.records.n {
		r := f.records.at(i)
		if i > 0 && r.name == before {
			return twice("file", r.name)
		}
		before = r.name
		// Most files are in the directory of the one before, whose place has been checked.
		in, _, valid := splitName(r.name)
		if !valid || in == "" || in != dir {
			if err := m.checkPlace("file", r.name, 1); err != nil {
				return err
			}
			dir = in
		}
		if err := r.check(); err != nil {
			return err
		}
	}
	for _, p := range m.Paths.All() {
		if _, found := f.search(p.Name); found {
			return errs.New(errs.Format, "file '%s' has the name of a path", p.Name)
		}
	}
	return nil
}

// CheckLinks makes sure that what links lead to is apart: not in PGDATA, not the same
// directory or file as another's, not one below another. Else bytes would be stored,
// or restored, twice. It is a LinkDestination error.
func (m *Manifest) CheckLinks() error {
	base := m.Targets.Find(format.PGData)
	if base == nil {
		return errs.New(errs.Format, "manifest has no target '%s'", format.PGData)
	}
	type place struct {
		name, dir, file string
	}
	var seen []place
	for _, t := range m.Targets.All() {
		if t.Name == format.PGData {
			continue
		}
		a := place{PGPath(t.Name), m.TargetDir(t), t.File}
		if within(a.dir, path.Clean(base.Path)) {
			return errs.New(errs.LinkDestination, "link '%s' destination '%s' is in PGDATA", a.name, a.dir)
		}
		for _, b := range seen {
			inner, outer := a, b
			if within(b.dir, a.dir) {
				inner, outer = b, a
			}
			switch {
			case a.file != "" && b.file != "":
				if a.dir == b.dir && a.file == b.file {
					return errs.New(errs.LinkDestination, "link '%s' (%s/%s) destination is the same file as link '%s' (%s/%s)",
						a.name, a.dir, a.file, b.name, b.dir, b.file)
				}
			case a.dir == b.dir:
				return errs.New(errs.LinkDestination, "link '%s' (%s) destination is the same directory as link '%s' (%s)",
					a.name, a.dir, b.name, b.dir)
			case outer.file == "" && inner.file == "" && within(inner.dir, outer.dir):
				return errs.New(errs.LinkDestination, "link '%s' (%s) destination is a subdirectory of link '%s' (%s)",
					inner.name, inner.dir, outer.name, outer.dir)
			}
		}
		seen = append(seen, a)
	}
	return nil
}

// within says whether dir is outer or below it.
func within(dir, outer string) bool {
	return dir == outer || strings.HasPrefix(dir, strings.TrimSuffix(outer, "/")+"/")
}

// ValidateChecksums makes sure that every file has a checksum, without which a restore
// cannot be verified. It is a Format error that lists those that have none.
func (m *Manifest) ValidateChecksums() error { return m.validate(false) }

// Validate makes sure that the manifest is that of a finished backup: every file has a
// checksum and what is not empty is stored. It is a Format error that lists the others.
func (m *Manifest) Validate() error { return m.validate(true) }

// maxListed bounds the message of a manifest that is wrong throughout.
const maxListed = 100

func (m *Manifest) validate(finished bool) error {
	var list strings.Builder
	n := 0
	add := func(form, name string) {
		if n++; n <= maxListed {
			fmt.Fprintf(&list, "\n"+form, name)
		}
	}
	for f := range m.Files.All() {
		if f.Checksum == (SHA1{}) {
			add("missing checksum for file '%s'", f.Name)
		}
		if finished && f.RepoSize == 0 && f.Size != 0 {
			add("repo size must be > 0 for file '%s'", f.Name)
		}
	}
	switch {
	case n == 0:
		return nil
	case n > maxListed:
		fmt.Fprintf(&list, "\n%d more", n-maxListed)
	}
	return errs.New(errs.Format, "manifest validation failed:%s", list.String())
}
