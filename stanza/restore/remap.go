package restore

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// remap changes the manifest to where the operator wants things: the data directory,
// tablespaces, links.
func (r *run) remap(m *manifest.Manifest) error {
	base := m.Targets.Find(format.PGData)
	if base == nil {
		return errs.New(errs.Format, "manifest has no target '%s'", format.PGData)
	}
	if base.Path != r.cfg.PGPath {
		r.log.Info(fmt.Sprintf("remap data directory to '%s'", r.cfg.PGPath))
		base.Path = r.cfg.PGPath
	}
	if err := r.mapTablespaces(m); err != nil {
		return err
	}
	if err := r.mapLinks(m); err != nil {
		return err
	}
	if !r.cfg.LinkAll {
		r.dropLinks(m)
	}
	return nil
}

func (r *run) mapTablespaces(m *manifest.Manifest) error {
	used := map[string]bool{}
	targets := m.Targets.All()
	for i := range targets {
		t := &targets[i]
		if t.TablespaceID == 0 {
			continue
		}
		id := strconv.FormatUint(uint64(t.TablespaceID), 10)
		byName, named := r.cfg.TablespaceMap[t.TablespaceName]
		byID, numbered := r.cfg.TablespaceMap[id]
		used[t.TablespaceName] = used[t.TablespaceName] || named
		used[id] = used[id] || numbered

		var dest string
		switch {
		case named && numbered && byName != byID:
			return errs.New(errs.TablespaceMap,
				"tablespace remapped by name '%s' and id %s with different paths", t.TablespaceName, id)
		case named:
			dest = byName
		case numbered:
			dest = byID
		case r.cfg.TablespaceMapAll != "":
			// The name comes from the manifest. One that is no name of a directory would
			// put the tablespace somewhere else.
			if t.TablespaceName == "" || t.TablespaceName == "." || t.TablespaceName == ".." ||
				strings.ContainsAny(t.TablespaceName, "/\x00") {
				return errs.WithHint(errs.New(errs.TablespaceMap,
					"tablespace '%s' cannot be mapped by tablespace-map-all: its name is no name of a directory", t.TablespaceName),
					"use --tablespace-map=%s=PATH.", id)
			}
			dest = r.cfg.TablespaceMapAll + "/" + t.TablespaceName
		default:
			continue
		}
		r.log.Info(fmt.Sprintf("map tablespace '%s' to '%s'", t.Name, dest))
		t.Path = dest
		if k := m.Links.Find(format.PGData + "/" + t.Name); k != nil {
			k.Destination = dest
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.cfg.TablespaceMap)) {
		if !used[name] {
			return errs.New(errs.TablespaceMap, "unable to remap invalid tablespace '%s'", name)
		}
	}
	return nil
}

func (r *run) mapLinks(m *manifest.Manifest) error {
	for _, link := range slices.Sorted(maps.Keys(r.cfg.LinkMap)) {
		if err := r.mapLink(m, link, r.cfg.LinkMap[link]); err != nil {
			return err
		}
	}
	return nil
}

// mapLink points one link to dest. A file or directory that was no link becomes one.
func (r *run) mapLink(m *manifest.Manifest, link, dest string) error {
	name := format.PGData + "/" + link
	known := m.Targets.Find(name)
	created := known == nil
	target := manifest.Target{Name: name}
	_, isFile := m.Files.Find(name)
	isDir := m.Paths.Find(name) != nil

	switch {
	case !created:
		target = *known
		isFile = target.File != ""
	case isFile && isDir:
		return errs.New(errs.Format, "link '%s' may not be both file and path", link)
	case !isFile && !isDir:
		if slices.ContainsFunc(m.Targets.All(), func(t manifest.Target) bool {
			return t.TablespaceID != 0 && format.PGData+"/"+t.Name == name
		}) {
			return errs.WithHint(errs.New(errs.LinkMap, "unable to remap tablespace '%s'", link),
				"use 'tablespace-map' option to remap tablespaces.")
		}
		return errs.WithHint(errs.New(errs.LinkMap, "unable to map link '%s'", link),
			"Does the link reference a valid backup path or file?")
	}

	verb := "map "
	if created {
		verb = ""
	}
	r.log.Info(fmt.Sprintf("%slink '%s' to '%s'", verb, link, dest))

	target.Path = dest
	if isFile {
		dir, file := path.Split(dest)
		if dir == "" {
			return errs.New(errs.LinkMap, "'%s' is not long enough to be the destination for file link '%s'", dest, link)
		}
		target.Path, target.File = path.Clean(dir), file
	}
	if !created {
		*known = target
		if k := m.Links.Find(name); k != nil {
			k.Destination = dest
		}
		return nil
	}
	base := m.Paths.Find(format.PGData)
	if base == nil {
		return errs.New(errs.Format, "manifest has no path '%s'", format.PGData)
	}
	m.Links.Add(manifest.Link{Name: name, Destination: dest, Owner: base.Owner})
	m.Targets.Add(target)
	return nil
}

// dropLinks makes what is behind links that nobody asked for plain files and
// directories in the data directory.
func (r *run) dropLinks(m *manifest.Manifest) {
	for _, t := range slices.Clone(m.Targets.All()) {
		link, below := strings.CutPrefix(t.Name, format.PGData+"/")
		if !below || t.TablespaceID != 0 {
			continue
		}
		if _, mapped := r.cfg.LinkMap[link]; mapped {
			continue
		}
		if t.File != "" {
			r.log.Warn(fmt.Sprintf("file link '%s' will be restored as a file at the same location", link))
		} else {
			r.log.Warn(fmt.Sprintf("contents of directory link '%s' will be restored in a directory at the same location", link))
		}
		m.Links.Remove(t.Name)
		m.Targets.Remove(t.Name)
	}
}
