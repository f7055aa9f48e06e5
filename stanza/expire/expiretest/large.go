package expiretest

import (
	"crypto/sha1"
	"fmt"
	"time"

	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Large is how large a history of one cluster is, in which nothing ever went wrong.
type Large struct {
	Fulls     int  // full backups
	Diffs     int  // after each of them
	Incrs     int  // after each full and each differential backup
	Segments  int  // archived between two backups, beside the one that each needs
	Timelines int  // that the cluster was on, one after the other
	Thin      bool // what was archived between two backups is gone
	Files     int  // in the manifest of the last backup, of which none is stored; beside PG_VERSION
}

// Backups gives the number of backups.
func (l Large) Backups() int { return l.Fulls * (1 + l.Diffs) * (1 + l.Incrs) }

// Make makes the history, which ends an hour before now.
func (l Large) Make(now time.Time) *History {
	h := &maker{now: now}
	h.Files = map[string]File{}
	c := format.Cluster{ID: 1, SystemID: 7000000000000000001, Version: "15", CatalogVersion: 202209061, ControlVersion: 1300}
	h.archive, h.backup = info.NewArchive(c, ""), info.NewBackup(c, "")
	h.cluster, h.id = c, format.ArchiveID{Version: c.Version, ID: c.ID}
	h.timeline, h.next = 1, 1
	const step = time.Hour
	h.at = now.Add(-time.Duration(l.Backups()+1) * step).Truncate(time.Second)
	history := ""
	for made := range l.Backups() {
		kind, prior := format.Incr, h.last
		switch {
		case made%((1+l.Diffs)*(1+l.Incrs)) == 0:
			kind, prior = format.Full, nil
		case made%(1+l.Incrs) == 0:
			kind, prior = format.Diff, h.full
		}
		if each := l.Backups() / max(l.Timelines, 1); made > 0 && made%each == 0 && int(h.timeline) < l.Timelines {
			// The new one begins within the next segment.
			history += fmt.Sprintf("%d\t%X/%X\tno recovery target specified\n", h.timeline, h.next>>8, h.next&0xff<<24|0x100)
			h.timeline++
			h.put(format.ArchivePath(Stanza, h.id, fmt.Sprintf("%08X.history", h.timeline)), []byte(history))
		}
		files := 0
		if made == l.Backups()-1 {
			files = l.Files
		}
		h.large(kind, prior, files)
		for range l.Segments {
			if !l.Thin || made == l.Backups()-1 {
				h.push(h.next)
			}
			h.next++
		}
		h.at = h.at.Add(step)
	}
	h.finish()
	return &h.History
}

// large makes a backup that is whole and listed.
func (h *maker) large(kind format.BackupType, prior *past, files int) {
	p := &past{m: h.manifest(kind, prior)}
	addFiles(p.m, files)
	h.last = p
	if kind == format.Full {
		h.full = p
	}
	text := h.text(p.m.Write)
	for _, name := range []string{
		format.ManifestPath(Stanza, p.m.Label), format.ManifestPath(Stanza, p.m.Label) + format.CopySuffix, format.HistoryPath(Stanza, p.m.Label),
	} {
		h.put(name, text)
	}
	h.put(format.FilePath(Stanza, p.m.Label, "pg_data/PG_VERSION", ""), content(p.m.Label))
	h.backup.Add(info.NewEntry(p.m))
}

// addFiles adds files to a manifest, a thousand to a directory.
func addFiles(m *manifest.Manifest, files int) {
	const each = 1000
	attr := m.FileDefault
	attr.Mode = 0o700
	for _, name := range []string{"", "/base"} {
		if m.Paths.Find(format.PGData+name) == nil {
			m.Paths.Add(manifest.Path{Name: format.PGData + name, Attributes: attr})
		}
	}
	dir := ""
	for n := range files {
		if n%each == 0 {
			dir = fmt.Sprintf("%s/base/%d", format.PGData, 16384+n/each)
			m.Paths.Add(manifest.Path{Name: dir, Attributes: attr})
		}
		f := manifest.File{
			Name: fmt.Sprintf("%s/%d", dir, 1000000+n%each*7), Attributes: m.FileDefault,
			Size: int64(8192 * (n%each + 1)), RepoSize: int64(2000*(n%each) + 77), Timestamp: 1795225996 + int64(n%each),
			Pages: manifest.PagesValid,
		}
		f.Checksum = sha1.Sum([]byte(f.Name))
		f.RepoChecksum = sha1.Sum(f.Checksum[:])
		if err := m.Files.Add(f); err != nil {
			panic(err) // of what is made here
		}
	}
}
