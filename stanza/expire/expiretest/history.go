// Package expiretest makes random histories of a stanza: the files of a repository as years
// of backups, archiving, failovers, upgrades and accidents leave them, made in a moment. Only
// tests import it.
package expiretest

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Stanza is the name of the stanza.
const Stanza = "demo"

// Temporary ends the names of files that were still being written.
const Temporary = ".pgbackrest.tmp"

// File is one file of the repository, or a link if Target is not empty.
type File struct {
	Content []byte
	Target  string
	ModTime time.Time
}

// History is a repository and how it came to be.
type History struct {
	Files map[string]File // by their path in the repository

	Listed   []format.Label // in backup.info, oldest first
	Resumed  format.Label   // an unfinished backup, the newest directory; empty for none
	Segments []string       // all that were archived, in the order they were
}

// Options says what may have happened.
type Options struct {
	// Sound leaves out what cannot come of crashes: listed backups that have lost their
	// manifest, info files that do not match.
	Sound bool

	// Small makes a history of a few backups of one or two clusters.
	Small bool

	// Pass makes the repository an encrypted one: it is the passphrase of the info files. What is
	// stored then differs from one time to the next.
	Pass string
}

// pass gives the passphrase of what the info files and manifests describe.
func (o Options) pass(of string) string {
	if o.Pass == "" {
		return ""
	}
	return o.Pass + " of " + of
}

// Plain gives the content of a file as it is in a repository that is not encrypted. Files that
// nobody reads are not encrypted anyway.
func (o Options) Plain(name string, stored []byte) ([]byte, error) {
	if !bytes.HasPrefix(stored, []byte(cipher.Magic)) {
		return stored, nil
	}
	pass := o.pass("manifests")
	switch {
	case format.IsInfoPath(name):
		pass = o.Pass
	case path.Base(name) == "PG_VERSION":
		pass = o.pass("files")
	}
	return cipher.Open(cipher.NewPass(pass), stored)
}

// maker makes a History.
type maker struct {
	*rand.Rand
	Options
	History
	now time.Time

	archive *info.Archive
	backup  *info.Backup
	cluster format.Cluster
	id      format.ArchiveID

	at       time.Time
	timeline uint32
	next     uint64 // segment
	object   string // what the last segment is stored as
	last     *past  // backup of the cluster
	full     *past
}

// past is a backup that was made.
type past struct {
	m     *manifest.Manifest
	state state
}

// state is what is left of a backup.
type state int

const (
	listed   state = iota
	lost           // listed, without a manifest
	unlisted       // whole, but not listed
	orphan         // a directory without a manifest
	gone
)

// Random makes a history that ends at now, the same for the same rng and options.
func Random(rng *rand.Rand, now time.Time, o Options) *History {
	h := &maker{Rand: rng, Options: o, now: now}
	h.Files = map[string]File{}
	clusters, backups := 1+h.IntN(3), 4+h.IntN(10)
	h.at = now.Add(-time.Duration(24+h.IntN(400*24)) * time.Hour).Truncate(time.Second)
	if o.Small {
		clusters, backups = 1+h.IntN(2), 3+h.IntN(3)
	}
	// The backups share the time evenly, more or less.
	step := now.Sub(h.at) / time.Duration(clusters*(backups+1)+1)
	for n := range clusters {
		h.newCluster(n)
		for range backups {
			h.at = h.at.Add(step/4 + time.Duration(h.Int64N(int64(step)))).Truncate(time.Second)
			if h.at.After(now.Add(-2 * time.Minute)) {
				break
			}
			h.archiveSome()
			h.makeBackup()
		}
		h.archiveSome()
	}
	h.unfinished()
	h.leftovers()
	h.finish()
	return &h.History
}

// chance is true in so many of a hundred cases: never where there is no chance.
func (h *maker) chance(percent int) bool { return h.Rand != nil && h.IntN(100) < percent }

// number gives a number below n, 0 where there is no chance.
func (h *maker) number(n int) int {
	if h.Rand == nil {
		return 0
	}
	return h.IntN(n)
}

func (h *maker) put(name string, content []byte) {
	h.Files[name] = File{Content: content, ModTime: h.at}
}

// seal is put for what is encrypted with a passphrase, if that is not empty.
func (h *maker) seal(pass, name string, content []byte) {
	h.put(name, cipher.Seal(cipher.NewPass(pass), content))
}

// newCluster begins another cluster: an upgrade, or one that was made anew.
func (h *maker) newCluster(n int) {
	version, catalog := "15", uint32(202209061)
	if n == 0 && h.chance(50) {
		version, catalog = "14", 202107181
	}
	c := format.Cluster{ID: 1, SystemID: 7000000000000000000 + uint64(h.IntN(1e9)), Version: version, CatalogVersion: catalog, ControlVersion: 1300}
	archived := c
	if !h.Sound && h.chance(2) {
		archived.SystemID++
	}
	if h.backup == nil {
		h.archive, h.backup = info.NewArchive(archived, h.pass("WAL")), info.NewBackup(c, h.pass("manifests"))
	} else {
		h.archive.Upgrade(archived)
		c.ID = h.backup.Upgrade(c)
	}
	h.cluster, h.id = c, format.ArchiveID{Version: version, ID: c.ID}
	h.timeline, h.next, h.last, h.full = 1, uint64(1+h.IntN(600)), nil, nil
}

// segment names a segment of the timeline, as a cluster with segments of 16 MB does.
func (h *maker) segment(n uint64) string {
	return fmt.Sprintf("%08X%08X%08X", h.timeline, n>>8, n&0xff)
}

// store puts something about WAL into the archive.
func (h *maker) store(name string) {
	h.put(format.ArchivePath(Stanza, h.id, name), nil)
}

// push archives a segment.
func (h *maker) push(n uint64) {
	name := h.segment(n)
	file := format.SegmentFile(name, sha1.Sum([]byte(name)), []string{"", ".gz", ".lz4", ".zst"}[h.number(4)])
	h.store(file)
	h.object, h.Segments = format.ArchivePath(Stanza, h.id, file), append(h.Segments, name)
}

// archiveSome is the time between two backups.
func (h *maker) archiveSome() {
	for range h.IntN(4) {
		h.push(h.next)
		h.next++
	}
	switch {
	case h.chance(15):
		h.next += uint64(1 + h.IntN(3)) // lost
	case h.chance(25):
		h.next = (h.next | 0xff) + 1 // not looked at more closely
		if h.chance(30) {
			h.next += 256
		}
	}
	for range h.IntN(3) {
		h.push(h.next)
		h.next++
	}
	if h.chance(15) { // a standby was promoted
		name := h.segment(h.next) + ".partial"
		h.store(format.SegmentFile(name, sha1.Sum([]byte(name)), ".gz"))
		h.timeline += uint32(1 + h.IntN(2))
		h.store(fmt.Sprintf("%08X.history", h.timeline))
		h.push(h.next)
		h.next++
	}
}

// makeBackup makes a backup of any type, and decides what became of it.
func (h *maker) makeBackup() {
	kind := format.Full
	if h.full != nil && h.full.state <= unlisted && h.chance(70) {
		kind = []format.BackupType{format.Diff, format.Incr}[h.IntN(2)]
	}
	var prior *past
	switch kind {
	case format.Diff:
		prior = h.full
	case format.Incr:
		if prior = h.last; prior.state > unlisted {
			prior = h.full
		}
	}
	p := &past{m: h.manifest(kind, prior), state: h.fate(prior)}
	h.last = p
	if kind == format.Full {
		h.full = p
	}
	h.seal(h.pass("manifests"), format.HistoryPath(Stanza, p.m.Label), []byte("history"))
	if p.state == gone {
		return
	}
	text := h.text(p.m.Write)
	h.seal(p.m.CipherPass, format.FilePath(Stanza, p.m.Label, "pg_data/PG_VERSION", ""), content(p.m.Label))
	if p.state != lost && p.state != orphan {
		h.seal(h.pass("manifests"), format.ManifestPath(Stanza, p.m.Label), text)
		h.seal(h.pass("manifests"), format.ManifestPath(Stanza, p.m.Label)+format.CopySuffix, text)
	}
	if p.state == listed || p.state == lost {
		h.backup.Add(info.NewEntry(p.m))
	}
}

func content(label format.Label) []byte { return []byte(label) }

// fate decides what became of a backup. What it is based on goes after it.
func (h *maker) fate(prior *past) state {
	n := h.IntN(100)
	switch {
	case n < 4 && !h.Sound:
		return lost
	case n < 9 || prior != nil && prior.state == unlisted:
		return unlisted
	case n < 12:
		return orphan
	case n < 17:
		return gone
	}
	return listed
}

// manifest makes the manifest of a backup, and archives its WAL.
func (h *maker) manifest(kind format.BackupType, prior *past) *manifest.Manifest {
	yes, standby := true, h.chance(10)
	m := &manifest.Manifest{
		Program: "2.60.0", CipherPass: h.pass("files"), CopyStart: h.at.Unix() + 1, Start: h.at.Unix(), Stop: h.at.Add(time.Duration(1+h.number(60)) * time.Second).Unix(),
		Cluster: h.cluster,
		Options: manifest.Options{
			CompressType: "none", ChecksumPage: &yes, BackupStandby: &standby, Online: true, ArchiveCheck: true,
		},
	}
	if prior == nil {
		m.SetLabel(format.NewLabel(kind, "", h.at), nil)
	} else {
		m.SetLabel(format.NewLabel(kind, prior.m.Label, h.at), prior.m)
	}
	if h.chance(10) {
		m.Annotations = map[string]string{"note": "a \"test\"", "who": "me"}
	}
	if h.chance(5) {
		m.Options.Online, m.Options.ArchiveCheck = false, false
	} else {
		last := h.next + uint64(h.number(3))
		m.ArchiveStart, m.ArchiveStop = h.segment(h.next), h.segment(last)
		m.LSNStart, m.LSNStop = fmt.Sprintf("%X/%X", h.next>>8, h.next&0xff<<24|0x28), fmt.Sprintf("%X/%X", last>>8, last&0xff<<24|0x100)
		h.store(m.ArchiveStart + ".00000028.backup")
		for n := h.next; n <= last; n++ {
			h.push(n)
		}
		h.next = last + 1
	}
	m.Targets.Add(manifest.Target{Name: format.PGData, Path: "/pg"})
	attr := manifest.Attributes{Owner: manifest.Owner{User: "postgres", Group: "postgres"}, Mode: 0o700}
	m.Paths.Add(manifest.Path{Name: format.PGData, Attributes: attr})
	if err := m.SetDefaults(); err != nil {
		panic(err)
	}
	attr.Mode = 0o600
	b := content(m.Label)
	if err := m.Files.Add(manifest.File{
		Name: "pg_data/PG_VERSION", Attributes: attr, Size: int64(len(b)), RepoSize: int64(len(cipher.Seal(cipher.NewPass(m.CipherPass), b))), OriginalSize: int64(len(b)),
		Checksum: sha1.Sum(b), Timestamp: 5,
	}); err != nil {
		panic(err)
	}
	return m
}

// text gives what write writes.
func (h *maker) text(write func(io.Writer) error) []byte {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		panic(err) // of a buffer and of what is made here
	}
	return b.Bytes()
}

// unfinished makes, at times, the newest directory that of a backup under way.
func (h *maker) unfinished() {
	if h.full == nil || h.full.state > unlisted || !h.chance(30) {
		return
	}
	h.at = h.at.Add(time.Minute)
	kind, prior := format.Full, (*past)(nil)
	if h.chance(70) {
		kind, prior = format.Incr, h.last
		if prior.state > unlisted {
			prior = h.full
		}
	}
	m := h.manifest(kind, prior)
	h.Resumed = m.Label
	h.seal(h.pass("manifests"), format.ManifestPath(Stanza, m.Label)+format.CopySuffix, h.text(m.Write))
	h.seal(m.CipherPass, format.FilePath(Stanza, m.Label, "pg_data/PG_VERSION", ""), content(m.Label))
}

// leftovers makes what killed processes leave, and at times a directory of nobody.
func (h *maker) leftovers() {
	h.Files[h.object+".0123456789abcdef"+Temporary] = File{Content: []byte("half"), ModTime: h.now.Add(-2 * time.Hour)}
	for _, name := range slices.Sorted(maps.Keys(h.Files)) {
		age := time.Duration(5+h.IntN(115)) * time.Minute
		if age > 55*time.Minute && age < 65*time.Minute { // a test may take its time
			age = 2 * time.Hour
		}
		if h.chance(3) {
			h.Files[name+fmt.Sprintf(".%016x", h.Uint64())+Temporary] = File{Content: []byte("half"), ModTime: h.now.Add(-age)}
		}
	}
	if h.chance(10) {
		h.put(format.ArchiveIDDir(Stanza, format.ArchiveID{Version: "9.6", ID: 77})+"/0000000100000000/nothing", nil)
	}
}

// finish writes the info files.
func (h *maker) finish() {
	for _, e := range h.backup.Entries() {
		h.Listed = append(h.Listed, e.Label)
	}
	for name, write := range map[string]func(io.Writer, string) error{
		format.ArchiveInfoPath(Stanza): h.archive.Write, format.BackupInfoPath(Stanza): h.backup.Write,
	} {
		text := h.text(func(w io.Writer) error { return write(w, "2.60.0") })
		h.seal(h.Pass, name, text)
		h.seal(h.Pass, name+format.CopySuffix, text)
	}
	if n := len(h.Listed); n > 0 {
		h.Files[format.LatestPath(Stanza)] = File{Target: string(h.Listed[n-1]), ModTime: h.at}
	}
}
