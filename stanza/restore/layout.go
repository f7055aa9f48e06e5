package restore

import (
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Files that a restore leaves out.
const (
	tablespaceMap    = format.PGData + "/tablespace_map"
	autoConfManifest = format.PGData + "/" + autoConf
	leftoverMarker   = format.PGData + "/backup.manifest"
)

// omit takes out of the manifest what is not restored.
func (r *run) omit(m *manifest.Manifest) {
	if m.Files.Remove(tablespaceMap) {
		r.detail("skip 'tablespace_map' -- tablespace links will be created based on mappings")
	}
	if r.cfg.Type == Preserve && m.Files.Remove(autoConfManifest) {
		r.detail("skip 'postgresql.auto.conf' -- recovery type is preserve")
	}
	// Left by an earlier restore in the cluster that was backed up; here it would take
	// the place of our own.
	m.Files.Remove(leftoverMarker)
}

// tablespaceDir is the directory in each tablespace that is this version's alone.
func tablespaceDir(m *manifest.Manifest) (string, error) {
	version, err := postgres.ParseVersion(m.Cluster.Version)
	if err != nil {
		return "", err
	}
	return postgres.TablespaceDir(version, m.Cluster.CatalogVersion), nil
}

// layoutOf says what the target has to hold, from a remapped manifest. A link without
// a target, or the reverse, is refused: it would be made without the checks that
// targets go through.
func layoutOf(m *manifest.Manifest) (pgdata.Layout, error) {
	versionDir, err := tablespaceDir(m)
	if err != nil {
		return pgdata.Layout{}, err
	}
	l := pgdata.Layout{File: func(name string) (pgdata.TargetFile, bool) {
		f, ok := m.Files.Find(name)
		return targetFile(f), ok
	}, Files: func(yield func(pgdata.TargetFile) bool) {
		for f := range m.Files.All() {
			if !yield(targetFile(f)) {
				return
			}
		}
	}}
	for _, t := range m.Targets.All() {
		if t.Name == format.PGData {
			continue
		}
		link, dest := t.Name, t.Path
		root := pgdata.TargetRoot{Name: t.Name, Path: m.TargetDir(t), File: t.File}
		switch {
		case t.TablespaceID != 0:
			link, root.Version = format.PGData+"/"+t.Name, versionDir
		case t.File != "":
			dest = path.Join(t.Path, t.File)
		}
		k := m.Links.Find(link)
		if k == nil || path.Clean(k.Destination) != path.Clean(dest) {
			return l, errs.New(errs.Format, "manifest has no link '%s' to '%s' as its targets say", link, dest)
		}
		l.Roots = append(l.Roots, root)
	}
	if links := len(m.Links.All()); links != len(l.Roots) {
		return l, errs.New(errs.Format, "manifest has %d links but targets for %d", links, len(l.Roots))
	}

	users, groups := map[string]bool{}, map[string]bool{}
	for _, p := range m.Paths.All() {
		l.Dirs = append(l.Dirs, pgdata.TargetDir{
			Name: p.Name, User: p.User, Group: p.Group, Mode: fs.FileMode(p.Mode).Perm(),
		})
		users[p.User], groups[p.Group] = true, true
	}
	for _, k := range m.Links.All() {
		l.Links = append(l.Links, pgdata.TargetLink{
			Name: k.Name, Destination: k.Destination, User: k.User, Group: k.Group,
		})
		users[k.User], groups[k.Group] = true, true
	}
	for f := range m.Files.All() {
		if err := pgdata.CheckName(f.Name); err != nil {
			return l, err
		}
		users[f.User], groups[f.Group] = true, true
	}
	for u := range users {
		l.Users = append(l.Users, u)
	}
	for g := range groups {
		l.Groups = append(l.Groups, g)
	}
	return l, checkRoots(m)
}

func targetFile(f manifest.File) pgdata.TargetFile {
	return pgdata.TargetFile{
		Name: f.Name, User: f.User, Group: f.Group, Mode: fs.FileMode(f.Mode).Perm(),
		Size: f.Size, ModTime: time.Unix(f.Timestamp, 0), SHA1: [20]byte(f.Checksum),
	}
}

// checkRoots refuses destinations that overlap, after everything is mapped: cleaning
// or filling one would damage the other.
func checkRoots(m *manifest.Manifest) error {
	if err := m.CheckLinks(); err != nil {
		return err
	}
	data := path.Clean(m.Targets.Find(format.PGData).Path) + "/"
	for _, t := range m.Targets.All() {
		if t.Name == format.PGData || t.TablespaceID != 0 || t.File != "" {
			continue
		}
		// pgBackRest would clean it, and with it everything above PGDATA.
		if dir := m.TargetDir(t); strings.HasPrefix(data, strings.TrimSuffix(dir, "/")+"/") {
			return errs.New(errs.LinkDestination, "link '%s' destination '%s' contains PGDATA", manifest.PGPath(t.Name), dir)
		}
	}
	return nil
}
